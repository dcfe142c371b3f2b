"""Tables and records with a column mapping: the door for anybody's own data.

Delimited text of any dialect, lines of JSON or of Python dictionaries, and Parquet give the same
columns; what happens to them afterwards is the same for all.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import polars as pl

from bench.data.raw import (
    EVENT_SCHEMA,
    LineErrors,
    OnError,
    RawData,
    check_on_error,
    require_events,
    skipped_lines,
)
from bench.data.readers.atomic import ATOMIC
from bench.data.readers.base import Files, Reader
from bench.data.readers.columns import (
    ColumnMapping,
    Found,
    Request,
    choose_columns,
    find_columns,
)
from bench.data.readers.delimited import Columns, Dialect, read_delimited
from bench.data.readers.lines import inner_name, iter_lines, open_source
from bench.data.readers.mind import clicks
from bench.data.readers.parquet import read_parquet
from bench.data.readers.records import PER_LINE, Fields, first_keys, read_records
from bench.data.readers.rows import events_of, items_of
from bench.data.readers.times import check_time_format, expected_time, parse_times
from bench.data.readers.where import Condition, keep_rows, parse_condition
from bench.errors import ConfigError, DataError

__all__ = ["ColumnMapping", "TableOptions", "Tables", "read_tabular"]

_RECORDS = (".json", ".jsonl", ".ndjson")
_TEXT = (".csv", ".tsv", ".txt", ".dat", ".inter", ".item")


@dataclass(frozen=True, slots=True)
class TableOptions:
    """How tables are read.

    Attributes:
        dialect: of delimited text. Header and separator concern the interactions; an item table
            has the separator too if its first line holds it.
        where: conditions that a row of the interactions must meet.
        sequences: whether each line is a user followed by all their items, oldest first.
        command: the import command without ``--column``, for messages.
    """

    dialect: Dialect = field(default_factory=Dialect)
    where: Sequence[Condition] = ()
    sequences: bool = False
    command: str = "bench data import NAME FILE"


class Tables(Reader):
    """Delimited text, lines of JSON, Parquet, RecBole's .inter: any table with its columns named."""

    def read(self, files: Files) -> RawData:
        asked = files.reading
        words = ["bench", "data", "import", files.name, *map(str, files.inter)]
        words += ["--items", str(files.items)] * (files.items is not None) + asked.words()
        dialect = Dialect(
            asked.separator,
            asked.quotes,
            asked.header,
            asked.encoding or "utf-8",
            asked.time_format,
        )
        conditions = [parse_condition(text) for text in asked.where]
        options = TableOptions(dialect, conditions, asked.sequences, shlex.join(words))
        return read_tabular(
            files.inter,
            files.items,
            mapping=files.mapping,
            options=options,
            on_error=asked.on_error,
        )


def read_tabular(
    inter: Path | Sequence[Path],
    items: Path | None = None,
    *,
    mapping: ColumnMapping | None = None,
    options: TableOptions | None = None,
    on_error: OnError = "raise",
) -> RawData:
    """Read interaction tables and, optionally, an item table.

    Args:
        inter: ``.csv``, ``.tsv``, ``.txt``, ``.dat``, ``.inter``, ``.json``, ``.jsonl`` (each also
            ``.gz``, or alone in a ``.zip``), ``.parquet``, or a folder of parts of one of these; of
            several files the events follow one another.
        items: the same formats, or the interactions themselves if they hold the titles; None: no
            titles.
        mapping: which column holds what.
        options: dialect and conditions.
        on_error: what happens at a malformed line.

    Raises:
        DataError: a missing column, a malformed line, or an unsupported file ending.
        ConfigError: an unknown encoding or a time format without directives.
    """
    check_on_error(on_error)
    mapping, options = mapping or ColumnMapping(), options or TableOptions()
    check_time_format(options.dialect.time_format)
    if options.sequences and (options.where or {"user", "item", "time"} & mapping.words().keys()):
        raise ConfigError("lines of --sequences have no columns; leave --column and --where out.")
    paths = [
        part for path in ([inter] if isinstance(inter, Path) else inter) for part in _parts(path)
    ]
    errors = [LineErrors(str(path), on_error) for path in paths]
    parts = [pl.DataFrame(schema=EVENT_SCHEMA)]
    notes: dict[str, None] = {}
    left_out = rows = 0
    kinds: dict[bool, str] = {}
    found = Found({})
    request = Request.events(mapping, [c.column for c in options.where], options.command)
    for path, told in zip(paths, errors, strict=True):
        table, found = _read(path, request, options, told)
        notes[found.note] = None
        named = [(f"where {at}", condition) for at, condition in enumerate(options.where)]
        table, out = keep_rows(table, named, told)
        left_out += out
        if "time" not in table.columns:
            order = pl.int_range(rows + 1, rows + 1 + pl.len(), dtype=pl.Int64)
            table = table.with_columns(order.cast(pl.Float64).alias("time"))
            rows += table.height
        table, floats = _whole_ids(table)
        notes |= dict.fromkeys((*floats, _rounded_times(table["time"])))
        form = found.time_format or options.dialect.time_format
        times, dated = parse_times(table["time"], form)
        kinds[dated] = told.file
        parts.append(events_of(table, told, times, expected=expected_time(form)))
    if len(kinds) > 1:
        raise DataError(
            f"{kinds[True]}: the times are dates, but numbers in {kinds[False]}; expected one kind, "
            "since numbers have a unit of their own. Convert one, or import the files by themselves."
        )
    events = pl.concat(parts)
    lost = sum(told.count for told in errors)
    if left_out and events.is_empty():
        raise DataError(
            f"{errors[0].file}: no row meets --where; {left_out} rows were left out. Loosen the condition."
        )
    require_events(events, errors[0].file, lost)
    raw = RawData(events, None, tuple(paths), left_out=left_out)
    if items is not None:
        raw = _with_items(raw, items, found, mapping, options, errors, notes)
    return replace(raw, skipped=skipped_lines(*errors), notes=tuple(filter(None, notes)))


