"""RecBole atomic files: ``NAME.inter`` and ``NAME.item``, tab-separated, typed header, no quoting.

Format: https://recbole.io/docs/user_guide/data/atomic_files.html. Differences from RecBole's own
loader: fields are split at tabs only (titles may hold quotation marks), times are read as float64
(RecBole's float32 merges Unix times that lie less than 64 to 128 seconds apart).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import polars as pl

from bench.data.raw import (
    LineErrors,
    OnError,
    RawData,
    check_on_error,
    require_events,
    skipped_lines,
)
from bench.data.readers.delimited import Columns, Dialect, read_delimited
from bench.data.readers.lines import open_source
from bench.data.readers.rows import events_of, items_of
from bench.errors import DataError

__all__ = ["ATOMIC", "ATOMIC_TYPES", "ITEM_COLUMNS", "find_atomic", "read_atomic", "read_item_file"]

ATOMIC = Dialect(separator="\t", quotes="none", header=True)
ATOMIC_TYPES = ("token", "token_seq", "float", "float_seq")
ITEM_COLUMNS = {
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
        item: ``.item`` or ``.item.gz`` with ``item_id:token`` and, if known, a title
            (``title``, ``movie_title`` or ``name``), ``brand``, and ``category`` (or ``class``,
            ``genre``); None: no item table.
        on_error: what happens at a malformed line.

    Raises:
        DataError: a malformed header or line; the message names file and line.
    """
    check_on_error(on_error)
    errors = [LineErrors(str(inter), on_error)]
    wanted = {"user": ("user_id",), "item": ("item_id",), "time": ("timestamp",)}
    events = _read(
        inter, wanted, errors[0], ("time",), each=lambda frame: events_of(frame, errors[0])
    )
    require_events(events, str(inter), errors[0].count)
    files = (inter,) if item is None else (inter, item)
    items = None
    if item is not None:
        errors.append(LineErrors(str(item), on_error))
        items = read_item_file(item, errors[1])
    return RawData(events, items, files, skipped_lines(*errors), complete_items=item is not None)


def read_item_file(item: Path, errors: LineErrors) -> pl.DataFrame:
    """Read an ``.item`` file: columns ``item``, ``title`` and, if present, ``brand``, ``category``.

    Raises:
        DataError: a malformed header or line, or an item with two rows.
    """
    wanted = {"item": ("item_id",), **ITEM_COLUMNS}
    frame = _read(item, wanted, errors, (), optional=tuple(ITEM_COLUMNS))
    if frame.is_empty():
        raise DataError(f"{item}: no items found; expected one line per item after the header.")
    return items_of(frame, errors)


def _read(
    path: Path,
    wanted: Mapping[str, tuple[str, ...]],
    errors: LineErrors,
    floats: Sequence[str],
    *,
    optional: Sequence[str] = (),
    each: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
) -> pl.DataFrame:
    def choose(header: list[str], _: list[list[str]], __: Dialect) -> Columns:
        return Columns(_picks(header, path, wanted, floats, optional), len(header), header=True)

    with open_source(path) as stream:
        header = "a header line such as 'user_id:token<TAB>item_id:token<TAB>timestamp:float'"
        return read_delimited(stream, ATOMIC, choose, errors, each=each, header=header)


def _picks(
    header: list[str],
    path: Path,
    wanted: Mapping[str, tuple[str, ...]],
    floats: Sequence[str],
    optional: Sequence[str],
) -> list[tuple[str, int]]:
    columns: dict[str, tuple[int, str]] = {}
    twice: set[str] = set()
    for position, typed in enumerate(header):
        name, colon, kind = typed.strip().rpartition(":")
        if not colon or kind not in ATOMIC_TYPES or "," in name:
            raise DataError(
                f"{path}, line 1: column {typed!r} has no known type; expected NAME:TYPE with TYPE "
                f"one of {', '.join(ATOMIC_TYPES)}, separated by tabs. A file without such a header "
                f"is read by: bench data import NAME {path}"
            )
        if name in columns:
            twice.add(name)
        columns.setdefault(name, (position, kind))
    picks = []
    for target, names in wanted.items():
        found = next((name for name in names if name in columns), None)
        if found is None:
            if target in optional:
                continue
            raise DataError(
                f"{path}, line 1: no column {names[0]!r} among {', '.join(columns)}; expected "
                f"{names[0]}:{'float' if target in floats else 'token'}. Rename the column, or use a "
                f"column mapping: bench data import NAME {path} --column "
                f"{target}={'row' if target == 'time' else 'COLUMN'}"
            )
        if found in twice:
            raise DataError(
                f"{path}, line 1: column {found!r} occurs twice; expected distinct names. Rename one."
            )
        position, kind = columns[found]
        if (kind == "float") != (target in floats):
            raise DataError(
                f"{path}, line 1: column {found!r} has type {kind!r}; expected "
                f"{'float' if target in floats else 'token or token_seq'}. Correct the header."
            )
        picks.append((target, position))
    return picks
