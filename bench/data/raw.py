"""What every reader returns, and how readers report a bad line.

A reader turns one source format into two columnar tables. It decides nothing else: filtering, order
and text cleaning happen in :mod:`bench.data.prepare`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from bench.errors import ConfigError, DataError

__all__ = [
    "EVENT_SCHEMA",
    "LineErrors",
    "OnError",
    "RawData",
    "check_on_error",
    "require_events",
    "short_names",
    "skipped_lines",
]

OnError = Literal["raise", "skip"]

EVENT_SCHEMA = {"user": pl.String, "item": pl.String, "time": pl.Float64}
"""Columns of :attr:`RawData.events`."""

_SHOWN = 80


@dataclass(frozen=True, slots=True)
class RawData:
    """One source as read: nothing filtered, nothing sorted.

    Attributes:
        events: columns ``user`` (str), ``item`` (str), ``time`` (float64, finite), in file order.
        items: columns ``item`` (str), ``title`` (str, may be "") and optionally ``brand`` and
            ``category``; one row per item at most. None: the source has no item table.
        files: the files that were read.
        skipped: file (see :func:`short_names`) -> malformed lines skipped (only with
            ``on_error="skip"``).
        complete_items: whether the source promises a row for every item of ``events``.
        items_without_row: items whose rows were missing already where these tables were copied from.
        left_out: rows that a condition of the user (``--where``) left out.
        notes: what the reader decided or saw that the user should know, one sentence each.
    """

    events: pl.DataFrame
    items: pl.DataFrame | None
    files: tuple[Path, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    complete_items: bool = False
    items_without_row: int = 0
    left_out: int = 0
    notes: tuple[str, ...] = ()


def check_on_error(on_error: str) -> None:
    """Reject anything but ``raise`` and ``skip``.

    Raises:
        ConfigError: another value.
    """
    if on_error not in get_args(OnError):
        raise ConfigError(f"on_error is {on_error!r}; expected 'raise' or 'skip'.")


@dataclass(slots=True)
class LineErrors:
    """Raise at the first malformed line of a file, or count them all.

    Attributes:
        file: how messages name the file (a path; ``archive.zip!member`` inside archives).
        on_error: ``raise`` or ``skip``.
        count: lines skipped so far.
    """

    file: str
    on_error: OnError = "raise"
    count: int = 0

    def report(
        self,
        line: int,
        found: str,
        expected: str,
        n: int = 1,
        *,
        problem: str = "",
        advice: str = "Repair the line",
    ) -> None:
        """Raise for line number ``line`` (1-based), or count ``n`` malformed lines.

        Args:
            line: number of the first of them.
            found: its text; quoted in the message, cut if it is long.
            expected: what it should have been.
            n: how many.
            problem: said instead of the text.
            advice: the way out beside skipping.

        Raises:
            DataError: ``on_error`` is ``raise``.
        """
        if self.on_error == "skip":
            self.count += n
            return
        shown = found if len(found) <= _SHOWN else found[:_SHOWN] + "..."
        raise DataError(
            f"{self.file}, line {line}: {problem or f'found {shown!r}'}; expected {expected}. "
            f"{advice}, or skip and count such lines: --on-error skip of "
            "`bench data import`, on_error='skip' in Python."
        )

    def drop(self, frame: pl.DataFrame, bad: pl.Expr, shown: str, expected: str) -> pl.DataFrame:
        """Report the rows where ``bad`` is true by the text of column ``shown``; return the rest."""
        rows = frame.filter(bad)
        if rows.height:
            number, text = rows.select("line_number", pl.col(shown).cast(pl.String)).row(0)
            self.report(number, text or "", expected, rows.height)
            return frame.filter(~bad)
        return frame


def skipped_lines(*files: LineErrors) -> dict[str, int]:
    """Malformed lines skipped by file: every path is counted for itself, whatever its last name."""
    counts: dict[str, int] = {}
    for errors in files:
        counts[errors.file] = counts.get(errors.file, 0) + errors.count
    return dict(zip(short_names(list(counts)), counts.values(), strict=True))


def short_names(files: Sequence[str]) -> list[str]:
    """Shortest tails of distinct paths (``archive.zip!member`` likewise) that tell them apart."""
    parts = [re.split(r"[/\\!]", file) for file in files]
    for depth in range(1, max(map(len, parts), default=0) + 1):
        names = ["/".join(part[-depth:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return list(files)


def require_events(events: pl.DataFrame, file: str, skipped: int = 0) -> None:
    """Reject a source in which no readable event is left.

    Raises:
        DataError: ``events`` is empty.
    """
    if events.is_empty():
        lost = f" ({skipped} malformed lines were skipped)" if skipped else ""
        raise DataError(
            f"{file}: no interactions found{lost}; expected at least one data line. "
            "Check that the file is complete and is the interaction file."
        )