def _with_items(
    raw: RawData,
    items: Path,
    found: Found,
    mapping: ColumnMapping,
    options: TableOptions,
    errors: list[LineErrors],
    notes: dict[str, None],
) -> RawData:
    paths = _parts(items)
    told = [LineErrors(str(path), errors[0].on_error) for path in paths]
    dialect = replace(options.dialect, header=None, time_format=None)
    options = replace(options, dialect=dialect, where=(), sequences=False)
    atomic = _format(paths[0]) == ".item"
    item, known = found.columns.get("item") or mapping.item, raw.events["item"].unique().to_list()
    request = Request.items(mapping, item, known, options.command, optional=atomic)
    tables = []
    for path, file in zip(paths, told, strict=True):
        table, seen = _read(path, request, options, file)
        table, floats = _whole_ids(table)
        notes |= dict.fromkeys((seen.note, *floats))
        # Dumps of a shop list some products again; a table of events may bring the titles itself.
        if _format(path) in _RECORDS or path in raw.files:
            table = table.filter(pl.col("item").is_first_distinct())
        tables.append(items_of(table, file))
    rows = pl.concat(tables, how="diagonal").unique("item", keep="first", maintain_order=True)
    errors += told
    complete = _format(paths[0]) not in _RECORDS  # metadata of a shop lack some products
    return replace(raw, items=rows, files=(*raw.files, *paths), complete_items=complete)


def _parts(path: Path) -> list[Path]:
    """The file itself, or the parts below a folder in the order of their names."""
    if not path.exists():
        raise DataError(f"{path}: no such file; check the path.")
    if not path.is_dir():
        return [path]
    files = sorted(
        file
        for file in path.rglob("*")
        if file.is_file() and not file.name.startswith((".", "_")) and file.stat().st_size
    )
    if not files:
        raise DataError(f"{path}: a folder without files; expected parts of a table.")
    return files


def _format(path: Path) -> str:
    return Path(inner_name(path)).suffix.lower()


def _read(
    path: Path, request: Request, options: TableOptions, errors: LineErrors
) -> tuple[pl.DataFrame, Found]:
    """Columns ``line_number``, the roles found, and those of conditions (``where N``)."""
    ending = _format(path)
    if options.sequences and (ending == ".parquet" or ending in _RECORDS):
        raise ConfigError(
            f"{path}: --sequences is for text, a user and all their items in each line."
        )
    if ending == ".parquet":
        choose = _by_name(request, str(path))
        return read_parquet(path, choose, request.extra)
    if ending in _RECORDS:
        return _records(path, request, options.dialect.encoding, errors)
    if ending not in _TEXT and options.dialect.separator is None:
        raise DataError(
            f"{path}: unsupported ending {path.suffix!r}; expected .csv, .tsv, .txt, .json, .jsonl "
            "(each also .gz or .zip), .parquet or a folder of parts, RecBole's .inter, or a MovieLens "
            "folder or .zip. Rename or convert the file; for delimited text of another ending give "
            "--separator."
        )
    if options.sequences and not request.is_items:
        return _sequences(path, options.dialect, errors), Found({})
    return _delimited(path, ending, request, options, errors)


