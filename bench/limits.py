"""A limit of time and memory around code that others wrote, such as a model's chat template."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import NoReturn

__all__ = ["LimitError", "limited"]


class LimitError(Exception):
    """The code took longer, or more memory, than it may; the message says which."""


class _Stop(BaseException):
    """Not an ``Exception``: code that catches all of these (Jinja, as it folds constants) would go on."""


@contextmanager
def limited(seconds: float, n_bytes: int) -> Iterator[None]:
    """Stop Python code in the block after ``seconds``, or if it wants ``n_bytes`` more memory.

    The limit of time holds in the main thread, the limit of memory on Linux; both are lifted at the end.

    Raises:
        LimitError: one of the two was reached.
    """
    with _memory(n_bytes), _time(seconds):
        try:
            yield
        except MemoryError as error:
            raise LimitError(f"it wants more than {n_bytes / 1e6:,.0f} MB of memory") from error
        except _Stop:
            raise LimitError(f"it does not end within {seconds:g} s") from None


@contextmanager
def _time(seconds: float) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise _Stop

    handler = signal.signal(signal.SIGALRM, stop)
    # Somebody else's alarm goes on afterwards.
    left, interval = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left, 0.01), interval)


@contextmanager
def _memory(n_bytes: int) -> Iterator[None]:
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        soft, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = pages * resource.getpagesize() + n_bytes
        if soft != resource.RLIM_INFINITY:
            limit = min(limit, soft)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))
    except (ImportError, OSError, ValueError):  # not Linux, or not allowed
        yield
        return
    try:
        yield
    finally:
        with suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
