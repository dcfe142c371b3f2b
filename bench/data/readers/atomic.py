"""RecBole atomic files: ``NAME.inter`` and ``NAME.item``, tab-separated, typed header, no quoting.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html. Differences from RecBole's own
loader: fields are split at tabs only (titles may hold quotation marks), times are read as float64
(RecBole's float32 merges Unix times that lie less than 64 to 128 seconds apart).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import polars as pl

from bench.data.raw import (
    EVENT_SCHEMA,
    LineErrors,
    OnError,
    RawData,
    check_on_error,
    require_events,
)
from bench.data.readers.lines import (
    Lines,
    iter_lines,
    numeric_time,
    open_source,
    read_header,
    split_fields,
)
from bench.errors import DataError

__all__ = ["find_atomic", "read_atomic", "read_item_file"]

_TYPES = ("token", "token_seq", "float", "float_seq")
_ITEM_COLUMNS = {
    "title": ("title", "movie_title", "name"),
    "brand": ("brand",),
    "category": ("category", "categories", "class", "genre", "genres"),
}


def find_atomic(folder: Path, name: str, suffix: str) -> Path | None:
    """Return ``folder/name.suffix`` or its ``.gz`` form, the plain one first; None if absent."""
    for candidate in (folder / f"{name}.{suffix}", folder / f"{name}.{suffix}.gz"):
        if candidate.is_file():
            return candidate
    return None


def read_atomic(inter: Path, item: Path | None = None, *, on_error: OnError = "raise") -> RawData:
    """Read a pair of atomic files.

    Args:
        inter: ``.inter`` or ``.inter.gz`` with ``user_id:token``, ``item_id:token`` and
            ``timestamp:float``; other columns are ignored.
        item: ``.item`` or ``.item.gz`` with ``item_id:token`` and, where known, a title
            (``title``, ``movie_title`` or ``name``), ``brand``, and ``category`` (or ``class``,
            ``genre``); None: no item table.
        on_error: what happens at a malformed line.

    Raises:
        DataError: a malformed header or line; the message names file and line.
    """
    check_on_error(on_error)
    skipped: dict[str, int] = {}
    errors = LineErrors(str(inter), on_error)
    wanted = {"user": ("user_id",), "item": ("item_id",), "time": ("timestamp",)}
    parts = [numeric_time(part, errors) for part in _read(inter, wanted, errors, ("time",))]
    events = pl.concat(parts) if parts else pl.DataFrame(schema=EVENT_SCHEMA)
    require_events(events, str(inter))
    skipped[inter.name] = errors.count
    items = None
    if item is not None:
        errors = LineErrors(str(item), on_error)
        items = read_item_file(item, errors)
        skipped[item.name] = errors.count
    files = (inter,) if item is None else (inter, item)
    return RawData(events, items, files, skipped, complete_items=items is not None)


def read_item_file(item: Path, errors: LineErrors) -> pl.DataFrame:
    """Read an ``.item`` file: columns ``item``, ``title`` and, where present, ``brand``, ``category``.

    Raises:
        DataError: a malformed header or line, or an item with two rows.
    """
    wanted = {"item": ("item_id",), **_ITEM_COLUMNS}
    parts = list(_read(item, wanted, errors, (), optional=tuple(_ITEM_COLUMNS)))
    if not parts:
        raise DataError(f"{item}: no items found; expected one line per item after the header.")
    frame = pl.concat(parts)
    empty = frame.filter(pl.col("item").str.strip_chars() == "")
    if empty.height:
        errors.report(empty["line_number"][0], "", "a non-empty item id", empty.height)
        frame = frame.filter(pl.col("item").str.strip_chars() != "")
    again = frame.filter(~pl.col("item").is_first_distinct())
    if again.height:
        number, identifier = again.select("line_number", "item").row(0)
        errors.report(number, identifier, "one row per item (this id has one above)", again.height)
        frame = frame.filter(pl.col("item").is_first_distinct())
    if "title" not in frame.columns:
        frame = frame.with_columns(pl.lit("").alias("title"))
    return frame.drop("line_number")


def _read(
    path: Path,
    wanted: Mapping[str, tuple[str, ...]],
    errors: LineErrors,
    floats: Sequence[str],
    *,
    optional: Sequence[str] = (),
) -> list[pl.DataFrame]:
    parts: list[pl.DataFrame] = []
    picks: list[tuple[str, int]] = []
    n_fields = 0
    with open_source(path) as stream:
        for lines in iter_lines(stream, str(path)):
            skip = 0
            if lines.first == 1:
                picks, n_fields = _header(lines, path, wanted, floats, optional)
                skip = 1
            parts.append(split_fields(lines, "\t", n_fields, picks, errors, skip_rows=skip))
    if n_fields == 0:
        raise DataError(
            f"{path}: the file is empty; expected a header line such as "
            "'user_id:token<TAB>item_id:token<TAB>timestamp:float'."
        )
    return [part for part in parts if part.height]


def _header(
    lines: Lines,
    path: Path,
    wanted: Mapping[str, tuple[str, ...]],
    floats: Sequence[str],
    optional: Sequence[str],
) -> tuple[list[tuple[str, int]], int]:
    columns: dict[str, tuple[int, str]] = {}
    header = read_header(lines, str(path), "\t")
    for position, typed in enumerate(header):
        name, colon, kind = typed.strip().rpartition(":")
        if not colon or kind not in _TYPES or "," in name:
            raise DataError(
                f"{path}, line 1: column {typed!r} has no known type; expected NAME:TYPE with TYPE "
                f"one of {', '.join(_TYPES)}, separated by tabs. A file without such a header is "
                "read by `bench data import`."
            )
        columns[name] = (position, kind)
    picks = []
    for target, names in wanted.items():
        found = next((name for name in names if name in columns), None)
        if found is None:
            if target in optional:
                continue
            raise DataError(
                f"{path}, line 1: no column {names[0]!r} among {', '.join(columns)}; expected "
                f"{names[0]}:{'float' if target in floats else 'token'}. Rename the column, or use "
                "`bench data import` with a column mapping."
            )
        position, kind = columns[found]
        if (kind == "float") != (target in floats):
            raise DataError(
                f"{path}, line 1: column {found!r} has type {kind!r}; expected "
                f"{'float' if target in floats else 'token or token_seq'}. Correct the header."
            )
        picks.append((target, position))
    return picks, len(header)
