"""Leaf for folders that are made once: used only as they were written, and else refused.

The maker seals a folder with the SHA-256 of every file in it. Whoever uses it compares them first, once
per process. A folder that differs is neither used nor made again without a word: the message names the
command that removes it, after which it is made when it is needed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from bench.errors import ConfigError, ResultError, did_you_mean
from bench.io import cache_root, lock, read_json, sha256_file, write_json
from bench.partial import discard, sweep

__all__ = ["KINDS", "SEAL", "clean", "difference", "entries", "intact", "locate", "remove", "seal"]

SEAL = "seal.json"

KINDS: Mapping[str, str] = {
    "backbones": "converted language models",
    "domains-cache": "prepared domains",
    "pretraining": "first stages of training",
    "text-vectors": "vectors of texts",
}
"""Folders of sealed folders below the cache root, and what they hold."""

_compared: set[tuple[str, int, int, int, int, str]] = set()


def seal(folder: Path) -> None:
    """Record the SHA-256 of every file below ``folder`` in its ``seal.json``."""
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != SEAL
    }
    write_json(folder / SEAL, {"files": files})


def intact(
    folder: Path,
    *,
    recorded: Callable[[], Mapping[str, str]] | None = None,
    digest: Callable[[Path], str] = sha256_file,
) -> bool:
    """Whether a sealed folder is there. Its files are compared at the first use in a process.

    Args:
        folder: the folder.
        recorded: SHA-256 by file of a folder that an earlier version made and did not seal; if
            they fit, it is sealed now. None: such a folder counts as absent.
        digest: reads the SHA-256 of a file.

    Raises:
        ResultError: a file is absent or was changed; the message names the command that mends it.
    """
    sealed = (folder / SEAL).is_file()
    if not folder.is_dir() or not (sealed or recorded):
        return False
    try:
        files = dict(read_json(folder / SEAL)["files"] if sealed or not recorded else recorded())
        problem = difference(folder, files, digest)
    except (ResultError, LookupError, TypeError, ValueError) as error:
        problem = f"its record of checksums cannot be read ({error!r})"
    if problem and not folder.is_dir():
        return False  # removed meanwhile
    if problem:
        raise ResultError(
            f"{folder}: damaged: {problem}. Remove it with `bench cache rm {folder.name}`; it is made "
            "again when it is needed."
        )
    if not sealed:
        with suppress(OSError):  # a cache that may only be read
            seal(folder)
    return True


def difference(
    folder: Path, files: Mapping[str, str], digest: Callable[[Path], str] = sha256_file
) -> str:
    """What is wrong with the first file that is not as its SHA-256 says; "" if none is.

    A file is read once per process, unless its size, times or inode change.
    """
    for name, expected in files.items():
        path = folder / name
        try:
            status = path.stat()
            stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
            key = (str(path.absolute()), *stamp, expected)
            if key in _compared:
                continue
            found = digest(path)
        except (FileNotFoundError, NotADirectoryError):
            return f"{name} is missing"
        if found != expected:
            return f"{name} was changed: SHA-256 {found[:12]}..., recorded is {expected[:12]}..."
        _compared.add(key)
    return ""


def entries() -> dict[str, list[Path]]:
    """The folders of every kind in the cache, sealed or not, by name."""
    found = {}
    for kind in KINDS:
        root = cache_root() / kind
        folders = root.iterdir() if root.is_dir() else ()
        found[kind] = sorted(
            path
            for path in folders
            if path.is_dir() and path.name[0] != "." and not path.name.endswith(("hashes", ".work"))
        )
    return found


def locate(name: str) -> Path:
    """The folder in the cache of that name.

    Raises:
        ConfigError: there is none.
    """
    known = {path.name: path for folders in entries().values() for path in folders}
    if name not in known:
        raise ConfigError(
            f"no {name!r} in the cache {cache_root()}.{did_you_mean(name, known)} "
            "`bench cache list` shows what is there."
        )
    return known[name]


def remove(folder: Path) -> None:
    """Delete a folder of the cache at once; it is made again when it is needed.

    Raises:
        ResultError: a process is making it.
    """
    with lock(folder, timeout=5.0), suppress(FileNotFoundError):
        discard(folder)


def clean() -> list[Path]:
    """Delete what killed processes left under construction in the cache; return what it was.

    Checkpoints of interrupted first stages go, too, unless a process works on them. Adapters have a
    verb of their own.
    """
    removed = []
    roots = sorted(path for path in cache_root().glob("*/") if path.is_dir())
    for root in (cache_root(), *roots):
        removed += sweep(root, (".partial-*",))  # names without a lock: of earlier versions
        for work in sorted(root.glob("?*.work")):
            with suppress(ResultError, FileNotFoundError), lock(work.with_suffix(""), timeout=0):
                discard(work)
                removed.append(work)
    return removed
