"""CSV, TSV and Parquet files with a column mapping: the door for anybody's own data."""

from __future__ import annotations

import csv
import difflib
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
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
    iter_lines,
    numeric_time,
    open_source,
    read_header,
    split_fields,
)
from bench.errors import ConfigError, DataError

__all__ = ["ColumnMapping", "read_tabular"]

_TIMES = "a finite number, or a date like 2023-09-15T19:14:33Z,"
_SEPARATORS = {".csv": ",", ".tsv": "\t", ".txt": "\t"}


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Which column of a table holds what.

    Attributes:
        user, item: id columns of the interaction table; any text or whole number.
        time: time column: numbers, or dates and times of ISO 8601 (without zone: UTC), in Parquet
            also of its own types; None: the order of rows.
        item_id: id column of the item table; None: the same name as ``item``.
        title: title column of the item table.
        brand, category: optional text columns of the item table.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = "timestamp"
    item_id: str | None = None
    title: str = "title"
    brand: str | None = None
    category: str | None = None

    @classmethod
    def from_pairs(cls, pairs: Mapping[str, str]) -> ColumnMapping:
        """Build a mapping from ``{"user": "reviewer", ...}``; ``time=row`` means the order of rows.

        Raises:
            ConfigError: an unknown field or an empty column name.
        """
        known = [field.name for field in fields(cls)]
        for name, column in pairs.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"column mapping: unknown field {name!r}.{hint} Known: {', '.join(known)}."
                )
            if not column:
                raise ConfigError(
                    f"column mapping: {name} names no column; expected {name}=COLUMN."
                )
        values: dict[str, str | None] = dict(pairs)
        if values.get("time") == "row":
            values["time"] = None
        return cls(**values)  # type: ignore[arg-type]


def read_tabular(
    inter: Path,
    items: Path | None = None,
    *,
    mapping: ColumnMapping | None = None,
    encoding: str = "utf-8",
    on_error: OnError = "raise",
) -> RawData:
    """Read an interaction table and, optionally, an item table.

    Args:
        inter: ``.csv``, ``.tsv``, ``.txt`` (tabs), each also ``.gz``, or ``.parquet``.
        items: the same formats; None: no titles.
        mapping: which column holds what.
        encoding: text encoding of CSV and TSV.
        on_error: what happens at a malformed line.

    Raises:
        DataError: a missing column, a malformed line, or an unsupported file ending.
        ConfigError: an unknown encoding.
    """
    check_on_error(on_error)
    try:
        "".encode(encoding)
    except LookupError as error:
        raise ConfigError(f"unknown encoding {encoding!r}; try utf-8 or latin-1.") from error
    mapping = mapping or ColumnMapping()
    wanted = {"user": mapping.user, "item": mapping.item}
    if mapping.time is not None:
        wanted["time"] = mapping.time
    errors = LineErrors(str(inter), on_error)
    table = _read(inter, wanted, errors, encoding)
    if mapping.time is None:
        table = table.with_columns(pl.col("line_number").cast(pl.Float64).alias("time"))
    elif table["time"].dtype == pl.String:
        table = table.with_columns(_numbers_of_dates(table["time"]).alias("time"))
    events = numeric_time(_plain_ids(table, ("user", "item"), errors), errors, expected=_TIMES)
    require_events(events, str(inter))
    events = events.cast(dict(EVENT_SCHEMA))  # type: ignore[arg-type]
    skipped = {inter.name: errors.count}
    if items is None:
        return RawData(events, None, (inter,), skipped)
    errors = LineErrors(str(items), on_error)
    wanted = {"item": mapping.item_id or mapping.item, "title": mapping.title}
    optional = {"brand": mapping.brand, "category": mapping.category}
    wanted |= {name: column for name, column in optional.items() if column is not None}
    rows = _plain_ids(_read(items, wanted, errors, encoding), ("item",), errors)
    rows = _filled_once(rows, errors)
    skipped[items.name] = errors.count
    return RawData(events, rows, (inter, items), skipped, complete_items=True)


