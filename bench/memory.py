"""Keeping freed memory for the next step instead of giving it back to the system and asking again.

A training step on a processor takes and frees about a gigabyte in pieces of megabytes. The C library
returns such pieces to the system, which then clears every page anew when it is touched: up to a
quarter of a step's time. Accelerators have PyTorch's caching allocator for this.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["kept_memory"]

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER, _GIGABYTE = -1, 2**30
# What glibc arrives at by itself in a process that frees large pieces: its upper limits.
_LARGEST_MMAP, _LARGEST_TRIM, _SMALL_PAD = 32 * 2**20, 64 * 2**20, 128 * 2**10


@contextmanager
def kept_memory(device: str) -> Iterator[None]:
    """Let the C library keep what is freed within the block, and return it at the end.

    Changes nothing but speed. Does nothing for other devices than ``cpu`` and for C libraries other
    than glibc.
    """
    mallopt, trim = _glibc() if device.startswith("cpu") else (None, None)
    if mallopt is None or trim is None:
        yield
        return
    mallopt(_MMAP_THRESHOLD, _GIGABYTE)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    mallopt(_TOP_PAD, _LARGEST_TRIM)
    try:
        yield
    finally:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
        mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM)
        mallopt(_TOP_PAD, _SMALL_PAD)
        trim(0)


def _glibc() -> tuple[ctypes._NamedFuncPointer | None, ctypes._NamedFuncPointer | None]:
    """``mallopt`` and ``malloc_trim`` of this process, where both exist."""
    try:
        library = ctypes.CDLL(None)
        return library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return None, None
