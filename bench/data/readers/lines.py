"""Text files as columns of lines: decompression, decoding, splitting, with line numbers kept.

Files are read in blocks of whole lines, so that a file of any size is parsed in bounded memory, and
every check is columnar: a bad line is found by a mask, and its number is its row.
"""

from __future__ import annotations

import codecs
import gzip
import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Protocol, cast

import polars as pl

from bench.data.raw import LineErrors
from bench.errors import ConfigError, DataError

__all__ = [
    "Lines",
    "inner_name",
    "iter_lines",
    "open_source",
    "separator_name",
    "split_fields",
]

BLOCK_BYTES = 1 << 26
_BOM = "\ufeff"


@dataclass(frozen=True, slots=True)
class Lines:
    """A run of whole lines.

    Attributes:
        first: line number (1-based) of row 0.
        text: the lines, without line ends; null if a line was no text and has been reported.
    """

    first: int
    text: pl.Series


def inner_name(path: Path) -> str:
    """Name of the text inside a ``.gz`` or ``.zip`` file, which says its format.

    Raises:
        DataError: a zip file that does not hold exactly one file.
    """
    if path.suffix == ".zip" and path.is_file():
        return _only_member(path).rpartition("/")[2]
    return path.name.removesuffix(".gz")


def _only_member(path: Path) -> str:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [info.filename for info in archive.infolist() if not info.is_dir()]
    except (zipfile.BadZipFile, OSError) as error:
        raise DataError(
            f"{path}: not a readable zip file ({error}). Delete it and download it again."
        ) from error
    names = [name for name in names if "__MACOSX" not in name]
    if len(names) != 1:
        raise DataError(
            f"{path}: holds {len(names)} files ({', '.join(names[:5])}); expected one table, or a "
            "MovieLens data set. Unpack it and name the file."
        )
    return names[0]


def _open_member(archive: zipfile.ZipFile, path: Path) -> IO[bytes]:
    try:
        return archive.open(_only_member(path))
    except (RuntimeError, NotImplementedError) as error:
        raise DataError(
            f"{path}: encrypted or packed in an unknown way ({error}); unpack it and name the file."
        ) from error


@contextmanager
def open_source(path: Path) -> Iterator[IO[bytes]]:
    """Open a plain or ``.gz`` file, or the only member of a ``.zip`` file, for reading bytes.

    Raises:
        DataError: the file is absent, unreadable, or truncated or damaged when unpacked (also while
            reading inside the block).
    """
    try:
        if path.suffix == ".zip" and path.is_file():
            with zipfile.ZipFile(path) as archive, _open_member(archive, path) as member:
                yield member
            return
        with path.open("rb") as plain:
            if path.suffix != ".gz":
                yield plain
                return
            with gzip.open(plain) as unpacked:
                yield cast("IO[bytes]", unpacked)
    except (EOFError, gzip.BadGzipFile, zipfile.BadZipFile, zlib.error) as error:
        kind = "zip" if path.suffix == ".zip" else "gzip"
        raise DataError(
            f"{path}: damaged or truncated {kind} file ({error}); expected a complete {path.suffix} "
            "file. Delete it and download it again."
        ) from error
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path.") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error}).") from error


class _Bytes(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Recoded:
    """A stream of a wide encoding as UTF-8."""

    def __init__(self, stream: _Bytes, encoding: str) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder(encoding)()

    def read(self, size: int, /) -> bytes:
        while True:
            block = self._stream.read(size)
            text = self._decoder.decode(block, final=not block)
            if text or not block:
                return text.encode("utf-8", "replace")


def iter_lines(
    stream: _Bytes,
    errors: LineErrors,
    *,
    encoding: str = "utf-8",
    block_bytes: int | None = None,
) -> Iterator[Lines]:
    r"""Yield all lines of a stream in blocks; ``\r\n`` ends are accepted, blank lines are kept.

    Args:
        stream: bytes.
        errors: told about lines that are not text in ``encoding``.
        encoding: text encoding; a byte order mark at the start is dropped.
        block_bytes: about how many bytes to hold at once; default 64 MiB.

    Yields:
        Runs of whole lines; the empty piece after the last line end is not a line.

    Raises:
        ConfigError: an encoding that Python does not know.
        DataError: bytes that are not text in ``encoding``; the message names the line. A wide
            encoding (UTF-16) is decoded as a whole: there no line can be skipped.
    """
    try:
        wide = "\n".encode(encoding)[-1:] != b"\n" or len("a".encode(encoding)) > 1
    except LookupError as error:
        raise ConfigError(f"unknown encoding {encoding!r}; try utf-8 or latin-1.") from error
    if wide:
        stream, encoding = _Recoded(stream, encoding), "utf-8"
    size = BLOCK_BYTES if block_bytes is None else block_bytes
    first, rest = 1, b""
    try:
        while block := stream.read(size):
            head, newline, tail = (rest + block).rpartition(b"\n")
            rest = tail
            if newline:
                lines = _decode_block(head, first, errors, encoding)
                yield lines
                first += len(lines.text)
    except UnicodeError as error:
        raise DataError(
            f"{errors.file}, after line {first}: {error}. Convert the file, or choose the encoding "
            "when importing (--encoding)."
        ) from error
    if rest:
        yield _decode_block(rest, first, errors, encoding)


def _decode_block(data: bytes, first: int, errors: LineErrors, encoding: str) -> Lines:
    try:
        if b"\x00" in data:
            raise ValueError
        text = data.decode(encoding)
    except ValueError:
        lines = data.split(b"\n")
        decoded = [_decode_line(line, n, errors, encoding) for n, line in enumerate(lines, first)]
        series = pl.Series("line", decoded, dtype=pl.String)
    else:
        series = pl.Series("line", [text], dtype=pl.String).str.split("\n").explode()
    if first == 1 and series[0] is not None:
        series = series.scatter(0, series[0].removeprefix(_BOM))
    if b"\r" in data:
        series = series.str.strip_suffix("\r")
    return Lines(first, series)


def _decode_line(line: bytes, number: int, errors: LineErrors, encoding: str) -> str | None:
    try:
        if b"\x00" not in line:
            return line.decode(encoding)
        problem, expected = "found a NUL byte", "text"
        advice = "The file is binary, UTF-16 (--encoding utf-16), or compressed without the ending .gz: check that it is the right file"
    except UnicodeDecodeError as error:
        problem = f"byte {line[error.start]:#04x} is not {encoding} text"
        expected = encoding
        advice = "Convert the file, or choose the encoding when importing (--encoding)"
    errors.report(number, "", expected, problem=problem, advice=advice)
    return None


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
            f"{n_fields} fields separated by {separator_name(separator)}, not {n}",
            bad.height,
        )
        frame = frame.filter(pl.col("n") == n_fields)
    fields = pl.col("line").str.split_exact(separator, n_fields - 1)
    return frame.select(
        "line_number",
        *(fields.struct.field(f"field_{position}").alias(name) for name, position in picks),
    )


def separator_name(separator: str) -> str:
    """How messages call a separator."""
    names = {"\t": "tabs", ",": "commas", ";": "semicolons", "|": "'|'", " ": "blanks"}
    return names.get(separator, repr(separator))
