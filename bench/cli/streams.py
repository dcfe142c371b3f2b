"""Standard streams that are closed or full, and Ctrl-C that comes several times at once.

Results go to standard output; standard error holds progress and messages, which must not cost a run.
"""

from __future__ import annotations

import atexit
import io
import os
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import TextIO

__all__ = ["drop_unwritten", "interrupted", "one_interrupt", "open_streams", "silent_interrupt"]

_AT_ONCE_SECONDS = 1.0
_INTERRUPTED = 130


_last: float | None = None
"""When Ctrl-C was heard of last, in this process."""


def interrupted() -> bool:
    """Whether Ctrl-C was heard of, whatever became of its exception."""
    return _last is not None


class _Forgiving(io.TextIOWrapper):
    """Standard error that loses what cannot be written instead of failing."""

    def write(self, text: str) -> int:
        with suppress(ValueError):
            try:
                return super().write(text)
            except OSError:
                self._give_up()
        return len(text)

    def flush(self) -> None:
        with suppress(ValueError):
            try:
                super().flush()
            except OSError:
                self._give_up()

    def _give_up(self) -> None:
        _to_nowhere(self)


def _to_nowhere(stream: TextIO) -> None:
    """Send the rest of a stream, and what libraries write there, to nowhere."""
    with suppress(OSError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


def drop_unwritten() -> None:
    """Lose what standard output holds and cannot write: the interpreter would fail at it once more."""
    with suppress(ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            _to_nowhere(sys.stdout)


def open_streams() -> None:
    """Open the standard streams that are closed on nothing, and have standard error never fail.

    If one is closed the next file that is opened would take its place, and what is printed would
    go there.
    """
    for number, flags in enumerate((os.O_RDONLY, os.O_WRONLY, os.O_WRONLY)):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, flags)
    if sys.stdout is None:
        sys.stdout = _text(1)
    if sys.stderr is None:
        sys.stderr = _text(2)
    elif isinstance(sys.stderr, io.TextIOWrapper) and not isinstance(sys.stderr, _Forgiving):
        sys.stderr = _Forgiving(
            sys.stderr.buffer,
            encoding=sys.stderr.encoding,
            errors=sys.stderr.errors,
            line_buffering=True,
        )


def _text(number: int) -> TextIO:
    return os.fdopen(number, "w", encoding="utf-8", errors="backslashreplace", closefd=False)


@contextmanager
def silent_interrupt() -> Iterator[None]:
    """Let Ctrl-C end the process at once, without a word: while the verbs are loaded nothing has begun."""
    before = signal.getsignal(signal.SIGINT)
    ours = before is signal.default_int_handler
    with suppress(ValueError):  # only the main thread may ask for it
        if ours:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
    try:
        yield
    finally:
        with suppress(ValueError):
            if ours:
                signal.signal(signal.SIGINT, before)


@contextmanager
def one_interrupt() -> Iterator[None]:
    """Let Ctrl-C that comes several times at once count once: tidying up is not cut short by it.

    The process ends with exit code 130, whatever it was at. Afterwards Ctrl-C ends it at once, without
    a word.
    """

    def counts() -> bool:
        global _last
        now = time.monotonic()
        again, _last = _last is not None and now - _last < _AT_ONCE_SECONDS, now
        return not again

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        if counts():
            raise KeyboardInterrupt

    def leave(_number: int, _frame: FrameType | None) -> None:
        if counts():
            os._exit(_INTERRUPTED)

    def deaf() -> None:
        # The interpreter gives the signal its default meaning, death, before it takes down the modules.
        if interrupted():
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    # Whoever has ignored it, as shells do for jobs in the background, goes on doing so.
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if ours:
        atexit.register(deaf)  # the first to be registered is the last to run
        signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except KeyboardInterrupt:  # before or after the verb, which says more
        raise SystemExit(_INTERRUPTED) from None
    finally:
        if ours:
            signal.signal(signal.SIGINT, leave if interrupted() else signal.SIG_DFL)
