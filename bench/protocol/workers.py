"""Work on a stream of blocks in a few threads, in order and in bounded memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["map_in_order"]

_T = TypeVar("_T")
_R = TypeVar("_R")


def map_in_order(
    function: Callable[[_T], _R], blocks: Iterable[_T], threads: int = 1
) -> Generator[_R, None, None]:
    """``map(function, blocks)`` in ``threads`` threads, for functions that leave Python's lock.

    ``blocks`` is consumed by the caller's thread, and at most ``threads + 1`` blocks are in work or
    finished and not yet taken. The first exception in the order of blocks is raised; blocks that
    wait then are dropped. The same holds when the caller closes the iterator early.
    """
    if threads == 1:
        yield from map(function, blocks)
        return
    pool = ThreadPoolExecutor(threads, thread_name_prefix="bench-blocks")
    pending: deque[Future[_R]] = deque()
    try:
        for block in blocks:
            pending.append(pool.submit(function, block))
            if len(pending) > threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
