"""Waiting for what another process works on: told, with the holder if it is known, and never for ever.

Every lock of the package (:func:`bench.io.lock`) waits as long as the block of :func:`patience`
around it says, or for :data:`DEFAULT_SECONDS`.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, replace
from pathlib import Path

from filelock import FileLock, Timeout

from bench.errors import InUseError

__all__ = ["DEFAULT_SECONDS", "acquire", "holder", "patience"]

DEFAULT_SECONDS = 3600.0
"""How long a process waits for another one, unless told otherwise."""

Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class _Patience:
    seconds: float
    tell: Tell


# Without anybody who listens a warning goes to standard error.
_DEFAULT = _Patience(DEFAULT_SECONDS, logging.getLogger(__name__).warning)
_patience: ContextVar[_Patience] = ContextVar("patience", default=_DEFAULT)


@contextmanager
def patience(seconds: float | None = None, tell: Tell | None = None) -> Iterator[None]:
    """Say how long locks that are taken in the block may wait, and who is told of it.

    Args:
        seconds: the limit of every single wait, >= 0; None = as around the block.
        tell: receives one line of text when a wait begins; None = as around the block.
    """
    now = _patience.get()
    now = now if seconds is None else replace(now, seconds=seconds)
    token = _patience.set(now if tell is None else replace(now, tell=tell))
    try:
        yield
    finally:
        _patience.reset(token)


def acquire(guard: FileLock, what: str, timeout: float | None) -> None:
    """Take a lock; a wait is told when it begins.

    Args:
        guard: the lock.
        what: what it guards, for people.
        timeout: seconds, None = what :func:`patience` says.

    Raises:
        InUseError: another process holds it for longer.
    """
    try:
        guard.acquire(timeout=0)
        return
    except Timeout:
        file = Path(guard.lock_file)
        seconds = _patience.get().seconds if timeout is None else timeout
    if seconds > 0:
        if timeout is None:
            _patience.get().tell(
                f"waiting for {holder(file)}, which works on {what}, at most {_text(seconds)}"
            )
        try:
            guard.acquire(timeout=seconds)
            return
        except Timeout:
            pass
    waited = f", for more than {_text(seconds)}" if timeout is None and seconds > 0 else ""
    raise InUseError(
        f"{what} is in use by {holder(file)} (lock {file}){waited}; wait for it or stop it, and "
        "repeat the command."
    )


def holder(file: Path) -> str:
    """Who holds a lock file: ``another process``, with its number and command if Linux tells."""
    try:
        status = file.stat()
        place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
        lines = Path("/proc/locks").read_text(encoding="ascii").splitlines()
        # "1: FLOCK ADVISORY WRITE 8472 fe:00:2146331 0 EOF"; those who wait have "->" after the number.
        held = [words for words in map(str.split, lines) if "->" not in words and place in words]
        pid = int(held[0][4])
        words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except (OSError, ValueError, IndexError):
        return "another process"
    command = " ".join([Path(words[0]).name, *words[1:]]).strip()
    shown = "".join(c if c.isprintable() else "?" for c in command)
    return f"another process ({pid}: {shown if len(shown) <= 80 else shown[:77] + '...'})"


def _text(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 60 else f"{seconds:.0f} s"
