"""Detect side effects: global state that changed, files that were written, inputs that were altered."""

from __future__ import annotations

import io
import logging
import os
import random
import sys
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from bench.io import cache_root

__all__ = [
    "global_state",
    "restore_state",
    "state_changes",
    "watch_prints",
    "watch_writes",
]

# Importing a library for the first time may legitimately extend these (PyTorch's compiler sets an
# environment variable, for example); a second call may not.
IMPORT_EFFECTS = frozenset({"warnings filters", "root logger", "sys.path", "environment"})
# Excused only in a call that loads something: scikit-learn, for one, draws as it is loaded.
LOADING_EFFECTS = frozenset({"random module"})
# The folder that PyTorch's compiler makes in the temporary folder when it is imported.
_COMPILER_CACHE = "torchinductor_"

_MOST_PRINTS = 5
_WRITE_FLAGS = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Where an event has a path, and where the descriptor of the folder that the path is relative to.
_PATH_EVENTS: Mapping[str, tuple[tuple[int, int | None], ...]] = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
}


def global_state() -> dict[str, Any]:
    """Comparable snapshot of the process-wide state that a method must leave alone.

    PyTorch's part is included when PyTorch is loaded already; nothing is imported here.
    """
    legacy: Any = np.random.get_state(legacy=True)  # noqa: NPY002 - read, to see whether it changed
    root = logging.getLogger()
    state: dict[str, Any] = {
        "random module": random.getstate(),
        "numpy.random": (legacy[0], legacy[1].tobytes(), *legacy[2:]),
        "sys.argv": tuple(sys.argv),
        "sys.path": tuple(sys.path),
        "working directory": str(Path.cwd()),
        "environment": dict(os.environ),
        "warnings filters": tuple(map(str, warnings.filters)),
        "root logger": (root.level, tuple(map(id, root.handlers))),
        "numpy error handling": tuple(sorted(np.geterr().items())),
        "numpy attributes": frozenset(
            key for key, value in vars(np).items() if not isinstance(value, type(sys))
        ),
    }
    torch = sys.modules.get("torch")
    if torch is not None:
        state["torch random state"] = torch.get_rng_state().numpy().tobytes()
        state["torch threads"] = torch.get_num_threads()
        state["torch default dtype"] = str(torch.get_default_dtype())
        state["torch deterministic algorithms"] = torch.are_deterministic_algorithms_enabled()
        state["torch gradients"] = torch.is_grad_enabled()
        # Some libraries switch it on when imported; every operation then formats a traceback.
        state["torch anomaly detection"] = torch.is_anomaly_enabled()
    return state


def state_changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, str]:
    """What changed between two snapshots: name -> description. Parts new in ``after`` are left out."""
    changes = {}
    for key, old in before.items():
        new = after.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            differing = sorted(k for k in {*old, *new} if old.get(k) != new.get(k))
            changes[key] = f"{key} ({', '.join(differing)})"
        elif isinstance(old, frozenset) and isinstance(new, frozenset):
            changes[key] = f"{key} ({', '.join(sorted(old ^ new))})"
        elif isinstance(old, (str, int)) and isinstance(new, (str, int)):
            changes[key] = f"{key} ({old!r} -> {new!r})"
        else:
            changes[key] = key
    return changes


def restore_state(before: Mapping[str, Any]) -> None:
    """Put back what can be put back, so that one offender does not disturb what follows."""
    random.setstate(before["random module"])
    name, key, *rest = before["numpy.random"]
    np.random.set_state((name, np.frombuffer(key, dtype=np.uint32), *rest))  # noqa: NPY002
    sys.argv[:] = before["sys.argv"]
    sys.path[:] = before["sys.path"]
    os.chdir(before["working directory"])
    for variable in [v for v in os.environ if v not in before["environment"]]:
        del os.environ[variable]
    os.environ.update(before["environment"])
    np.seterr(**dict(before["numpy error handling"]))
    if "torch threads" in before:
        torch = sys.modules["torch"]
        torch.set_rng_state(
            torch.frombuffer(bytearray(before["torch random state"]), dtype=torch.uint8)
        )
        torch.set_num_threads(before["torch threads"])
        torch.set_grad_enabled(before["torch gradients"])
        torch.autograd.set_detect_anomaly(before["torch anomaly detection"])
        wanted = before["torch deterministic algorithms"]
        if torch.are_deterministic_algorithms_enabled() != wanted:  # setting it imports a compiler
            torch.use_deterministic_algorithms(wanted)


