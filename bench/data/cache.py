"""Prepared domains on disk: memory-mapped ``.npy`` arrays and one JSON file per domain.

A folder is named by a hash of the source files' *content* and of all options. Content hashes of
source files are remembered by size, times and inode, so that big files are not read again to find
the folder. A folder that is not as it was written is refused, see :mod:`bench.sealed`.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain, Items, Sequences
from bench.data.strings import StringColumn
from bench.errors import ResultError
from bench.io import (
    atomic_folder,
    cache_root,
    hash_json,
    lock,
    read_json,
    require_free_space,
    sha256_file,
    write_json,
)
from bench.partial import discard
from bench.sealed import intact, seal

__all__ = ["cached", "content_sha256", "forget", "load_folder", "save_folder"]

_FORMAT = 1
_RECENT_SECONDS = 2.0


def _root() -> Path:
    return cache_root() / "domains-cache"


def content_sha256(path: Path) -> str:
    """SHA-256 of a file, from memory if size, times and inode are those of the last reading.

    A file changed less than two seconds ago is not remembered: a further change could carry the
    same times.
    """
    status = path.stat()
    stamp = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino]
    absolute = str(path.resolve())
    record = _root() / "hashes" / f"{hash_json(absolute)[:32]}.json"
    try:
        known = read_json(record)
        if known["path"] == absolute and known["stamp"] == stamp:
            return str(known["sha256"])
    except (ResultError, KeyError, TypeError):
        pass
    digest = sha256_file(path)
    newest = max(status.st_mtime, status.st_ctime)
    if time.time() - newest > _RECENT_SECONDS:
        write_json(record, {"path": absolute, "stamp": stamp, "sha256": digest})
    return digest


def cached(name: str, key: Mapping[str, Any], build: Callable[[], Domain]) -> Domain:
    """Return the cached domain of ``key``, building and storing it first if needed.

    Args:
        name: name of the domain (part of the folder's name, for people).
        key: JSON value that decides the content: file hashes and options.
        build: makes the domain; called at most once, under a lock between processes.

    Raises:
        ResultError: the stored folder is damaged.
    """
    folder = _root() / f"{name}-{hash_json({'format': _FORMAT, **key})[:24]}"
    found = _try_load(folder)
    if found is not None:
        return found
    with lock(folder):
        found = _try_load(folder)
        if found is not None:
            return found
        domain = build()
        save_folder(domain, folder)
    return load_folder(folder)


def forget(name: str) -> None:
    """Remove all that was prepared of a domain; processes that have it mapped keep it."""
    for folder in sorted(_root().glob(f"{name}-*")):
        if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{24}}", folder.name):
            with lock(folder):
                discard(folder)


def _try_load(folder: Path) -> Domain | None:
    # Folders of earlier versions hold no checksums; they are prepared again.
    return load_folder(folder) if intact(folder) else None


def save_folder(domain: Domain, folder: Path) -> None:
    """Write a domain, whole or not at all; an existing folder is replaced."""
    arrays: dict[str, NDArray[Any]] = {
        "offsets": domain.sequences.offsets,
        "items": domain.sequences.items,
        "timestamps": domain.timestamps,
    }
    columns = {"user_ids": domain.user_ids, "item_ids": domain.items.ids}
    columns["titles"] = domain.items.titles
    columns |= {f"extra_{name}": column for name, column in domain.items.extra.items()}
    for name, column in columns.items():
        arrays[name] = column.data
        arrays[f"{name}_offsets"] = column.offsets
    require_free_space(folder.parent, int(sum(a.nbytes for a in arrays.values()) * 1.1))
    with atomic_folder(folder, replace=True) as partial:
        for name, array in arrays.items():
            np.save(partial / f"{name}.npy", array, allow_pickle=False)
        write_json(
            partial / "domain.json",
            {
                "format": _FORMAT,
                "name": domain.name,
                "namespace": domain.namespace,
                "group": domain.group,
                "extra": list(domain.items.extra),
                "n_placeholders": domain.items.n_placeholders,
                "lengths": {name: len(array) for name, array in arrays.items()},
                "provenance": domain.provenance,
            },
        )
        seal(partial)


def load_folder(folder: Path) -> Domain:
    """Load a stored domain whose seal was compared; arrays are memory-mapped and read-only."""
    meta = read_json(folder / "domain.json")
    lengths = meta["lengths"]

    def array(name: str) -> NDArray[Any]:
        # mmap cannot map zero bytes; an empty array is simply read.
        path = folder / f"{name}.npy"
        loaded: NDArray[Any] = np.load(
            path, mmap_mode="r" if lengths[name] else None, allow_pickle=False
        )
        return loaded.view(np.ndarray)

    def strings(name: str) -> StringColumn:
        return StringColumn(array(f"{name}_offsets"), array(name))

    return Domain(
        name=meta["name"],
        items=Items(
            ids=strings("item_ids"),
            titles=strings("titles"),
            extra={name: strings(f"extra_{name}") for name in meta["extra"]},
            n_placeholders=meta["n_placeholders"],
        ),
        user_ids=strings("user_ids"),
        sequences=Sequences(array("offsets"), array("items")),
        timestamps=array("timestamps"),
        namespace=meta["namespace"],
        group=meta["group"],
        provenance=meta["provenance"],
    )
