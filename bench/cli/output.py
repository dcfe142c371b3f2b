"""Printing shared by the verbs: plain tables, JSON, sizes."""

from __future__ import annotations

import json
import shutil
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any

from bench.stamp import duration
from bench.terminal import echo, json_safe, one_line

__all__ = [
    "echo",
    "human_bytes",
    "human_seconds",
    "print_json",
    "print_table",
    "split_names",
    "terminal_width",
]


_NARROWEST = 12
"""Characters below which a column is not wrapped: the words would fall to pieces."""


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a plain table; in a terminal that is too narrow its long cells are wrapped.

    Where that is not enough, every row becomes a list of its cells. In a log and a pipe a table is
    always as wide as its cells.
    """
    from tabulate import tabulate

    head = [one_line(title) for title in headers]
    body = [["" if cell is None else one_line(str(cell)) for cell in row] for row in rows]
    # Tabulate keeps two characters more than a heading.
    padded = [f"{title}  " for title in head]
    widths: list[int] | None = [max(map(len, column)) for column in zip(padded, *body, strict=True)]
    wide = terminal_width()
    if widths is not None and wide is not None and _total(widths) > wide:
        widths = _narrowed(widths, wide)
        if widths is None:
            echo("\n\n".join(_record(head, row) for row in body))
            return
        body = [
            ["\n".join(textwrap.wrap(c, w)) for c, w in zip(r, widths, strict=True)] for r in body
        ]
        head = ["\n".join(textwrap.wrap(c, w - 2)) for c, w in zip(head, widths, strict=True)]
    echo(tabulate(body, headers=head, tablefmt="simple", disable_numparse=True))


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _narrowed(widths: Sequence[int], wide: int) -> list[int] | None:
    """The widths with the widest made narrower until they fit; None where they cannot."""
    found = list(widths)
    while _total(found) > wide:
        widest = max(range(len(found)), key=found.__getitem__)
        if found[widest] <= _NARROWEST:
            return None
        found[widest] -= 1
    return found


def _record(head: Sequence[str], row: Sequence[str]) -> str:
    """One row as lines of name and cell."""
    left = max(map(len, head))
    return "\n".join(
        f"{title:<{left}}  {cell}".rstrip() for title, cell in zip(head, row, strict=True)
    )


def print_json(value: Any) -> None:
    """Print one JSON value on one line of standard output."""
    echo(json_safe(json.dumps(value, ensure_ascii=False, allow_nan=False)))


def human_bytes(n_bytes: float) -> str:
    """A size for people: powers of 1000, three significant digits at most."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A duration for people: ``8.2 s``, ``3 min 05 s``, ``2 h 10 min``."""
    return duration(seconds, digits=1)


def split_names(text: str) -> tuple[str, ...]:
    """Names of a comma-separated option, in order, without blanks and repeats."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
