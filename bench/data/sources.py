"""Where a domain's files are, and which reader understands them.

Places are searched in order; the first that holds the domain is used:

1. ``data_root`` (argument, else the environment variable ``BENCH_DATA_ROOT``): ``ROOT/NAME/``;
2. ``cache_root()/domains/NAME/``: what ``bench data import`` and ``bench data download`` wrote;
3. the asset ``ml-100k``, for the embedded domains.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import polars as pl

from bench import assets
from bench.data.catalogue import CATALOGUE, CatalogueEntry
from bench.data.raw import OnError, RawData
from bench.data.readers import amazon, movielens
from bench.data.readers.atomic import find_atomic, read_atomic
from bench.errors import ConfigError, DataError, ResultError
from bench.io import cache_root, read_json
from bench.names import DOMAIN_NAME
from bench.partial import replaced_name, settled

__all__ = [
    "DOWNLOAD_FILE",
    "IMPORT_FILE",
    "Source",
    "check_name",
    "data_root_or_env",
    "domains_root",
    "find_source",
    "read_record",
    "recorded_files",
    "stored_names",
]

IMPORT_FILE, DOWNLOAD_FILE = "import.json", "download.json"


@dataclass(frozen=True)
class Source:
    """A domain's files and how to read them.

    Attributes:
        name: name of the domain.
        reader: name of the reader, part of the cache key.
        files: all files that decide the content.
        read: reads them.
        k_core, namespace, group: options of the catalogue or of the import.
        selection: further options that decide the content (JSON), part of the cache key.
        notes: what an import recorded; goes to ``Domain.provenance["import"]``.
    """

    name: str
    reader: str
    files: tuple[Path, ...]
    read: Callable[[OnError], RawData]
    k_core: int | None = None
    namespace: str | None = None
    group: str | None = None
    selection: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, Any] = field(default_factory=dict)


def domains_root() -> Path:
    """Folder of imported and downloaded domains."""
    return cache_root() / "domains"


def check_name(name: str) -> None:
    """Reject a name that could not be a folder name on every system.

    Raises:
        ConfigError: letters, digits, ``.``, ``_`` and ``-`` only, at most 64, no leading sign.
    """
    if not DOMAIN_NAME.fullmatch(name):
        raise ConfigError(
            f"domain name {name!r}: expected 1 to 64 letters, digits, '.', '_' or '-', the first a "
            "letter or digit. Choose another name."
        )


def data_root_or_env(data_root: Path | None) -> Path | None:
    """Return the folder of ready domains: the argument, else ``BENCH_DATA_ROOT``, else None.

    Raises:
        ConfigError: the folder does not exist.
    """
    configured = os.environ.get("BENCH_DATA_ROOT")
    if data_root is None and not configured:
        return None
    root = data_root if data_root is not None else Path(str(configured))
    if not root.is_dir():
        origin = "--data-root" if data_root is not None else "BENCH_DATA_ROOT"
        raise ConfigError(f"{origin} is {str(root)!r}, which is no folder; correct the path.")
    return root


def stored_names(data_root: Path | None = None) -> tuple[str, ...]:
    """Names of all domains on disk under the data root and the domains folder, sorted."""
    found: set[str] = set()
    for root in (data_root_or_env(data_root), domains_root()):
        if root is None or not root.is_dir():
            continue
        for folder in root.iterdir():
            name = replaced_name(folder.name) or folder.name
            if folder.is_dir() and DOMAIN_NAME.fullmatch(name) and _probe(name, folder):
                found.add(name)
    return tuple(sorted(found))


def recorded_files(record: Path) -> dict[str, str]:
    """SHA-256 by name of the files beside the record of an import, a download or an asset.

    Raises:
        ResultError: the record is damaged.
    """
    try:
        files: dict[str, Any] = read_json(record)["files"]
        return {
            name: value["sha256"] if isinstance(value, dict) else str(value)
            for name, value in files.items()
        }
    except (KeyError, TypeError, AttributeError) as error:
        raise ResultError(
            f"{record}: damaged ({error}); import or download the domain again."
        ) from error


def find_source(name: str, data_root: Path | None = None) -> Source | None:
    """Return the source of domain ``name``, or None when it is nowhere.

    Raises:
        ConfigError: a name that no domain can have, or a data root that is no folder.
    """
    check_name(name)
    for root in (data_root_or_env(data_root), domains_root()):
        if root is not None and (folder := settled(root / name)).is_dir():
            found = _probe(name, folder)
            if found is not None:
                return found
    known = CATALOGUE.get(name)
    if known is not None and known.kind == "embedded" and assets.is_present("ml-100k"):
        return _embedded(known, assets.location("ml-100k"))
    return None


def _probe(name: str, folder: Path) -> Source | None:
    known = CATALOGUE.get(name)
    inter = find_atomic(folder, name, "inter")
    if inter is not None:
        return _atomic(name, inter, find_atomic(folder, name, "item"), known, folder)
    if known is None:
        return None
    if known.kind == "amazon-2014":
        reviews, meta = (folder / file.name for file in known.files)
        if reviews.is_file():
            return _official(known, *_amazon(reviews, meta))
    elif known.kind == "movielens":
        place = movielens.find_movielens(folder, name)
        if place is not None:
            return _official(known, *_movielens(place))
    return None


def _official(
    known: CatalogueEntry, files: tuple[Path, ...], read: Callable[[OnError], RawData]
) -> Source:
    options = (known.k_core, known.namespace, known.group)
    return Source(known.name, known.kind, files, read, *options)


_FilesAndReader = tuple[tuple[Path, ...], Callable[[OnError], RawData]]


def _amazon(reviews: Path, meta: Path) -> _FilesAndReader:
    titles = meta if meta.is_file() else None

    def read(on_error: OnError) -> RawData:
        return amazon.read_amazon(reviews, titles, on_error=on_error)

    return (reviews,) if titles is None else (reviews, titles), read


def _movielens(place: Path) -> _FilesAndReader:
    def read(on_error: OnError) -> RawData:
        return movielens.read_movielens(place, on_error=on_error)

    return movielens.source_files(place), read


def _atomic(
    name: str, inter: Path, item: Path | None, known: CatalogueEntry | None, folder: Path
) -> Source:
    def read(on_error: OnError) -> RawData:
        raw = read_atomic(inter, item, on_error=on_error)
        return replace(
            raw,
            # What an import skipped is gone from the files that it wrote.
            skipped={**raw.skipped, **notes.get("lines_skipped", {})},
            items_without_row=notes.get("items_without_row", 0),
        )

    notes: dict[str, Any] = {}
    files = (inter,) if item is None else (inter, item)
    if (folder / IMPORT_FILE).is_file():
        record = read_record(folder)
        options = record["options"]
        chosen = (options["k_core"], options["namespace"], options["group"])
        notes |= {"imported_from": record["sources"], "lines_skipped": record["lines_skipped"]}
        if "items_without_row" in record:
            notes["items_without_row"] = record["items_without_row"]
        return Source(name, "atomic", files, read, *chosen, notes=notes)
    if known is None:
        return Source(name, "atomic", files, read)
    return Source(name, "atomic", files, read, known.k_core, known.namespace, known.group)


def read_record(folder: Path) -> dict[str, Any]:
    """What `bench data import` wrote down beside the files of a domain.

    Raises:
        DataError: the record is damaged.
    """
    file = folder / IMPORT_FILE
    try:
        record: dict[str, Any] = read_json(file)
        for option in ("k_core", "namespace", "group"):
            record["options"][option]
        [source["name"] for source in record["sources"]]
        dict(record["lines_skipped"])
    except (ResultError, KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{file}: damaged ({error}); expected what `bench data import` wrote. "
            f"Import {folder.name} again."
        ) from error
    return record


def _embedded(known: CatalogueEntry, folder: Path) -> Source:
    inter, item = folder / "ml-100k.inter", folder / "ml-100k.item"

    def read(on_error: OnError) -> RawData:
        raw = read_atomic(inter, item, on_error=on_error)
        assert raw.items is not None  # noqa: S101 - the reader got an item file
        first = pl.col("category").str.split(" ").list.first()
        items = raw.items.filter(first == known.genre)
        events = raw.events.join(items.select("item"), on="item", how="semi", maintain_order="left")
        return RawData(events, items, raw.files, raw.skipped, raw.complete_items)

    return Source(
        known.name,
        "atomic",
        (inter, item),
        read,
        known.k_core,
        known.namespace,
        known.group,
        {"first_listed_genre": known.genre},
    )
