"""Leaf for what is under construction, and for folders that take the place of others.

::

    .partial-bench-*   under construction, or about to be deleted; its maker holds a lock on it
    .replaced-NAME     the older folder NAME, if names cannot be swapped and its successor never came

The lock goes with its process, so that :func:`sweep` knows what a killed one left behind.
"""

from __future__ import annotations

import ctypes
import errno
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

if sys.platform != "win32":
    import fcntl

__all__ = [
    "PARTIAL",
    "atomic_file",
    "discard",
    "older",
    "partial_folder",
    "replace_folder",
    "replaced_name",
    "settled",
    "sweep",
]

PARTIAL = ".partial-bench-"
_REPLACED = ".replaced-"
# If a file system has no locks, only age tells what is left over.
_ABANDONED_SECONDS = 86_400.0
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2

_swept: set[Path] = set()


@contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yield a binary stream whose content becomes the file ``path``, whole or not at all.

    The content is on the disk before the name is; an older file stays until then. A device, a pipe or
    ``/dev/stdout`` is written to: the superuser would put a file in its place otherwise.

    Raises:
        OSError: it cannot be written; nothing is left.
    """
    if _is_stream(path):
        with path.open("ab") as stream:
            yield stream
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    _sweep_once(path.parent)
    while True:
        with _about(path):
            handle, name = tempfile.mkstemp(prefix=PARTIAL, dir=path.parent)
        if _hold(handle, name):
            break
    try:
        with os.fdopen(handle, "w+b") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            # mkstemp makes files private; results are meant to be shared under the user's umask.
            Path(name).chmod(0o666 & ~_umask())
            if sys.platform == "win32":  # which renames no open file
                stream.close()
            with _about(path):
                Path(name).replace(path)
    except BaseException:
        _remove(Path(name))
        raise


@contextmanager
def partial_folder(parent: Path) -> Iterator[Path]:
    """Yield a new folder in ``parent`` that is removed at the end, unless it was renamed."""
    _sweep_once(parent)
    while True:
        with _about(parent):
            path = Path(tempfile.mkdtemp(prefix=PARTIAL, dir=parent))
        handle = None
        with suppress(OSError):  # a system that opens no folders, or a sweep that was faster
            handle = os.open(path, os.O_RDONLY)
        if _hold(handle, path):
            break
    try:
        path.chmod(0o777 & ~_umask())
        yield path
    finally:
        _remove(path)
        if handle is not None:
            os.close(handle)


def replace_folder(new: Path, path: Path) -> None:
    """Give the complete folder ``new`` the name ``path``; an older folder there is whole until then.

    The two swap their names at once if the system can do that. Elsewhere the older one waits as
    ``.replaced-NAME``, where :func:`settled` finds it if the process dies meanwhile. Afterwards
    ``new`` is free, or holds the older folder; the caller removes it.

    Raises:
        OSError: it cannot be renamed, or ``path`` is no folder; what was there is where it was.
    """
    old = older(path)
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not path.exists():
        new.rename(path)
    elif not _exchange(new, path):
        if old.exists():
            discard(old)
        path.rename(old)
        try:
            new.rename(path)
        except BaseException:
            old.rename(path)
            raise
    with suppress(OSError):
        if old.exists():
            discard(old)


def older(path: Path) -> Path:
    """Where the older folder waits while ``path`` is replaced."""
    return path.with_name(_REPLACED + path.name)


def replaced_name(name: str) -> str:
    """``NAME`` of a folder ``.replaced-NAME``, "" of any other."""
    return name.removeprefix(_REPLACED) if name.startswith(_REPLACED) else ""


def settled(path: Path) -> Path:
    """``path``, or the older folder whose replacement never arrived there; nothing is changed."""
    old = older(path)
    return old if not path.exists() and old.exists() else path


def discard(path: Path) -> None:
    """Remove a folder so that no reader ever sees half of it: rename it aside, then delete.

    Raises:
        FileNotFoundError: it is not there, or not any more.
        OSError: it cannot be renamed.
    """
    with partial_folder(path.parent) as trash:
        path.rename(trash / "old")


def sweep(parent: Path, unlocked: Sequence[str] = ()) -> list[Path]:
    """Remove what processes that died left under construction in ``parent``; return what it was.

    Args:
        parent: the folder; only its direct members are looked at.
        unlocked: patterns of further names, whose makers hold no lock; removed if a day old.
    """
    removed = [path for path in sorted(parent.glob(f"{PARTIAL}*")) if _removed_if_free(path)]
    old = [path for pattern in unlocked for path in parent.glob(pattern) if _is_old(path)]
    return removed + [path for path in sorted(set(old)) if _remove(path)]


def _is_stream(path: Path) -> bool:
    """Whether a name is a device or a pipe, or leads to an open file as ``/dev/stdout`` does."""
    if path.is_symlink() and path.absolute().parent == Path("/dev"):
        return True
    return path.exists() and not path.is_file() and not path.is_dir()


def _remove(path: Path) -> bool:
    """Delete a folder, or a file or link in its place; say whether it is gone."""
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
    return not os.path.lexists(path)


def _sweep_once(parent: Path) -> None:
    """Sweep a folder at its first use by this process."""
    place = parent.absolute()
    if place not in _swept:
        _swept.add(place)
        with suppress(OSError):
            sweep(parent)


def _hold(handle: int | None, path: str | Path) -> bool:
    """Lock what was just made, until the handle is closed; False if a sweep removed it before."""
    if handle is not None and sys.platform != "win32":
        with suppress(OSError):  # a file system without locks
            fcntl.flock(handle, fcntl.LOCK_SH)
    if os.path.lexists(path):
        return True
    if handle is not None:
        os.close(handle)
    return False


def _removed_if_free(path: Path) -> bool:
    """Remove something under construction that nobody works on; False if it is still there.

    It is locked meanwhile, so that whoever has just made it notices and begins again.
    """
    try:
        handle = os.open(path, os.O_RDONLY)
    except OSError:  # gone, somebody else's, or a system that opens no folders
        return _is_old(path) and _remove(path)
    try:
        return _is_free(handle, path) and _remove(path)
    finally:
        os.close(handle)


def _is_free(handle: int, path: Path) -> bool:
    if sys.platform == "win32":
        return _is_old(path)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return _is_old(path)
    return True


def _is_old(path: Path) -> bool:
    with suppress(OSError):
        return time.time() - path.stat().st_mtime > _ABANDONED_SECONDS
    return False


def _exchange(one: Path, other: Path) -> bool:
    """Swap the names of two folders at once (Linux); False if that cannot be done."""
    if sys.platform != "linux":
        return False
    swap = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one), os.fsencode(other)
    flags = _RENAME_EXCHANGE
    return swap is not None and swap(_AT_FDCWD, names[0], _AT_FDCWD, names[1], flags) == 0


@contextmanager
def _about(path: Path) -> Iterator[None]:
    """Name ``path`` in errors of the system, not the name that it has under construction."""
    try:
        yield
    except OSError as error:
        error.filename, error.filename2 = str(path), None
        raise


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask
