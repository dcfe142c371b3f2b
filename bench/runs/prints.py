"""Where the prints of methods go."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

__all__ = ["prints_aside"]


@contextmanager
def prints_aside() -> Iterator[None]:
    """Send what a method's code prints to standard error: standard output carries results alone."""
    with redirect_stdout(sys.stderr):
        yield
