"""The machine's memory: how much there is, and keeping what one training step frees for the next."""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

__all__ = ["kept_memory", "physical_memory", "release_accelerators"]

# Parameters of glibc's mallopt (malloc.h).
_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3
_NEVER, _GIGABYTE = -1, 2**30
# What glibc arrives at by itself in a process that frees large pieces: its upper limits.
_LARGEST_MMAP, _LARGEST_TRIM, _SMALL_PAD = 32 * 2**20, 64 * 2**20, 128 * 2**10
# Touching gigabytes anew takes about a third of a second: 1 % of the time between.
_SECONDS_KEPT = 30.0


def physical_memory() -> int | None:
    """Bytes of memory that the machine has, or None if the system does not say."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return None


def release_accelerators() -> None:
    """Give the memory of accelerators back that PyTorch keeps in this process and nothing uses.

    To other processes what is kept is taken: vLLM counts the free memory when it starts, and a model that
    was trained before leaves tens of gigabytes behind. Does nothing if no accelerator was used.
    """
    gc.collect()  # models refer to themselves
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


@contextmanager
def kept_memory(device: str) -> Iterator[Callable[[], None]]:
    """Let the C library keep what is freed within the block, and return it at the end.

    A training step on a processor takes and frees about a gigabyte in pieces of megabytes. The C
    library returns such pieces to the system, which then clears every page anew when it is touched: up
    to a quarter of a step's time. Accelerators have PyTorch's caching allocator for this.

    Steps whose pieces differ in size leave holes that later steps cannot use, so that what is kept
    grows to several times the need; it is therefore given back now and then.

    Changes nothing but speed. Does nothing for other devices than ``cpu`` and for C libraries other
    than glibc.

    Yields:
        a function to call after every step: it returns freed memory every 30 seconds.
    """
    mallopt, trim = _glibc() if device.startswith("cpu") else (None, None)
    if mallopt is None or trim is None:
        yield lambda: None
        return
    mallopt(_MMAP_THRESHOLD, _GIGABYTE)
    mallopt(_TRIM_THRESHOLD, _NEVER)
    mallopt(_TOP_PAD, _LARGEST_TRIM)
    given_back = time.monotonic()

    def give_back() -> None:
        nonlocal given_back
        if time.monotonic() - given_back >= _SECONDS_KEPT:
            trim(0)
            given_back = time.monotonic()

    try:
        yield give_back
    finally:
        mallopt(_MMAP_THRESHOLD, _LARGEST_MMAP)
        mallopt(_TRIM_THRESHOLD, _LARGEST_TRIM)
        mallopt(_TOP_PAD, _SMALL_PAD)
        trim(0)


def _glibc() -> tuple[ctypes._NamedFuncPointer | None, ctypes._NamedFuncPointer | None]:
    """``mallopt`` and ``malloc_trim`` of this process, if both exist."""
    try:
        library = ctypes.CDLL(None)
        return library.mallopt, library.malloc_trim
    except (AttributeError, OSError, TypeError):  # macOS, musl, Windows
        return None, None
