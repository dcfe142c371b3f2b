"""Lines of one record each: JSON objects, and the Python dictionaries of older dumps.

A line that begins like a Python dictionary (``{'`` or ``{u'``) cannot be JSON and goes through
:func:`ast.literal_eval`, which evaluates no expression. Every other line must be strict JSON. So each
line says itself what it is; nothing is tried twice.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import polars as pl

from bench.data.raw import LineErrors
from bench.data.readers.lines import Lines, iter_lines, open_source

__all__ = ["PER_LINE", "Fields", "first_keys", "read_records"]

PER_LINE = "Write an array, or objects of several lines, one object per line (jq -c '.[]?' FILE)"

_PYTHON = re.compile(r"\s*\{\s*[uU]?'|\s*\{\s*[uU]\"")
_MAX_LITERAL = 4_000_000
_SAMPLE = 1_000


@dataclass(frozen=True, slots=True)
class Fields:
    """What to take from each record.

    Attributes:
        keys: column -> key. ``user``, ``item`` and ``time`` must be there; other columns are texts
            ("" if a record has no such key, or null).
        strict: ids are texts and times numbers (else ids may be numbers and times texts).
        literals: whether lines may be Python dictionaries.
    """

    keys: Mapping[str, str]
    strict: bool = False
    literals: bool = True

    @property
    def expected(self) -> str:
        """What a line should have been, for messages."""
        literal = ", or one Python literal of a dictionary (no expressions)" * self.literals
        return f"one JSON object{literal}"


def read_records(
    path: Path,
    fields: Fields,
    errors: LineErrors,
    *,
    encoding: str = "utf-8",
    items: list[str] | None = None,
) -> pl.DataFrame:
    """Read lines of records.

    Args:
        path: plain, ``.gz``, or the only member of a ``.zip``.
        fields: what to take.
        errors: told about malformed lines; blank lines are passed over.
        encoding: text encoding.
        items: ids wanted; lines that begin with another id (``{'asin': '...'``) are passed over
            unparsed. None: all lines.

    Returns:
        Columns ``line_number`` (int64) and those of ``fields.keys`` (str), in file order.

    Raises:
        DataError: a malformed line or a damaged file.
    """
    schema = {"line_number": pl.Int64, **dict.fromkeys(fields.keys, pl.String)}
    parts = [pl.DataFrame(schema=schema)]
    with open_source(path) as stream, warnings.catch_warnings():
        # Texts hold backslashes that Python would warn about; they are data here.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        for lines in iter_lines(stream, errors, encoding=encoding):
            chosen = _lines(lines, fields.keys.get("item", ""), items)
            rows = [
                row
                for number, line in chosen.iter_rows()
                if (row := _row(number, line, fields, errors)) is not None
            ]
            parts.append(pl.DataFrame(rows, schema=schema, orient="row"))
    return pl.concat(parts)


def _lines(lines: Lines, key: str, items: list[str] | None) -> pl.DataFrame:
    """Numbers and texts of the lines to parse."""
    numbers = pl.int_range(pl.len(), dtype=pl.Int64) + lines.first
    frame = lines.text.to_frame("line").select(numbers.alias("number"), "line")
    frame = frame.filter(pl.col("line").str.strip_chars() != "")
    if items is None:
        return frame
    begins = rf"""^\{{[uU]?['"]{re.escape(key)}['"]: [uU]?['"]([^'"\\]*)['"]"""
    first = pl.col("line").str.extract(begins)
    return frame.filter(first.is_null() | first.is_in(items))


def first_keys(path: Path, *, encoding: str = "utf-8") -> list[str]:
    """Keys of the first records of a file, in order of appearance; malformed lines tell nothing."""
    keys: dict[str, None] = {}
    with open_source(path) as stream, warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        errors = LineErrors(str(path), "skip")
        blocks = iter_lines(stream, errors, encoding=encoding, block_bytes=1 << 20)
        for line in islice((line for block in blocks for line in block.text), _SAMPLE):
            record = _parse(line or "", literals=True)
            if isinstance(record, dict):
                keys |= dict.fromkeys(key for key in record if isinstance(key, str))
    return list(keys)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


_DECODER = json.JSONDecoder(parse_constant=_no_constant)


def _parse(line: str, *, literals: bool) -> Any:
    """The value that a line writes; None if it is malformed."""
    try:
        if not (literals and _PYTHON.match(line)):
            return _DECODER.decode(line)
        return ast.literal_eval(line.strip()) if len(line) <= _MAX_LITERAL else None
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


def _row(
    number: int, line: str, fields: Fields, errors: LineErrors
) -> tuple[int | str, ...] | None:
    record = _parse(line, literals=fields.literals)
    if not isinstance(record, dict):
        spread = line.lstrip().startswith("[") or line.strip() == "{"
        advice = PER_LINE if spread else "Repair the line"
        errors.report(number, line, fields.expected, advice=advice)
        return None
    row: list[int | str] = [number]
    for name, key in fields.keys.items():
        value = record.get(key)
        if name in ("user", "item"):
            cell, expected = _identifier(value, fields), "a text" if fields.strict else "an id"
        elif name == "time":
            cell, expected = _time(value, fields), "a number" if fields.strict else "a time"
        elif name.startswith("where "):
            cell, expected = _scalar(value), "a text or number"
        else:
            cell, expected = _text(value), "a text"
        if cell is None:
            problem = f"found {_shown(value)} under the key {key!r}"
            errors.report(number, "", f"{expected} under the key {key!r}", problem=problem)
            return None
        row.append(cell)
    return tuple(row)


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:80] + "..."


def _identifier(value: Any, fields: Fields) -> str | None:
    """A text that UTF-8 can hold (an escape may name half a character), or a number's text."""
    if not fields.strict and isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _time(value: Any, fields: Fields) -> str | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return _number(value)
    if isinstance(value, str) and not fields.strict:
        return value.encode(errors="replace").decode()
    return None


def _number(value: float) -> str:
    try:
        return repr(float(value))
    except OverflowError:
        return "inf"


def _text(value: Any) -> str | None:
    """A text, "" for null; levels of a (first) category path are joined by `` > ``."""
    if value is None:
        return ""
    if isinstance(value, list):
        path = value[0] if value and isinstance(value[0], list) else value
        value = " > ".join(level for level in path if isinstance(level, str))
    return value.encode(errors="replace").decode() if isinstance(value, str) else None


def _scalar(value: Any) -> str | None:
    """A value that conditions compare: ``true`` and ``false``, a number's text, or a text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else _text(value)
