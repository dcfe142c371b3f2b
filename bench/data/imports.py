"""Users' own data: import once, load by name afterwards; verify what is on disk."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import polars as pl

from bench import assets
from bench.data.cache import forget
from bench.data.catalogue import CATALOGUE, Counts
from bench.data.domain import Domain
from bench.data.load import load_domain, not_found
from bench.data.losses import losses
from bench.data.prepare import prepare
from bench.data.raw import OnError, RawData, short_names
from bench.data.readers.columns import ColumnMapping
from bench.data.readers.delimited import Quotes
from bench.data.reading import Reading, Repeats, read_files
from bench.data.sources import (
    DOWNLOAD_FILE,
    IMPORT_FILE,
    check_name,
    domains_root,
    find_source,
    read_record,
    recorded_files,
)
from bench.errors import ConfigError, did_you_mean
from bench.io import atomic_folder, lock, sha256_file, write_json, write_text
from bench.partial import discard
from bench.stamp import utc_now

__all__ = ["import_domain", "import_record", "imported_names", "remove_import", "verify"]


def import_domain(
    name: str,
    inter: Path | Sequence[Path],
    items: Path | None = None,
    mapping: ColumnMapping | Mapping[str, str] | None = None,
    *,
    k_core: int | None = None,
    namespace: str | None = None,
    group: str | None = None,
    separator: str | None = None,
    quotes: Quotes | None = None,
    header: bool | None = None,
    encoding: str | None = None,
    time_format: str | None = None,
    where: Sequence[str] = (),
    sequences: bool = False,
    repeats: Repeats = "first",
    on_error: OnError = "raise",
    reader: str | None = None,
    replace: bool = False,
) -> Domain:
    """Import a data set under a name of its own; ``load_domain(name)`` finds it from then on.

    The events are stored unfiltered, in their order, as atomic files with a JSON file of options
    and checksums; the k-core filter and the tie rule apply when the domain is loaded.

    Args:
        name: new name; not one of the catalogue's.
        inter: one or several tables, files of JSON lines, atomic or Parquet files (see
            :func:`~bench.data.readers.tabular.read_tabular`), or a MovieLens folder or ``.zip``.
        items: item table of any of these kinds; None: no titles. Not for MovieLens, which brings
            its own.
        mapping: which column (or key) holds what.
        k_core: fewest events per user and per item; None keeps all.
        namespace: id space shared with other domains (for the leak guard), or None.
        group: study group, or None.
        separator: what separates fields of text (this and the next: see
            :class:`~bench.data.reading.Reading`).
        quotes: ``csv`` or ``none``.
        header: whether line 1 of the interactions holds names.
        encoding: text encoding.
        time_format: strftime directives of times.
        where: conditions that an interaction must meet.
        sequences: whether each line is a user followed by all their items.
        repeats: ``first`` event of each user and item, or ``keep`` all: refused if there are any.
        on_error: ``raise``, or ``skip`` and count malformed lines.
        reader: name in :data:`bench.data.readers.READERS`, None: found from the files.
        replace: whether an earlier import of that name is replaced.

    Returns:
        The prepared domain, as ``load_domain`` gives it. What was decided and lost on the way
        stands in :func:`import_record`.

    Raises:
        ConfigError: the name is taken or not allowed (``all`` and ``none`` are words of ``--sources``),
            or an option is wrong.
        DataError: malformed files, or nothing left after the k-core filter.
    """
    check_name(name)
    folder = domains_root() / name
    if name in CATALOGUE:
        raise ConfigError(f"{name!r} is a catalogue name; import the data under another name.")
    if name in ("all", "none"):
        raise ConfigError(
            f"{name!r} is a word of --sources, not a name; import the data under another name."
        )
    if folder.exists() and not replace:
        raise ConfigError(
            f"domain {name!r} exists in {folder}; choose another name, or replace it with --replace."
        )
    reading = Reading(
        separator,
        quotes,
        header,
        encoding,
        time_format,
        tuple(where),
        sequences,
        repeats,
        on_error,
        reader,
    )
    files = [Path(inter)] if isinstance(inter, str | Path) else [Path(file) for file in inter]
    raw = read_files(name, files, items, mapping, reading)
    made = prepare(  # nothing is stored that cannot be loaded
        raw,
        name=name,
        k_core=k_core,
        on_missing_item="placeholder" if on_error == "skip" else "raise",
    )
    names = short_names([str(file) for file in raw.files])
    with lock(folder), atomic_folder(folder, replace=replace) as partial:
        _store(raw, partial, name)
        write_json(
            partial / IMPORT_FILE,
            {
                "name": name,
                "options": {"k_core": k_core, "namespace": namespace, "group": group},
                "sources": [
                    {"name": short, "sha256": sha256_file(file)}
                    for short, file in zip(names, raw.files, strict=True)
                ],
                "reading": asdict(reading),
                "lines_skipped": dict(raw.skipped),
                "items_without_row": made.provenance["counts"]["items_without_row"],
                "left_out": raw.left_out,
                "counts": {"users": made.n_users, "items": made.n_items, "events": made.n_events},
                "notes": [*raw.notes, *losses(raw, made)],
                "imported": utc_now(),
                "files": {file.name: sha256_file(file) for file in sorted(partial.iterdir())},
            },
        )
    return load_domain(name, data_root=domains_root())


def import_record(name: str) -> dict[str, Any]:
    """What an import wrote down: options, sources, counts, lines skipped, and notes.

    Raises:
        ConfigError: no imported domain of that name.
        DataError: the record is damaged.
    """
    return read_record(_imported(name))


def _imported(name: str) -> Path:
    check_name(name)
    folder = domains_root() / name
    if not (folder / IMPORT_FILE).is_file():
        there = f" ({folder} holds other files)" if folder.exists() else ""
        near = did_you_mean(name, imported_names())
        raise ConfigError(
            f"no imported domain {name!r} in {domains_root()}{there}.{near} They are listed by: "
            "bench data list"
        )
    return folder


def imported_names() -> tuple[str, ...]:
    """Names of all imported domains, sorted."""
    root = domains_root()
    if not root.is_dir():
        return ()
    return tuple(sorted(f.name for f in root.iterdir() if (f / IMPORT_FILE).is_file()))


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
    """Remove an imported domain and what was prepared of it; its source files are not touched.

    Raises:
        ConfigError: no imported domain of that name.
    """
    folder = _imported(name)
    with lock(folder):
        discard(folder)
    forget(name)
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