def _numbers_of_dates(times: pl.Series) -> pl.Series:
    """Seconds since 1970 (as text) where a column holds dates of ISO 8601; else as it is.

    The first value decides which of the two a column holds; values of the other kind end as text that
    is no number, and are reported as malformed.
    """
    first = times.drop_nulls().head(1)
    if not len(first) or math.isnan(_seconds(first[0])):
        return times
    known = {text: _seconds(text) for text in times.drop_nulls().unique()}
    numbers = {
        text: f"{text} (beside dates)" if math.isnan(value) else repr(value)
        for text, value in known.items()
    }
    return times.replace_strict(numbers, default=None, return_dtype=pl.String)


def _seconds(text: str) -> float:
    """Seconds since 1970 of a date of ISO 8601, NaN for any other text and for plain numbers."""
    text = text.strip()
    try:
        # A bare number may be a date of ISO 8601 too (20230915), but is a number here.
        when = None if text.replace(".", "", 1).isdigit() else datetime.fromisoformat(text)
    except ValueError:
        when = None
    if when is None:
        return math.nan
    return (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()


def _filled_once(rows: pl.DataFrame, errors: LineErrors) -> pl.DataFrame:
    empty = pl.col("item").fill_null("").str.strip_chars() == ""
    bad = rows.filter(empty)
    if bad.height:
        errors.report(bad["line_number"][0], "", "a non-empty item id", bad.height)
        rows = rows.filter(~empty)
    again = rows.filter(~pl.col("item").is_first_distinct())
    if again.height:
        number, identifier = again.select("line_number", "item").row(0)
        errors.report(number, identifier, "one row per item (this id has one above)", again.height)
        rows = rows.filter(pl.col("item").is_first_distinct())
    return rows.drop("line_number").with_columns(pl.all().cast(pl.String).fill_null(""))


def _plain_ids(table: pl.DataFrame, columns: Sequence[str], errors: LineErrors) -> pl.DataFrame:
    """Reject ids with control characters: no atomic file could hold them."""
    for column in columns:
        odd = pl.col(column).fill_null("").str.contains(r"[\x00-\x1f\x7f]")
        bad = table.filter(odd)
        if bad.height:
            number, text = bad.select("line_number", column).row(0)
            errors.report(
                number, text, f"a {column} id without tabs, line ends or controls", bad.height
            )
            table = table.filter(~odd)
    return table


def _read(path: Path, wanted: dict[str, str], errors: LineErrors, encoding: str) -> pl.DataFrame:
    """Columns ``line_number`` and those of ``wanted`` (as text, except times of Parquet files)."""
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if path.suffix == ".parquet":
        return _parquet(path, wanted)
    if suffix.lower() not in _SEPARATORS:
        raise DataError(
            f"{path}: unsupported ending {path.suffix!r}; expected .csv, .tsv or .txt (each also "
            ".gz), .parquet, RecBole's .inter, Amazon's .json or .json.gz, or a MovieLens folder or .zip. "
            "Rename or convert the file."
        )
    return _delimited(path, _SEPARATORS[suffix.lower()], wanted, errors, encoding)


def _positions(found: Sequence[str], wanted: Mapping[str, str], file: str) -> list[tuple[str, int]]:
    picks = []
    for name, column in wanted.items():
        if column not in found:
            near = difflib.get_close_matches(column, found, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(
                f"{file}: no column {column!r} (mapped to {name}); the columns are "
                f"{', '.join(map(repr, found))}.{hint} Set the mapping: --column {name}=COLUMN."
            )
        if list(found).count(column) > 1:
            raise DataError(
                f"{file}: column {column!r} occurs twice; expected distinct names. Rename one."
            )
        picks.append((name, list(found).index(column)))
    return picks


def _delimited(
    path: Path, separator: str, wanted: dict[str, str], errors: LineErrors, encoding: str
) -> pl.DataFrame:
    """Split plain lines columnwise; a file with a quotation mark goes through the csv module."""
    parts: list[pl.DataFrame] = []
    picks: list[tuple[str, int]] = []
    header: list[str] = []
    quoted = False
    with open_source(path) as stream:
        for lines in iter_lines(stream, str(path), encoding=encoding):
            if bool(lines.text.str.contains('"', literal=True).any()):
                quoted = True
                break
            skip = 0
            if lines.first == 1:
                header = read_header(lines, str(path), separator)
                picks = _positions(header, wanted, f"{path}, line 1")
                skip = 1
            frame = split_fields(lines, separator, len(header), picks, errors, skip_rows=skip)
            parts.append(frame)
    if quoted:
        errors.count = 0
        return _quoted(path, separator, wanted, errors, encoding)
    if not header:
        raise DataError(f"{path}: the file is empty; expected a header line and data lines.")
    return pl.concat(parts)


def _quoted(
    path: Path, separator: str, wanted: dict[str, str], errors: LineErrors, encoding: str
) -> pl.DataFrame:
    rows: list[tuple[int | str, ...]] = []
    with open_source(path) as binary:
        # Decode through iter_lines first, so that wrong encodings are reported with their line.
        for _ in iter_lines(binary, str(path), encoding=encoding):
            pass
    codec = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    with open_source(path) as binary:
        text = io.TextIOWrapper(binary, encoding=codec, newline="")
        reader = csv.reader(text, delimiter=separator, strict=True)
        try:
            header = next(reader, [])
            picks = _positions(header, wanted, f"{path}, line 1")
            for record in reader:
                if not record:
                    continue
                if len(record) != len(header):
                    expected = f"{len(header)} fields, not {len(record)}"
                    errors.report(reader.line_num, separator.join(record), expected)
                    continue
                rows.append((reader.line_num, *(record[position] for _, position in picks)))
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: {error}; expected balanced quotation marks, "
                "doubled inside quoted fields. Repair the line."
            ) from error
        finally:
            text.detach()
    schema = {"line_number": pl.Int64, **dict.fromkeys(wanted, pl.String)}
    return pl.DataFrame(rows, schema=schema, orient="row")


def _parquet(path: Path, wanted: dict[str, str]) -> pl.DataFrame:
    try:
        names = list(pl.read_parquet_schema(path))
        picks = _positions(names, wanted, str(path))
        table = pl.read_parquet(path, columns=sorted(set(wanted.values())))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path.") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({error}); expected Parquet. "
            "Write it again, or convert it to CSV."
        ) from error
    columns = [
        (_epoch(table, column, path) if name == "time" else _identifier(table, column, path)).alias(
            name
        )
        for name, column in ((name, wanted[name]) for name, _ in picks)
    ]
    numbers = pl.int_range(1, table.height + 1, dtype=pl.Int64, eager=True).alias("line_number")
    return pl.DataFrame([numbers, *columns])


def _identifier(table: pl.DataFrame, column: str, path: Path) -> pl.Series:
    values = table[column]
    if not (values.dtype.is_integer() or values.dtype in (pl.String, pl.Categorical, pl.Enum)):
        raise DataError(
            f"{path}: column {column!r} has type {values.dtype}; expected text or whole numbers. "
            "Cast it before writing the file."
        )
    return values.cast(pl.String)


def _epoch(table: pl.DataFrame, column: str, path: Path) -> pl.Series:
    values = table[column]
    if values.dtype.is_numeric():
        return values.cast(pl.Float64)
    if isinstance(values.dtype, pl.Datetime) or values.dtype == pl.Date:
        return values.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6
    raise DataError(
        f"{path}: column {column!r} has type {values.dtype}; expected a number, a date or a "
        "datetime. Cast it before writing the file."
    )
