"""Reading stored runs while other processes write and remove some."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

from bench.errors import RunGoneError

__all__ = ["steadily"]

_TRIES = 20

P = ParamSpec("P")
T = TypeVar("T")


def steadily(function: Callable[P, T]) -> Callable[P, T]:
    """Let a reader begin again, a few times, when a run that it had listed is gone.

    It must have put nothing on standard output by then, and changed nothing that a repetition would not.
    """

    @wraps(function)
    def read(*args: P.args, **kwargs: P.kwargs) -> T:
        for _ in range(_TRIES - 1):
            with suppress(RunGoneError):
                return function(*args, **kwargs)
        return function(*args, **kwargs)

    return read
