"""Text to grids of cells: CSV and TSV, Markdown. LaTeX has a file of its own."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

__all__ = [
    "LONGEST_CELL",
    "Format",
    "Grid",
    "GridRow",
    "csv_grids",
    "guess_format",
    "markdown_grids",
    "plain",
]

LONGEST_CELL = 2_000
"""Characters of a cell that is looked into: a longer one is neither a figure nor a name."""

Format = Literal["csv", "markdown", "latex", "json"]

_SUFFIXES: dict[str, Format] = {
    ".csv": "csv",
    ".tsv": "csv",
    ".md": "markdown",
    ".markdown": "markdown",
    ".tex": "latex",
    ".json": "json",
}
_RULE = re.compile(r"\s*\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*")
_PIPE = re.compile(r"(?<!\\)\|")
_TAG = re.compile(r"</?(?:u|b|i|em|strong|span|sub|code|mark)\b[^<>]*>|<br\s*/?>", re.I)
_SUPERSCRIPT = re.compile(r"<sup>.*?</sup>", re.I)
_STRONG = re.compile(r"(?<!\\)(\*\*|__)(?=\S)(.*?\S)(?<!\\)\1")
_EMPHASIS = re.compile(r"(?<![\\\w])([*_])(?=\S)(.*?\S)(?<!\\)\1(?!\w)")
_ESCAPE = re.compile(r"\\([!-/:-@\[-`{-~])")


@dataclass(frozen=True, slots=True)
class GridRow:
    """One line of a table.

    Attributes:
        line: 1-based line of the file on which it begins.
        cells: text without mark-up; a cell that spans columns is repeated in each of them.
    """

    line: int
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """One table of a file.

    Attributes:
        rows: all lines, header lines included.
        title: heading or label near it; "" if there is none.
    """

    rows: tuple[GridRow, ...]
    title: str = ""


def guess_format(suffix: str, text: str) -> Format:
    """Format of a file by its name's ending, else by its content."""
    if known := _SUFFIXES.get(suffix.lower()):
        return known
    if r"\begin{" in text or r"\toprule" in text:
        return "latex"
    if text.lstrip().startswith("{"):
        return "json"
    lines = text.splitlines()
    return "markdown" if any("|" in x and _RULE.fullmatch(x) for x in lines) else "csv"


def csv_grids(text: str) -> Iterator[Grid]:
    """The table of a CSV or TSV file; lines that begin with ``#`` are comments.

    An empty line ends a table: published tables are often pasted below each other.
    """
    numbered = [
        (number, line)
        for number, line in enumerate(text.removeprefix("\ufeff").splitlines(), start=1)
        if not line.startswith("#")
    ]
    delimiter = _delimiter([line for _, line in numbered])
    reader = csv.reader([line + "\n" for _, line in numbered], delimiter=delimiter)
    rows: list[GridRow] = []
    consumed = 0
    for cells in reader:
        line, consumed = numbered[consumed][0], reader.line_num
        if any(cell.strip() for cell in cells):
            rows.append(GridRow(line, tuple(plain(cell) for cell in cells)))
        elif rows:
            yield Grid(tuple(rows))
            rows = []
    if rows:
        yield Grid(tuple(rows))


def _delimiter(lines: list[str]) -> str:
    counts = {mark: sum(line.count(mark) for line in lines) for mark in "\t;,"}
    # A comma may be a decimal mark or part of a method's name; tabs and semicolons rarely are.
    n_lines = sum(bool(line.strip()) for line in lines)
    for mark in "\t;":
        if counts[mark] >= n_lines > 0:
            return mark
    return ","


def markdown_grids(text: str) -> Iterator[Grid]:
    """Every pipe table of a Markdown file, with the heading above it."""
    lines = text.splitlines()
    title, rows = "", list[GridRow]()
    for number, line in enumerate([*lines, ""], start=1):
        heading = _heading(line)
        if heading is None and _PIPE.search(line):
            if not _RULE.fullmatch(line):
                body = line.strip()
                body = body.removeprefix("|")
                if body.endswith("|") and not body.endswith("\\|"):
                    body = body[:-1]
                cells = tuple(plain(cell.replace("\\|", "|")) for cell in _PIPE.split(body))
                rows.append(GridRow(number, cells))
            continue
        if len(rows) > 1:
            yield Grid(tuple(rows), title)
        rows = []
        if heading is not None:
            title = plain(heading)


def _heading(line: str) -> str | None:
    """The text of a Markdown heading, or None."""
    text = line.strip()
    rest = text.lstrip("#")
    if not 1 <= len(text) - len(rest) <= 6 or not rest[:1].isspace():
        return None
    return rest.rstrip("#").strip()


def plain(cell: str) -> str:
    """A cell without Markdown emphasis, inline HTML and backslash escapes."""
    if len(cell) > LONGEST_CELL:
        return cell.strip()
    text = _TAG.sub("", _SUPERSCRIPT.sub("", cell)).replace("&nbsp;", " ").strip()
    for pattern in (_STRONG, _STRONG, _EMPHASIS, _EMPHASIS):
        text = pattern.sub(r"\2", text)
    return re.sub(r"\s+", " ", _ESCAPE.sub(r"\1", text)).strip()