def _by_name(request: Request, place: str) -> Callable[[list[str]], Found]:
    return lambda names: find_columns(names, request, place)


def _records(
    path: Path, request: Request, encoding: str, errors: LineErrors
) -> tuple[pl.DataFrame, Found]:
    names = first_keys(path, encoding=encoding)
    if not names:
        # Nothing can be looked up: let the reader say what is wrong with the first line.
        read_records(path, Fields({}), replace(errors), encoding=encoding)
        raise DataError(f"{path}: no records found; expected one JSON object per line. {PER_LINE}.")
    found = find_columns(names, request, str(path))
    keys = {role: key for role, key in found.columns.items() if key is not None}
    keys |= {f"where {at}": key for at, key in enumerate(request.extra)}
    items = list(request.known) if request.is_items else None
    return read_records(path, Fields(keys), errors, encoding=encoding, items=items), found


def _delimited(
    path: Path, ending: str, request: Request, options: TableOptions, errors: LineErrors
) -> tuple[pl.DataFrame, Found]:
    dialect = options.dialect
    if ending in (".inter", ".item"):
        dialect = replace(ATOMIC, encoding=dialect.encoding, time_format=dialect.time_format)
    elif request.is_items and dialect.separator is not None:
        with open_source(path) as stream:
            if dialect.separator not in stream.readline().decode(dialect.encoding, "replace"):
                dialect = replace(dialect, separator=None)
    result: list[Found] = []

    def choose(first: list[str], rows: list[list[str]], found: Dialect) -> Columns:
        columns, seen = choose_columns(first, rows, found, request, f"{path}, line 1")
        result.append(seen)
        return columns

    with open_source(path) as stream:
        table = read_delimited(stream, dialect, choose, errors)
    if "impressions" in table.columns:
        if request.extra:
            raise ConfigError(f"{path}: impressions are not rows of events; leave --where out.")
        table = clicks(table, result[0].time_format)
    return table, result[0]


def _sequences(path: Path, dialect: Dialect, errors: LineErrors) -> pl.DataFrame:
    """Lines of a user and all their items, oldest first, as one row per event."""
    by = dialect.separator or " "
    parts = []
    with open_source(path) as stream:
        for lines in iter_lines(stream, errors, encoding=dialect.encoding):
            text = (
                lines.text.str.replace_all(r"[ \t]+", " ").str.strip_chars()
                if by == " "
                else lines.text
            )
            frame = (
                text.str.split(by)
                .to_frame("fields")
                .with_columns(
                    (pl.int_range(pl.len(), dtype=pl.Int64) + lines.first).alias("line_number"),
                    pl.col("fields").list.first().alias("user"),
                    pl.col("fields").list.slice(1).alias("item"),
                )
            )
            frame = frame.filter(pl.col("user") != "")
            short = pl.col("item").list.len() == 0
            frame = errors.drop(frame, short, "user", "a user and at least one item")
            parts.append(frame.select("line_number", "user", "item").explode("item"))
    return (
        pl.concat(parts)
        if parts
        else pl.DataFrame(schema={"line_number": pl.Int64, **EVENT_SCHEMA})
    )


def _whole_ids(table: pl.DataFrame) -> tuple[pl.DataFrame, list[str]]:
    """Read ids that are floats of whole numbers ("7.0") as these; pandas writes them so."""
    notes = []
    for column in ("user", "item"):
        if column not in table.columns:
            continue
        given = table.filter(pl.col(column).str.strip_chars() != "")[column]
        if len(given) and bool(given.str.contains(r"^-?\d+\.0$").all()):
            table = table.with_columns(pl.col(column).str.strip_suffix(".0"))
            notes.append(
                f"warning: the {column} ids are floats of whole numbers ({given[0]!r}, as pandas writes "
                f"them if one is missing); read without '.0', so that they meet whole-number ids"
            )
    return table, notes


def _rounded_times(times: pl.Series) -> str:
    """Warn of numbers that a spreadsheet rounded ("1.58869E+12")."""
    if times.dtype != pl.String:
        return ""
    rounded = times.filter(times.str.contains(r"^\s*-?\d+(\.\d+)?[eE]\+?\d+\s*$"))
    if rounded.is_empty():
        return ""
    return (
        f"warning: {len(rounded)} times are in scientific notation ({rounded[0]!r}, as a spreadsheet "
        f"writes them): their last digits are lost, {rounded.n_unique()} distinct times are left"
    )
