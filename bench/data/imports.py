"""Users' own data: import once, load by name afterwards; verify what is on disk."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import polars as pl

from bench import assets
from bench.data.catalogue import CATALOGUE, Counts
from bench.data.domain import Domain
from bench.data.load import load_domain, not_found
from bench.data.prepare import prepare
from bench.data.raw import OnError, RawData
from bench.data.readers.amazon import read_amazon
from bench.data.readers.atomic import read_atomic
from bench.data.readers.movielens import read_movielens
from bench.data.readers.tabular import ColumnMapping, read_tabular
from bench.data.sources import (
    DOWNLOAD_FILE,
    IMPORT_FILE,
    check_name,
    domains_root,
    find_source,
    recorded_files,
)
from bench.errors import ConfigError
from bench.io import atomic_folder, lock, sha256_file, write_json, write_text
from bench.partial import discard

__all__ = ["import_domain", "remove_import", "verify"]


def import_domain(
    name: str,
    inter: Path,
    items: Path | None = None,
    mapping: ColumnMapping | Mapping[str, str] | None = None,
    *,
    k_core: int | None = None,
    namespace: str | None = None,
    group: str | None = None,
    encoding: str = "utf-8",
    on_error: OnError = "raise",
    replace: bool = False,
) -> Domain:
    """Import a data set under a name of its own; ``load_domain(name)`` finds it from then on.

    The events are stored unfiltered, in their order, as atomic files with a JSON file of options
    and checksums; the k-core filter and the tie rule apply when the domain is loaded.

    Args:
        name: new name; not one of the catalogue's.
        inter: a table (``.csv``, ``.tsv``, ``.txt``, ``.parquet``), an atomic file (``.inter``),
            Amazon reviews (``.json``; all but Parquet also ``.gz``), or a MovieLens folder or ``.zip``.
        items: item table of the same kind (``.item``, or Amazon metadata); None: no titles. Not for
            MovieLens, which brings its own.
        mapping: which column holds what; for tables only.
        k_core: fewest events per user and per item; None keeps all.
        namespace: id space shared with other domains (for the leak guard), or None.
        group: study group, or None.
        encoding: text encoding of CSV and TSV.
        on_error: ``raise``, or ``skip`` and count malformed lines.
        replace: whether an earlier import of that name is replaced.

    Returns:
        The prepared domain, as ``load_domain`` gives it.

    Raises:
        ConfigError: the name is taken or not allowed, or the mapping is wrong.
        DataError: malformed files, or nothing left after the k-core filter.
    """
    check_name(name)
    folder = domains_root() / name
    if name in CATALOGUE:
        raise ConfigError(f"{name!r} is a catalogue name; import the data under another name.")
    if folder.exists() and not replace:
        raise ConfigError(
            f"domain {name!r} exists in {folder}; choose another name, or replace it with --replace."
        )
    raw = _read(Path(inter), items, mapping, encoding, on_error)
    prepare(  # only its errors matter here: nothing is stored that cannot be loaded
        raw,
        name=name,
        k_core=k_core,
        on_missing_item="placeholder" if on_error == "skip" else "raise",
    )
    with lock(folder), atomic_folder(folder, replace=replace) as partial:
        _store(raw, partial, name)
        write_json(
            partial / IMPORT_FILE,
            {
                "name": name,
                "options": {"k_core": k_core, "namespace": namespace, "group": group},
                "sources": [{"name": f.name, "sha256": sha256_file(f)} for f in raw.files],
                "lines_skipped": dict(raw.skipped),
                "imported": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
                "files": {file.name: sha256_file(file) for file in sorted(partial.iterdir())},
            },
        )
    return load_domain(name, data_root=domains_root())


def _read(
    inter: Path,
    items: Path | None,
    mapping: ColumnMapping | Mapping[str, str] | None,
    encoding: str,
    on_error: OnError,
) -> RawData:
    suffix = Path(inter.name.removesuffix(".gz")).suffix
    fixed = inter.is_dir() or suffix in (".zip", ".inter", ".json")
    if fixed and mapping is not None:
        raise ConfigError(
            f"{inter}: the columns of this format are known; leave the mapping (--column) out."
        )
    if suffix == ".inter":
        return read_atomic(inter, items, on_error=on_error)
    if suffix == ".json":
        return read_amazon(inter, items, on_error=on_error)
    if fixed:
        if items is not None:
            raise ConfigError(f"{inter}: MovieLens brings its titles; leave the item table out.")
        return read_movielens(inter, on_error=on_error)
    if mapping is not None and not isinstance(mapping, ColumnMapping):
        mapping = ColumnMapping.from_pairs(mapping)
    return read_tabular(inter, items, mapping=mapping, encoding=encoding, on_error=on_error)


def _store(raw: RawData, folder: Path, name: str) -> None:
    """Write both tables as atomic files; every item of the events gets a row."""
    times = [repr(time) for time in raw.events["time"].to_list()]
    lines = raw.events.select(
        pl.concat_str("user", "item", pl.Series("time", times, dtype=pl.String), separator="\t")
    ).to_series()
    header = "user_id:token\titem_id:token\ttimestamp:float"
    write_text(folder / f"{name}.inter", "\n".join([header, *lines.to_list(), ""]))
    if raw.items is None:
        return
    table = raw.items
    absent = raw.events.select("item").unique().join(table, on="item", how="anti").sort("item")
    table = pl.concat([table, absent], how="diagonal")
    texts = [column for column in table.columns if column != "item"]
    # Tabs and line ends inside texts would break the format; entities are decoded when loading.
    table = table.with_columns(
        pl.col(column).fill_null("").str.replace_all(r"[\s\x00-\x1f\x7f]+", " ") for column in texts
    )
    kinds = {"title": "token_seq", "brand": "token", "category": "token_seq"}
    header = "\t".join(["item_id:token", *(f"{column}:{kinds[column]}" for column in texts)])
    rows = table.select(pl.concat_str("item", *texts, separator="\t")).to_series().to_list()
    write_text(folder / f"{name}.item", "\n".join([header, *rows, ""]))


def remove_import(name: str) -> Path:
    """Remove an imported domain from ``cache_root()/domains``; its source files are not touched.

    Raises:
        ConfigError: no imported domain of that name.
    """
    check_name(name)
    folder = domains_root() / name
    if not (folder / IMPORT_FILE).is_file():
        raise ConfigError(f"no imported domain {name!r} in {domains_root()}.")
    with lock(folder):
        discard(folder)
    return folder


def verify(name: str, *, data_root: Path | None = None) -> list[str]:
    """Check a domain on disk: recorded checksums, then counts against the catalogue.

    Args:
        name: name of the domain.
        data_root: as in ``load_domain``.

    Returns:
        One line per problem; empty: everything is as recorded and as expected.

    Raises:
        ConfigError, DataError: the domain is unknown, absent or malformed.
    """
    source = find_source(name, data_root)
    if source is None:
        raise not_found([name], data_root=data_root)
    known = CATALOGUE.get(name)
    folder = source.files[0].parent
    if known is not None and known.kind == "embedded" and folder == assets.location("ml-100k"):
        problems = assets.verify("ml-100k")
    else:
        problems = _checksums(folder)
    if problems:
        return problems
    domain = load_domain(name, data_root=data_root)
    found = Counts(domain.n_users, domain.n_items, domain.n_events)
    if known is not None and known.expected is not None and found != known.expected:
        difference = ", ".join(
            f"{field}: {value} instead of {asdict(known.expected)[field]}"
            for field, value in asdict(found).items()
            if value != asdict(known.expected)[field]
        )
        problems.append(f"{name}: counts differ from the catalogue ({difference})")
    return problems


def _checksums(folder: Path) -> list[str]:
    problems = []
    for manifest in (folder / IMPORT_FILE, folder / DOWNLOAD_FILE):
        if not manifest.is_file():
            continue
        for file, digest in recorded_files(manifest).items():
            if not (folder / file).is_file():
                problems.append(f"{folder / file}: missing")
            elif sha256_file(folder / file) != digest:
                problems.append(f"{folder / file}: content differs from the recorded SHA-256")
    return problems