class _Recorder:
    def __init__(self, allowed: list[Path]) -> None:
        self.allowed = [Path(os.path.realpath(path)) for path in allowed]
        self.paths: list[str] = []
        self._temporary = Path(os.path.realpath(tempfile.gettempdir()))

    def see(self, path: Any) -> None:
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, (str, os.PathLike)):
            return  # a file descriptor: its opening was seen
        real = Path(os.path.realpath(path))
        if real.name.startswith(_COMPILER_CACHE) and real.parent == self._temporary:
            return
        if real.parts[1:2] in (("dev",), ("proc",)) or "__pycache__" in real.parts:
            return
        if not any(real.is_relative_to(folder) for folder in self.allowed):
            self.paths.append(str(real))


_active: list[_Recorder] = []
_installed: list[bool] = []


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _active:
        return
    if event == "open":
        path, _, flags = args
        if isinstance(flags, int) and flags & _WRITE_FLAGS:
            _active[-1].see(path)
    elif event in _PATH_EVENTS:
        for position, folder in _PATH_EVENTS[event]:
            path = _in_folder(args[position], None if folder is None else args[folder])
            if path is not None:
                _active[-1].see(path)


def _in_folder(path: Any, descriptor: int | None) -> Any:
    """The path, or where it lies below the folder of an open descriptor; None if nobody can tell.

    ``shutil.rmtree`` removes by name and descriptor; the folder itself is seen by its own path.
    """
    if descriptor is None or descriptor < 0 or not isinstance(path, str | bytes | os.PathLike):
        return path
    try:
        folder = Path(f"/proc/self/fd/{descriptor}").readlink()
    except OSError:
        return None
    return os.path.join(folder, os.fsdecode(path))  # noqa: PTH118 - the path may be absolute


@contextmanager
def watch_writes(allowed: list[Path]) -> Iterator[list[str]]:
    """Record files that are opened for writing, made, renamed or removed outside ``allowed``.

    Sees everything that goes through Python (an audit hook, PEP 578), and new entries of the working
    directory by comparing its listing. The cache folder of this package is always allowed. The hook
    stays installed, as hooks cannot be removed, and does nothing outside of this block.

    Yields:
        the list of offending paths; complete when the block has ended.
    """
    if not _installed:
        sys.addaudithook(_audit)
        _installed.append(True)
    recorder = _Recorder([*allowed, cache_root()])
    folder = Path.cwd()
    before = {entry.name for entry in folder.iterdir()}
    _active.append(recorder)
    try:
        yield recorder.paths
    finally:
        _active.remove(recorder)
        after = {entry.name for entry in folder.iterdir()}
        for name in sorted(after - before - {"__pycache__"}):
            if str(folder / name) not in recorder.paths:
                recorder.see(str(folder / name))


class _Aside(io.TextIOBase):
    """Passes text on to another stream and keeps its begin."""

    def __init__(self, stream: TextIO, seen: list[str]) -> None:
        self._stream = stream
        self._seen = seen

    @property
    def encoding(self) -> str:  # type: ignore[override]
        return self._stream.encoding

    def writable(self) -> bool:
        return True

    def isatty(self) -> bool:
        return self._stream.isatty()

    def fileno(self) -> int:
        return self._stream.fileno()

    def flush(self) -> None:
        self._stream.flush()

    def write(self, text: str) -> int:
        if text.strip() and len(self._seen) < _MOST_PRINTS:
            self._seen.append(text.strip())
        return self._stream.write(text)


@contextmanager
def watch_prints() -> Iterator[list[str]]:
    """Record what is written to standard output and pass it on to standard error.

    Sees ``sys.stdout`` and, if the process has one, the file descriptor behind it, so that
    compiled code and child processes count as well.

    Yields:
        the begin of what was written, piece by piece; complete when the block has ended.
    """
    seen: list[str] = []
    plain = sys.stdout
    plain.flush()
    try:
        original = os.dup(1)
    except OSError:  # the process has no standard output
        with redirect_stdout(_Aside(sys.stderr, seen)):
            yield seen
        return
    with tempfile.TemporaryFile() as file:
        os.dup2(file.fileno(), 1)
        try:
            with redirect_stdout(_Aside(sys.stderr, seen)):
                yield seen
        finally:
            plain.flush()  # a handler may have kept the stream
            os.dup2(original, 1)
            os.close(original)
            file.seek(0)
            text = file.read().decode(errors="replace")
            if text:
                _Aside(sys.stderr, seen).write(text)
