"""Where a method's code is called beside fitting and scoring: its prints, and its faults."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout

from bench.methods.plugin_files import plugin_code

__all__ = ["prints_aside"]


@contextmanager
def prints_aside() -> Iterator[None]:
    """Send what a method's code prints to standard error: standard output carries results alone.

    Raises:
        MethodError: a plugin's code failed; the message names its file and line.
    """
    with redirect_stdout(sys.stderr), plugin_code():
        yield
