"""Printing shared by the verbs: plain tables, JSON, sizes."""

from __future__ import annotations

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from itertools import groupby
from typing import Any

from bench.stamp import duration
from bench.terminal import echo, json_safe, text_table

__all__ = [
    "echo",
    "human_bytes",
    "human_seconds",
    "print_json",
    "print_markdown",
    "print_table",
    "split_names",
    "terminal_width",
]


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a plain table; in a terminal that is too narrow its long cells are wrapped."""
    echo(text_table(headers, rows, terminal_width()))


def print_markdown(text: str) -> None:
    """Print Markdown as it is; its tables as :func:`print_table` does if the terminal is too narrow."""
    wide = terminal_width()
    for is_table, block in groupby(text.splitlines(), key=lambda line: line.startswith("|")):
        lines = list(block)
        if not is_table or wide is None or max(map(len, lines)) <= wide:
            echo("\n".join(lines))
            continue
        head, _, *rows = ([c.strip() for c in re.split(r"(?<!\\)\|", x)[1:-1]] for x in lines)
        print_table(head, rows)


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None for a file or a pipe."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


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
