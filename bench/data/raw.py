"""What every reader returns, and how readers report a bad line.

A reader turns one source format into two columnar tables. It decides nothing else: filtering, order
and text cleaning happen in :mod:`bench.data.prepare`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import polars as pl

from bench.errors import ConfigError, DataError

__all__ = ["EVENT_SCHEMA", "LineErrors", "OnError", "RawData", "check_on_error", "require_events"]

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
        skipped: file name -> malformed lines skipped (only with ``on_error="skip"``).
        complete_items: whether the source promises a row for every item of ``events``.
    """

    events: pl.DataFrame
    items: pl.DataFrame | None
    files: tuple[Path, ...]
    skipped: Mapping[str, int] = field(default_factory=dict)
    complete_items: bool = False


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

    def report(self, line: int, found: str, expected: str, n: int = 1) -> None:
        """Raise for line number ``line`` (1-based), or count ``n`` malformed lines.

        Raises:
            DataError: ``on_error`` is ``raise``.
        """
        if self.on_error == "skip":
            self.count += n
            return
        shown = found if len(found) <= _SHOWN else found[:_SHOWN] + "..."
        raise DataError(
            f"{self.file}, line {line}: found {shown!r}; expected {expected}. "
            "Repair the line, or skip and count such lines: --on-error skip of `bench data import`, "
            "on_error='skip' in Python."
        )


def require_events(events: pl.DataFrame, file: str) -> None:
    """Reject a source in which no readable event is left.

    Raises:
        DataError: ``events`` is empty.
    """
    if events.is_empty():
        raise DataError(
            f"{file}: no interactions found; expected at least one data line. "
            "Check that the file is complete and is the interaction file."
        )
