"""Leaf utilities for files: atomic writes, locks, content hashes, standard folders.

Nothing here knows about domains, methods or runs. Every writer either leaves a complete file (or
folder) behind or leaves nothing: data go to a temporary sibling that is renamed at the end.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
from filelock import FileLock

from bench.documents import DocumentError, parse_json
from bench.errors import BenchError, ResultError
from bench.partial import atomic_file, partial_folder, replace_folder
from bench.waiting import acquire

__all__ = [
    "StrPath",
    "atomic_folder",
    "cache_root",
    "canonical_json",
    "hash_arrays",
    "hash_json",
    "lock",
    "read_json",
    "require_free_space",
    "sha256_file",
    "store_root",
    "write_bytes",
    "write_json",
    "write_text",
]

StrPath = str | Path
"""How callers may name a file or a folder."""


def cache_root() -> Path:
    """Folder for assets, domain caches and adapters: ``BENCH_CACHE`` or the user cache folder."""
    configured = os.environ.get("BENCH_CACHE")
    return Path(configured) if configured else Path(platformdirs.user_cache_dir("weavebench"))


def store_root() -> Path:
    """Folder of stored runs: ``BENCH_STORE`` or ``./bench-runs``."""
    return Path(os.environ.get("BENCH_STORE") or "bench-runs")


def write_bytes(path: Path, data: bytes | memoryview) -> None:
    """Write ``data`` to ``path`` atomically and durably (temporary sibling, fsync, rename)."""
    with atomic_file(path) as stream:
        stream.write(data)


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text with LF line ends atomically."""
    write_bytes(path, text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write JSON with sorted keys, two blanks of indent and a final newline, atomically."""
    write_text(
        path,
        json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n",
    )


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ResultError: the file is absent, cannot be read or is not JSON; the message names it.
    """
    try:
        return parse_json(path.read_bytes())
    except FileNotFoundError as error:
        raise ResultError(f"{path}: no such file.") from error
    except OSError as error:
        raise ResultError(f"{path}: cannot be read ({error.strerror}).") from error
    except DocumentError as error:
        raise ResultError(
            f"{path}: not valid JSON ({error}). Delete it and run the command that wrote it again."
        ) from error


@contextmanager
def atomic_folder(path: Path, *, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary sibling folder that becomes ``path`` when the block ends without error.

    Args:
        path: the final folder.
        replace: whether an existing folder is replaced; otherwise it is an error. The older folder
            stays until the new one is complete, see :func:`bench.partial.replace_folder`.

    Raises:
        ResultError: ``path`` exists and ``replace`` is false.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with partial_folder(path.parent) as partial:
        yield partial
        if path.exists() and not replace:
            raise ResultError(f"{path} already exists; remove it first or ask to replace it.")
        replace_folder(partial, path)


@contextmanager
def lock(path: Path, *, timeout: float | None = None, what: str = "") -> Iterator[None]:
    """Hold an inter-process lock on ``path`` (a ``.lock`` sibling); released when a process dies.

    If ``path`` does not exist at the end, its lock file goes too. It is removed while it is held,
    and whoever waited for it finds that the file has no name any more and begins again.

    Args:
        path: what is locked.
        timeout: seconds to wait for another process, None = what :func:`bench.waiting.patience` says.
        what: what ``path`` is, for people; its path by default.

    Raises:
        InUseError: another process holds it for longer.
    """
    target = path.with_name(path.name + ".lock")
    target.parent.mkdir(parents=True, exist_ok=True)
    guard = FileLock(target)
    acquire(guard, what or str(path), timeout)
    try:
        yield
    finally:
        if not path.exists():
            with suppress(OSError):  # some systems refuse to remove an open file
                target.unlink()
        guard.release()


def require_free_space(folder: Path, n_bytes: int) -> None:
    """Fail before long work when the disk of ``folder`` has fewer than ``n_bytes`` free.

    Raises:
        BenchError: too little space; the message gives both numbers.
    """
    existing = folder
    while not existing.exists() and existing != existing.parent:
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < n_bytes:
        raise BenchError(
            f"{folder}: {free / 1e6:.0f} MB free, about {n_bytes / 1e6:.0f} MB needed. "
            "Free some space or choose another folder (BENCH_STORE, BENCH_CACHE)."
        )


def canonical_json(value: Any) -> bytes:
    """Encode a JSON value in one canonical byte form: sorted keys, no blanks, UTF-8, no NaN."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def hash_json(value: Any) -> str:
    """SHA-256 (64 hex digits) of :func:`canonical_json`."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def hash_arrays(arrays: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (64 hex digits) of named arrays: name, dtype, shape and little-endian content.

    The digest depends on content only, not on memory layout, file format or library version.
    """
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        little = array.astype(array.dtype.newbyteorder("<"), copy=False)
        digest.update(canonical_json([name, little.dtype.str, list(array.shape)]))
        digest.update(b"\n")
        digest.update(little.tobytes())
    return digest.hexdigest()


def sha256_file(path: Path) -> str:
    """SHA-256 (64 hex digits) of a file's bytes, read in 1 MiB blocks."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
