"""Progress on standard error: a live bar in a terminal, dated lines in a log, or nothing.

Standard output is never written, so that ``--json`` stays clean.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from contextlib import contextmanager, suppress
from typing import IO, TYPE_CHECKING, Any, Literal
from typing import Protocol as Interface

from bench.methods import Progress, QuietProgress
from bench.stamp import duration, utc_now
from bench.terminal import one_line, printable

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

__all__ = [
    "LineProgress",
    "LoggedProgress",
    "QuietProgress",
    "Reporter",
    "TerminalProgress",
    "make_progress",
]

_LINE_EVERY_SECONDS = 15.0


class Reporter(Progress, Interface):
    """A :class:`bench.methods.Progress` that can also print a lasting line and be closed."""

    def line(self, text: str) -> None:
        """Print a line that stays."""
        ...

    def close(self) -> None:
        """Leave the terminal as it was."""
        ...


class LineProgress:
    """Plain lines with the UTC time, at most one per 15 seconds and loop; for logs and pipes."""

    def __init__(self, stream: IO[str] | None = None, every: float = _LINE_EVERY_SECONDS) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._every = every
        self._stages: list[str] = []

    def line(self, text: str) -> None:
        """Print one dated line."""
        now = utc_now()
        with suppress(OSError, ValueError):  # a closed or full stream must not cost the run
            self._stream.write(f"{now} {printable(text)}\n")
            self._stream.flush()

    def status(self, text: str) -> None:
        """Print the state after the name of the current stage."""
        self.line(f"{self._stages[-1]}: {text}" if self._stages else text)

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Print the stage's name at its begin and its duration at its end."""
        self._stages.append(description)
        self.line(description)
        began = time.perf_counter()
        try:
            yield
        finally:
            self._stages.pop()
        seconds = time.perf_counter() - began
        if seconds >= 2.0:
            self.line(f"{description}: done in {seconds:.1f} s")

    def track(
        self,
        items: Iterable[Any],
        *,
        total: int | None = None,
        description: str = "",
        more: int = 0,
    ) -> Iterable[Any]:
        """Iterate, printing count, share and remaining time now and then."""
        size = _size(items, total)
        began = last = time.perf_counter()
        for done, item in enumerate(items):
            now = time.perf_counter()
            if done and now - last >= self._every:
                last = now
                self.line(_position(description or "working", done, size, now - began, more))
            yield item

    def close(self) -> None:
        """Nothing to do."""


def _size(items: Iterable[Any], total: int | None) -> int | None:
    if total is not None:
        return total
    return len(items) if isinstance(items, Sized) else None


def _position(description: str, done: int, total: int | None, seconds: float, more: int = 0) -> str:
    if not total:
        return f"{description}: {done}"
    left = duration(seconds / done * max(0, total - done + more))
    to_end = f"at most {left} left in all" if more else f"{left} left"
    return f"{description}: {done}/{total} ({done / total:.0%}), {to_end}"


def _left(total: int | None, done: int, seconds: float, more: int) -> str:
    """The time left, for the end of a bar; with ``more`` items to come it is a bound."""
    if total is None:
        return ""
    return f"{'<= ' if more else ''}{duration(seconds / done * max(0, total - done + more))}"


class TerminalProgress:
    """A live display: one bar per loop with the time left, the stage, and the last status."""

    def __init__(self, stream: IO[str] | None = None) -> None:
        from rich import progress as rich
        from rich.console import Console

        self._console = Console(file=stream) if stream is not None else Console(stderr=True)
        self._bars: RichProgress = rich.Progress(
            rich.SpinnerColumn(),
            rich.TextColumn("{task.description}", markup=False),
            rich.BarColumn(bar_width=24),
            rich.MofNCompleteColumn(),
            rich.TimeElapsedColumn(),
            rich.TextColumn("{task.fields[left]}", markup=False),
            rich.TextColumn("{task.fields[state]}", markup=False),
            console=self._console,
            transient=True,
        )
        self._started = False
        self._stage_ids: list[Any] = []

    def _begin(self) -> None:
        if not self._started:
            self._bars.start()
            self._started = True

    def line(self, text: str) -> None:
        """Print a line above the bars."""
        self._console.print(printable(text), markup=False, highlight=False)

    def status(self, text: str) -> None:
        """Show ``text`` at the end of the current stage's line."""
        if self._stage_ids:
            self._bars.update(self._stage_ids[-1], state=one_line(text))
        else:
            self.line(text)

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Show a pulsing line while the block runs."""
        self._begin()
        task = self._bars.add_task(one_line(description), total=None, state="", left="")
        self._stage_ids.append(task)
        try:
            yield
        finally:
            self._stage_ids.pop()
            self._bars.remove_task(task)
            if not self._stage_ids and not self._bars.task_ids:
                self.close()

    def track(
        self,
        items: Iterable[Any],
        *,
        total: int | None = None,
        description: str = "",
        more: int = 0,
    ) -> Iterable[Any]:
        """Iterate while showing a bar."""
        self._begin()
        label = one_line(description) or "working"
        size, done, began = _size(items, total), 0, time.perf_counter()
        task = self._bars.add_task(label, total=size, state="", left="")
        try:
            for item in items:
                yield item
                done += 1
                left = _left(size, done, time.perf_counter() - began, more)
                self._bars.update(task, advance=1, left=left)
        finally:
            self._bars.remove_task(task)
            if not self._stage_ids and not self._bars.task_ids:
                self.close()

    def close(self) -> None:
        """Stop the live display and restore the cursor."""
        if self._started:
            self._bars.stop()
            self._started = False


def make_progress(
    mode: Literal["auto", "terminal", "lines", "quiet"] = "auto", stream: IO[str] | None = None
) -> Reporter:
    """Choose a reporter: ``auto`` is a live display in a terminal and lines elsewhere."""
    if mode == "quiet":
        return QuietProgress()
    target = sys.stderr if stream is None else stream
    if target is None:
        return QuietProgress()
    if mode == "terminal" or (mode == "auto" and target.isatty()):
        return TerminalProgress(stream)
    return LineProgress(stream)


class LoggedProgress:
    """Passes everything on, and writes stages and states to the run's log as well."""

    def __init__(self, inner: Progress, log: logging.Logger) -> None:
        self._inner = inner
        self._log = log

    def track(
        self,
        items: Iterable[Any],
        *,
        total: int | None = None,
        description: str = "",
        more: int = 0,
    ) -> Iterable[Any]:
        """Iterate as the wrapped reporter does; loops are not logged."""
        return self._inner.track(items, total=total, description=description, more=more)

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Name the current stage."""
        self._log.info("%s", description)
        with self._inner.stage(description):
            yield

    def status(self, text: str) -> None:
        """Show and log one line of state."""
        self._log.info("%s", text)
        self._inner.status(text)
