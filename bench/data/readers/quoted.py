"""Rows with quoted fields (RFC 4180) among lines of text; what is malformed is one line, not the rest."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

__all__ = ["EXPECTED", "MAX_LINES", "QuotedRows", "long_fields", "quoted_fields"]

MAX_LINES = 1_000
"""Lines that one row may take."""

_MAX_FIELD = 1 << 30

EXPECTED = {
    "end": "balanced quotation marks, doubled inside quoted fields (one that opens here never closes)",
    "after": "balanced quotation marks, doubled inside quoted fields",
    "rows": "balanced quotation marks (the field that opens here would swallow whole rows)",
}
"""Problem of a row -> what it should have been."""


@contextmanager
def long_fields() -> Iterator[None]:
    """Lift the limit of 131,072 characters of the csv module (of the process) for a while."""
    limit = csv.field_size_limit(_MAX_FIELD)  # histories of heavy users are long
    try:
        yield
    finally:
        csv.field_size_limit(limit)


def quoted_fields(line: str, separator: str, escape: str | None = None) -> list[str] | None:
    """Fields of a row of one line; None if its marks do not balance."""
    try:
        return next(csv.reader([line], delimiter=separator, strict=True, escapechar=escape))
    except csv.Error:
        return None


class QuotedRows:
    """Rows that begin at given lines.

    Args:
        text: lines without their ends; None if a line was no text.
        separator: one character.
    """

    def __init__(self, text: Sequence[str | None], separator: str) -> None:
        self._text = text
        self._at = self._end = 0
        self._reader = csv.reader(self, delimiter=separator, strict=True)

    def __iter__(self) -> QuotedRows:
        return self

    def __next__(self) -> str:
        """Feed the csv module, which begins anew after an error."""
        if self._at >= self._end:
            raise StopIteration
        line = self._text[self._at] or ""
        self._at += 1
        return line + "\n"

    def row(self, position: int) -> tuple[list[str] | None, int, str]:
        """The row that begins at a line: its fields or None, the lines it takes, the problem."""
        self._at, self._end = position, min(position + MAX_LINES, len(self._text))
        try:
            return next(self._reader), self._at - position, ""
        except csv.Error as error:
            return None, 1, "end" if "unexpected end" in str(error) else "after"
