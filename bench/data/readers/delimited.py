"""Delimited text of any dialect, read in blocks: every bad row is reported at its line, skippable.

The quoting rule: if commas or semicolons separate fields, a field that begins with a quotation
mark is quoted as in RFC 4180. With any other separator marks are plain characters, unless the names
of the header are quoted. A row that cannot be parsed is one bad line, the one where its mark opened;
reading goes on with the next line.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import IO, Literal

import numpy as np
import polars as pl

from bench.data.raw import LineErrors
from bench.data.readers.lines import Lines, iter_lines, split_fields
from bench.data.readers.quoted import EXPECTED, MAX_LINES, QuotedRows, long_fields, quoted_fields
from bench.data.readers.times import is_time
from bench.errors import ConfigError, DataError

__all__ = ["SEPARATORS", "Columns", "Dialect", "Quotes", "read_delimited"]

Quotes = Literal["csv", "none"]

SEPARATORS = {"tab": "\t", "blank": " ", "comma": ",", "semicolon": ";", "pipe": "|"}
"""Names of separators that are hard to type."""

_KNOWN = ("\t", ",", ";", "::", "|", " ")
_SAMPLE = 200


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a text file says what it says; None: found from the file.

    Attributes:
        separator: what separates fields; None: by the ending and line 1. A blank stands for any run
            of blanks.
        quotes: ``csv`` (RFC 4180) or ``none`` (marks are plain characters).
        header: whether line 1 holds column names; without one the names are "1", "2", ...
        encoding: text encoding.
        time_format: strftime directives of the time column; None: numbers or ISO 8601.
    """

    separator: str | None = None
    quotes: Quotes | None = None
    header: bool | None = None
    encoding: str = "utf-8"
    time_format: str | None = None

    @property
    def fields_by(self) -> str:
        """The separator; a comma before one is found."""
        return self.separator or ","

    def resolve(self, file: str, line: str) -> Dialect:
        """Fill in separator and quoting from a file's name and its first line."""
        separator = self.separator
        if separator is None:
            name = file.lower().removesuffix(".gz").removesuffix(".zip")
            usual = "," if name.endswith(".csv") else "\t"
            separator = next((s for s in (usual, *_KNOWN) if s in line.strip()), usual)
        quotes = self.quotes
        if quotes is None:
            names = [name.strip() for name in line.split(separator)]
            quoted = any(len(name) > 1 and name[0] == name[-1] == '"' for name in names)
            quotes = "csv" if separator in (",", ";") or quoted else "none"
        return replace(self, separator=separator, quotes=quotes)


@dataclass(frozen=True, slots=True)
class Columns:
    """What to take from a file.

    Attributes:
        picks: pairs (new name, position of the field).
        n_fields: fields of a row.
        header: whether line 1 is a header.
    """

    picks: list[tuple[str, int]]
    n_fields: int
    header: bool


Choose = Callable[[list[str], list[list[str]], Dialect], Columns]
"""Gets the fields of line 1, those of some lines below it, and the dialect found."""


def read_delimited(
    stream: IO[bytes],
    dialect: Dialect,
    choose: Choose,
    errors: LineErrors,
    *,
    each: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
    header: str = "a header line and data lines",
) -> pl.DataFrame:
    """Read the columns that ``choose`` names.

    Args:
        stream: the text, unpacked.
        dialect: what is known about it; the ending in ``errors.file`` helps to find the rest.
        choose: decides which fields are taken.
        errors: told about malformed lines.
        each: applied to the rows of every block, for files that are large as text.
        header: what an empty file should have held, for messages.

    Returns:
        Columns ``line_number`` (int64) and the picked ones (str), malformed lines left out; or what
        ``each`` makes of them.

    Raises:
        DataError: an empty file, a malformed header, or a malformed line.
    """
    parts: list[pl.DataFrame] = []
    columns: Columns | None = None
    rest: Lines | None = None
    with long_fields():
        for block in iter_lines(stream, errors, encoding=dialect.encoding):
            lines, skip = block, 0
            if columns is None:
                dialect, columns = _first_look(lines, dialect, choose, errors.file)
                skip = int(columns.header)
            if rest is not None:
                lines = Lines(rest.first, pl.concat([rest.text, lines.text]))
            frame, rest = _split(lines, dialect, columns, errors, skip, final=False)
            parts.append(each(frame))
        if columns is None:
            raise DataError(f"{errors.file}: the file is empty; expected {header}.")
        if rest is not None:
            parts.append(each(_split(rest, dialect, columns, errors, 0, final=True)[0]))
    return pl.concat(parts)


def _first_look(
    lines: Lines, dialect: Dialect, choose: Choose, file: str
) -> tuple[Dialect, Columns]:
    line = lines.text[0] or ""
    if not line.strip():
        raise DataError(
            f"{file}, line 1: the header is empty; expected column names separated by commas or "
            "tabs. Check that this is the right file."
        )
    found = dialect.resolve(file, line)
    if found.quotes == "csv" and len(found.fields_by.encode()) > 1:
        raise ConfigError(
            f"separator {found.separator!r}: quoted fields need a separator of one character; leave "
            "the quoting out (--quotes none)."
        )
    first = _fields(line, found)
    if first is None:
        raise DataError(
            f"{file}, line 1: a quotation mark of the header never closes; expected column names "
            "with balanced quotation marks. Repair the line."
        )
    sample = lines.text.slice(1, _SAMPLE).drop_nulls().to_list()
    rows = [_fields(text, found) for text in sample if text.strip()]
    return found, choose(first, [row for row in rows if row is not None], found)


def _fields(line: str, dialect: Dialect) -> list[str] | None:
    """Fields of one line; None if its marks do not balance."""
    if dialect.quotes == "csv" and '"' in line:
        return quoted_fields(line, dialect.fields_by)
    return line.split() if dialect.fields_by == " " else line.split(dialect.fields_by)


def _split(
    lines: Lines, dialect: Dialect, columns: Columns, errors: LineErrors, skip: int, *, final: bool
) -> tuple[pl.DataFrame, Lines | None]:
    """Rows of a block, and the lines at its end whose row goes on in the next block."""
    if dialect.fields_by == " ":
        lines = Lines(lines.first, lines.text.str.replace_all(r"[ \t]+", " ").str.strip_chars())
    rows: list[tuple[int | str, ...]] = []
    rest = None
    if dialect.quotes == "csv":
        lines, rows, rest = _quoted(lines, dialect, columns, errors, skip, final=final)
    frame = split_fields(
        lines, dialect.fields_by, columns.n_fields, columns.picks, errors, skip_rows=skip
    )
    if rows:
        frame = pl.concat([frame, pl.DataFrame(rows, schema=frame.schema, orient="row")])
        frame = frame.sort("line_number")
    return frame, rest


def _quoted(
    lines: Lines, dialect: Dialect, columns: Columns, errors: LineErrors, skip: int, *, final: bool
) -> tuple[Lines, list[tuple[int | str, ...]], Lines | None]:
    """The lines without marks (null for the others), the rows of the others, and the rest."""
    marks = lines.text.str.contains('"', literal=True).arg_true().to_list()
    if not marks:
        return lines, [], None
    text = lines.text.to_list()
    taken = np.zeros(len(text), dtype=np.bool_)
    rows: list[tuple[int | str, ...]] = []
    picks = [pick for _, pick in columns.picks]
    source = QuotedRows(text, dialect.fields_by)
    rest, at = None, skip
    for position in marks:
        if position < at:
            continue
        fields, used, problem = source.row(position)
        if used > 1 and _swallows(text[position + 1 : position + used], dialect, columns):
            fields, used, problem = None, 1, "rows"
        line = text[position]
        if '\\"' in line and (fields is None or len(fields) != columns.n_fields):
            # Some dumps (Book-Crossing) write a mark inside a quoted field as \" and not as "".
            escaped = quoted_fields(line, dialect.fields_by, escape="\\")
            if escaped is not None and len(escaped) == columns.n_fields:
                fields, used, problem = escaped, 1, ""
        if problem == "end" and not final and len(text) - position < MAX_LINES:
            rest = Lines(lines.first + position, lines.text.slice(position))
            taken[position:] = True
            break
        at = position + used
        taken[position:at] = True
        if fields is not None and len(fields) == columns.n_fields:
            rows.append((lines.first + position, *(fields[pick] for pick in picks)))
        else:
            found = f"{columns.n_fields} fields, not {len(fields or ())}"
            errors.report(lines.first + position, line, EXPECTED.get(problem, found))
    return Lines(lines.first, lines.text.set(pl.Series(taken), None)), rows, rest


def _swallows(lines: Sequence[str | None], dialect: Dialect, columns: Columns) -> bool:
    """Whether lines inside a quoted field are rows of their own: two marks that belong to no pair.

    RFC 4180 allows line ends inside quoted fields, so that a mark left open in one row and one in a
    later row make one well-formed field of all rows between. A text hardly ever holds a line with
    as many separators as a row, ids without blanks around and a time at the right place.
    """
    whole = [_is_row((line or "").split(dialect.fields_by), dialect, columns) for line in lines]
    if any(name == "time" for name, _ in columns.picks):
        return any(whole)
    return len(whole) > 1 and all(whole)


def _is_row(fields: list[str], dialect: Dialect, columns: Columns) -> bool:
    if len(fields) != columns.n_fields:
        return False
    found = {name: fields[pick] for name, pick in columns.picks}
    ids = [found[name] for name in ("user", "item") if name in found]
    plain = bool(ids) and all(text and text == text.strip() and '"' not in text for text in ids)
    return plain and ("time" not in found or is_time(found["time"], dialect.time_format))
