"""Printing shared by the verbs: plain tables, JSON, sizes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer

__all__ = ["human_bytes", "human_seconds", "print_json", "print_table", "split_names"]


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """Print a plain table that reads the same in a terminal, a log and a pipe."""
    from tabulate import tabulate

    body = [["" if cell is None else cell for cell in row] for row in rows]
    typer.echo(tabulate(body, headers=list(headers), tablefmt="simple", disable_numparse=True))


def print_json(value: Any) -> None:
    """Print one JSON value on one line of standard output."""
    typer.echo(json.dumps(value, ensure_ascii=False, allow_nan=False))


def human_bytes(n_bytes: float) -> str:
    """A size for people: powers of 1000, three significant digits at most."""
    for unit in ("B", "kB", "MB", "GB"):
        if n_bytes < 1000:
            return f"{n_bytes:.0f} {unit}" if unit == "B" else f"{n_bytes:.1f} {unit}"
        n_bytes /= 1000
    return f"{n_bytes:.1f} TB"


def human_seconds(seconds: float) -> str:
    """A duration for people: ``8.2 s``, ``3 min 05 s``, ``2 h 10 min``."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def split_names(text: str) -> tuple[str, ...]:
    """Names of a comma-separated option, in order, without blanks and repeats."""
    return tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
