"""From an exception to one sentence and an exit code; the only place where the two are decided."""

from __future__ import annotations

import errno
import os

from bench.errors import BenchError, missing_package, system_error

__all__ = ["debugging", "explain"]

INTERRUPTED = 130

_ADVICE: dict[int, str] = {
    errno.EACCES: "Choose another place, or give yourself the permission.",
    errno.EPERM: "Choose another place, or give yourself the permission.",
    errno.EROFS: "Choose another place: this disk is mounted for reading only.",
    errno.ENOENT: "Check the path.",
    errno.EISDIR: "Expected a file; name one, or remove the folder.",
    errno.ENOTDIR: "A part of the path is a file; name a folder.",
    errno.EEXIST: "Remove it first, or name another place.",
    errno.ENOTEMPTY: "Remove it first, or name another place.",
    errno.ENAMETOOLONG: "Choose a shorter name.",
    errno.ELOOP: "Its links lead in a circle; correct them.",
    errno.EMFILE: "Raise the limit of open files (ulimit -n).",
}
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


def debugging() -> bool:
    """Whether ``BENCH_DEBUG`` asks for tracebacks instead of sentences."""
    return bool(os.environ.get("BENCH_DEBUG"))


def explain(error: BaseException) -> tuple[str, int]:
    """What to tell about an exception, and the exit code.

    Everything that the package raises on purpose says itself what to do. What the system refuses is
    told with its file and a way out. The rest is a fault of a program: it is called unexpected, with
    the way to its traceback.
    """
    if isinstance(error, BenchError):
        return str(error), error.exit_code
    if isinstance(error, KeyboardInterrupt):
        return (
            "interrupted; finished runs are stored, the same command goes on from here.",
            INTERRUPTED,
        )
    if (system := system_error(error)) is not None:
        return _system(system), 1
    if isinstance(error, ImportError) and (missing := missing_package(error)):
        return str(missing), missing.exit_code
    if isinstance(error, MemoryError):
        return (
            "the memory of this machine is used up. Repeat with less at once (fewer methods or targets, "
            "--limit-users, a smaller batch) or on a larger machine.",
            1,
        )
    return _unexpected(error), 1


def _system(error: OSError) -> str:
    if error.errno in _DISK_FULL:
        where = f" while writing {error.filename}" if error.filename else ""
        return (
            f"the disk is full{where}. Nothing half-written was kept; free some space or choose another "
            "folder (BENCH_STORE, BENCH_CACHE) and repeat the command."
        )
    names = [str(name) for name in (error.filename, error.filename2) if name is not None]
    reason = error.strerror or type(error).__name__
    advice = _ADVICE.get(error.errno or 0, "Repeat with BENCH_DEBUG=1 to see where.")
    return f"{' -> '.join(map(_shortened, names)) or 'the system'}: {reason}. {advice}"


def _shortened(name: str) -> str:
    return name if len(name) <= 300 else f"{name[:150]}...{name[-50:]}"


def _unexpected(error: BaseException) -> str:
    text = " ".join(str(error).split())
    named = f"{type(error).__name__}{': ' if text else ''}{_shortened(text)}"
    from bench.methods.plugin_files import plugin_place

    place = plugin_place(error)
    whose = f"in {place}, a plugin" if place else "which is a fault of weavebench"
    return (
        f"unexpected {named}, {whose}. Nothing half-written was kept. Repeat the command with "
        "BENCH_DEBUG=1 for the traceback" + ("." if place else ", and report it.")
    )
