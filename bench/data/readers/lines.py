"""Text files as columns of lines: decompression, decoding, splitting, with line numbers kept.

Files are read in blocks of whole lines, so that a file of any size is parsed in bounded memory, and
every check is columnar: a bad line is found by a mask, and its number is its row.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import polars as pl

from bench.data.raw import LineErrors
from bench.errors import DataError

__all__ = ["Lines", "iter_lines", "numeric_time", "open_source", "read_header", "split_fields"]

BLOCK_BYTES = 1 << 26
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Lines:
    """A run of whole lines.

    Attributes:
        first: line number (1-based) of row 0.
        text: the lines, without line ends.
    """

    first: int
    text: pl.Series


@contextmanager
def open_source(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain or ``.gz`` file for reading bytes.

    Raises:
        DataError: the file is absent, unreadable, or a truncated or damaged gzip file (also while
            reading inside the block).
    """
    try:
        with path.open("rb") as plain:
            if path.suffix != ".gz":
                yield plain
                return
            with gzip.open(plain) as unpacked:
                yield cast("IO[bytes]", unpacked)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise DataError(
            f"{path}: damaged or truncated gzip file ({error}); expected a complete .gz file. "
            "Delete it and download it again."
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


def iter_lines(
    stream: IO[bytes], file: str, *, encoding: str = "utf-8", block_bytes: int | None = None
) -> Iterator[Lines]:
    r"""Yield all lines of a stream in blocks; ``\r\n`` ends are accepted, blank lines are kept.

    Args:
        stream: bytes.
        file: how messages name the stream.
        encoding: text encoding; a byte order mark at the start is dropped.
        block_bytes: about how many bytes to hold at once; default 64 MiB.

    Yields:
        Runs of whole lines; the empty piece after the last line end is not a line.

    Raises:
        DataError: bytes that are not text in ``encoding``; the message names the line.
    """
    size = BLOCK_BYTES if block_bytes is None else block_bytes
    first, rest = 1, b""
    while block := stream.read(size):
        head, newline, tail = (rest + block).rpartition(b"\n")
        rest = tail
        if newline:
            lines = _decode_block(head, first, file, encoding)
            yield lines
            first += len(lines.text)
    if rest:
        yield _decode_block(rest, first, file, encoding)


def _decode_block(data: bytes, first: int, file: str, encoding: str) -> Lines:
    if b"\x00" in data:
        line = first + data[: data.index(b"\x00")].count(b"\n")
        raise DataError(
            f"{file}, line {line}: found a NUL byte; expected text. The file is binary, or "
            "compressed without the ending .gz: check that it is the right file."
        )
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError as error:
        line = first + data[: error.start].count(b"\n")
        raise DataError(
            f"{file}, line {line}: byte {data[error.start]:#04x} is not {encoding} text; expected "
            f"{encoding}. Convert the file, or choose the encoding when importing (--encoding)."
        ) from error
    if first == 1:
        text = text.removeprefix(_BOM)
    series = pl.Series("line", [text], dtype=pl.String).str.split("\n").explode()
    if "\r" in text:
        series = series.str.strip_suffix("\r")
    return Lines(first, series)


def read_header(lines: Lines, file: str, separator: str) -> list[str]:
    """Split the first line into column names.

    Raises:
        DataError: the line is blank or a name occurs twice.
    """
    names = str(lines.text[0]).split(separator) if len(lines.text) else [""]
    if not any(name.strip() for name in names):
        raise DataError(
            f"{file}, line 1: the header is empty; expected column names separated by "
            f"{_name(separator)}. Check that this is the right file."
        )
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise DataError(
            f"{file}, line 1: column {twice[0]!r} occurs twice; expected distinct names. "
            "Rename one of them."
        )
    return names


def split_fields(
    lines: Lines,
    separator: str,
    n_fields: int,
    picks: Sequence[tuple[str, int]],
    errors: LineErrors,
    *,
    skip_rows: int = 0,
) -> pl.DataFrame:
    """Split lines at a separator (no quoting) and pick columns.

    Args:
        lines: the lines.
        separator: what separates fields, for example a tab.
        n_fields: fields that a line must have.
        picks: pairs (new name, position of the field).
        errors: told about lines with another number of fields; blank lines are passed over.
        skip_rows: rows of this block to leave out at its start (a header).

    Returns:
        Columns ``line_number`` (int64) and the picked ones (str), malformed lines left out.
    """
    start = lines.first + skip_rows
    frame = lines.text.slice(skip_rows).to_frame("line")
    frame = frame.with_columns(
        (pl.int_range(pl.len(), dtype=pl.Int64) + start).alias("line_number"),
        (pl.col("line").str.count_matches(separator, literal=True) + 1).alias("n"),
    ).filter(pl.col("line") != "")
    bad = frame.filter(pl.col("n") != n_fields)
    if bad.height:
        line, number, n = bad.row(0)
        errors.report(
            number,
            line,
            f"{n_fields} fields separated by {_name(separator)}, not {n}",
            bad.height,
        )
        frame = frame.filter(pl.col("n") == n_fields)
    fields = pl.col("line").str.split_exact(separator, n_fields - 1)
    return frame.select(
        "line_number",
        *(fields.struct.field(f"field_{position}").alias(name) for name, position in picks),
    )


def numeric_time(
    frame: pl.DataFrame,
    errors: LineErrors,
    *,
    required: Sequence[str] = ("user", "item"),
    expected: str = "a finite number",
) -> pl.DataFrame:
    """Turn the text column ``time`` into float64 and reject lines without usable values.

    Args:
        frame: columns ``line_number``, ``time`` (text or number) and those of ``required``.
        errors: told about empty ids and about times that are no finite number.
        required: columns that may not be empty.
        expected: what a time should have been, for messages.

    Returns:
        The columns of ``required`` and ``time``, in order, malformed lines left out.
    """
    parsed = frame.with_columns(
        pl.col("time").cast(pl.String).str.strip_chars().cast(pl.Float64, strict=False).alias("t")
    )
    for column in required:
        empty = pl.col(column).fill_null("").str.strip_chars() == ""
        bad = parsed.filter(empty)
        if bad.height:
            number, text = bad.select("line_number", column).row(0)
            errors.report(number, text or "", f"a non-empty {column} id", bad.height)
            parsed = parsed.filter(~empty)
    usable = pl.col("t").is_not_null() & pl.col("t").is_finite()
    bad = parsed.filter(~usable)
    if bad.height:
        number, text = bad.select("line_number", pl.col("time").cast(pl.String)).row(0)
        errors.report(number, text or "", f"{expected} as time", bad.height)
        parsed = parsed.filter(usable)
    return parsed.select(*required, pl.col("t").alias("time"))


def _name(separator: str) -> str:
    return {"\t": "tabs", ",": "commas", "|": "'|'"}.get(separator, repr(separator))
