"""A watch over what a plugin's code opens and looks through (audit events, PEP 578).

Python reports every file that it opens, every folder that it lists, and every look at the stack or at
the objects of the garbage collector. While a watch is on, those that lead to held-out events are refused
with an error and remembered, so that swallowing the error helps nothing. Libraries that open files
without telling Python (polars) are asked by wrapping their readers.
"""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from bench.errors import MethodError

__all__ = ["Places", "Watch", "watched"]

# Their first argument is a path; a second name of a file is a road to it as well.
_PATH_EVENTS = frozenset({"open", "os.listdir", "os.scandir", "os.link", "os.rename"})
_PROGRAM_EVENTS = frozenset(
    {"subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn"}
)
_WORD_ENDS = re.compile(r"[\s'\"=<>|;&()`,:]+")
_STACK_EVENTS = frozenset(
    {"sys._getframe", "sys._current_frames", "sys.settrace", "sys.setprofile"}
    | {"gc.get_objects", "gc.get_referrers", "gc.get_referents"}
)
_MEMORY_EVENTS = frozenset({"ctypes.cdata", "ctypes.PyObj_FromPtr"})
_MEMORY_FILE = re.compile(r"/proc/[^/]+/(task/[^/]+/)?mem")
# What opens files, starts programs or reads memory behind Python's back, in libraries of every process.
_PROCESS_LIBRARY = re.compile(r"(libc|libpython)[.0-9].*")
_C_FUNCTION = re.compile(
    r"_?Py.*|(open|openat|fopen|mmap|creat)(64)?|system|popen|syscall|posix_spawnp?|exec\w+|process_vm_readv"
)
_REST = (
    "What a method may know is in its view, its requests and its context: sequences, timestamps, items "
    "and histories (docs/add-a-method.md)."
)


@dataclass(frozen=True, slots=True)
class Places:
    """Folders and files by what is in them; of nested ones the innermost counts.

    Attributes:
        data: prepared domains, their sources, candidate files.
        runs: stored runs.
        free: what the method may read, whatever lies around it.
    """

    data: tuple[Path, ...] = ()
    runs: tuple[Path, ...] = ()
    free: tuple[Path, ...] = ()

    def kind(self, path: str) -> str:
        """``data``, ``runs`` or ``free`` for a real path; "" for a place of no kind."""
        best, kind = -1, ""
        for name in ("data", "runs", "free"):
            for place in getattr(self, name):
                root = str(place)
                inside = path == root or path.startswith(root.rstrip(os.sep) + os.sep)
                if inside and len(root) > best:
                    best, kind = len(root), name
        return kind

    def resolved(self) -> Places:
        """The same places without links."""
        return Places(*(tuple(map(_real, getattr(self, n))) for n in ("data", "runs", "free")))


def _real(path: Path) -> Path:
    return Path(os.path.realpath(path))


@dataclass(eq=False)
class Watch:
    """What is refused while a plugin's code runs, and what was refused.

    Attributes:
        label: the method, for messages.
        module: top-level module of the plugin's code; "" if the stack may be looked at.
        places: real paths.
        owner: the thread of the harness, if the watch concerns what the plugin does between its phases
            alone: in other threads, or in calls that lead through its code. None: it concerns everything.
        seen: one sentence for everything that was refused since the watch was last put on.
        outside: how many calls lead to the plugin's own code that asked for the run, and waits for it.
    """

    label: str
    module: str
    places: Places
    owner: int | None = None
    seen: list[str] = field(default_factory=list)
    outside: int = 0

    def refuse(self, what: str) -> None:
        """Remember and raise.

        Raises:
            MethodError: always.
        """
        text = f"{self.label} {what}. {_REST}"
        if text not in self.seen:
            self.seen.append(text)
        raise MethodError(text)

    def look_at(self, path: Any) -> None:
        """Refuse a path that leads to held-out events."""
        if isinstance(path, bytes):
            path = os.fsdecode(path)
        if not isinstance(path, (str, os.PathLike)):
            return  # an open descriptor: its opening was seen
        for real in {os.path.realpath(path), *_below_open_folders(os.fspath(path))}:
            self._look_at_real(real)

    def look_at_command(self, words: Any) -> None:
        """Refuse a command of another program that names such a path."""
        if isinstance(words, (list, tuple)):
            for word in words:
                self.look_at_command(word)
        elif isinstance(words, (str, bytes, os.PathLike)):
            for word in _WORD_ENDS.split(os.fsdecode(words)):
                if os.sep in word:
                    self._look_at_real(os.path.realpath(_at_home(word)))

    def _look_at_real(self, real: str) -> None:
        if _MEMORY_FILE.fullmatch(real):
            self.refuse(
                f"reads {real}, the memory of a process, where the harness keeps the answers"
            )
        kind = self.places.kind(real)
        if kind == "data":
            self.refuse(
                f"reads {real}, which belongs to prepared domains: they hold the held-out events"
            )
        if kind == "runs":
            self.refuse(
                f"reads {real}, which belongs to stored runs: their ranks tell the held-out items"
            )

    def is_own(self, frame: FrameType | None) -> bool:
        """Whether the code that asks, or had ``inspect`` or ``ctypes`` ask, is the plugin's."""
        while frame is not None and frame.f_globals.get("__name__") in ("inspect", "ctypes"):
            frame = frame.f_back
        if frame is None or not self.module:
            return False
        name = frame.f_globals.get("__name__")
        return not isinstance(name, str) or name.partition(".")[0] in (self.module, "builtins")

    def concerns(self, frame: FrameType | None) -> bool:
        """Whether a call is the plugin's doing."""
        if self.owner is None or self.owner != threading.get_ident():
            return True
        return _depth(frame, self.module) > self.outside


def _depth(frame: FrameType | None, module: str) -> int:
    """Calls from the first one to the last one into a top-level module; 0 if none leads there."""
    depth = 0
    while frame is not None:
        own = str(frame.f_globals.get("__name__")).partition(".")[0] == module
        depth += bool(depth or own)
        frame = frame.f_back
    return depth


def _at_home(word: str) -> str:
    return str(Path.home()) + word[1:] if word.startswith("~/") else word


def _below_open_folders(path: str) -> set[str]:
    """What a relative path means below the folders that are open (``dir_fd``); Linux only."""
    folders = Path("/proc/self/fd")
    if Path(path).is_absolute() or Path(path).exists() or not folders.is_dir():
        return set()
    return {os.path.realpath(link / path) for link in folders.iterdir() if link.is_dir()}


_active: list[Watch] = []
_installed: list[bool] = []
_busy = threading.local()


def _audit(event: str, args: tuple[Any, ...]) -> None:
    if not _active or getattr(_busy, "yes", False):
        return
    is_path, is_program = event in _PATH_EVENTS, event in _PROGRAM_EVENTS
    look = "" if is_path or is_program else _look(event, args)
    if not (is_path or is_program or look):
        return
    watch = _active[-1]
    _busy.yes = True  # looking at the stack here is an event as well
    try:
        if look:
            if watch.is_own(sys._getframe(1)):
                watch.refuse(
                    f"looks through the running process ({look}), where the harness keeps the answers"
                )
        elif not watch.concerns(sys._getframe(1)):
            pass
        elif is_program:
            # Not the environment, which names the stand-ins.
            watch.look_at_command(args[:2])
        elif event != "open" or not _tells_nothing(args[2]):
            watch.look_at(args[0] if args[0] is not None else ".")
    finally:
        _busy.yes = False


def _look(event: str, args: tuple[Any, ...]) -> str:
    """What an event looks at in the process beside files; "" for nothing."""
    if event in _STACK_EVENTS or event in _MEMORY_EVENTS:
        return event
    if event == "object.__getattr__" and args[1] == "tb_frame":
        return "the frames of a traceback"
    if event == "ctypes.dlsym":
        names = [part for part in args if isinstance(part, str)]
        library = next((getattr(p, "_name", None) for p in args if not isinstance(p, str)), None)
        shared = library is None or _PROCESS_LIBRARY.fullmatch(Path(str(library)).name)
        if shared and names and _C_FUNCTION.fullmatch(names[0]):
            return f"{names[0]} by ctypes"
    return ""


def _tells_nothing(flags: Any) -> bool:
    """Whether the file is made or emptied by opening it."""
    made = os.O_CREAT | os.O_EXCL
    return isinstance(flags, int) and bool(flags & os.O_TRUNC or flags & made == made)


@contextmanager
def watched(watch: Watch) -> Iterator[None]:
    """Keep the watch on for as long as the block runs.

    The hook stays installed, as hooks cannot be removed, and does nothing outside of such a block.

    Raises:
        MethodError: something was refused, whether the block passed the error on or not.
    """
    if not _installed:
        sys.addaudithook(_audit)
        _installed.append(True)
    watch.seen.clear()
    # A run that a plugin's code starts while it is watched itself is its doing.
    watch.outside = _active[0].outside if _active else _depth(sys._getframe(1), watch.module)
    polars = sys.modules.get("polars")
    with nullcontext() if polars is None else _asked_first(polars):
        _active.append(watch)
        try:
            yield
        except Exception as error:
            if watch.seen and str(error) != watch.seen[0]:
                raise MethodError(watch.seen[0]) from error
            raise
        finally:
            _active.remove(watch)
    if watch.seen:
        raise MethodError(watch.seen[0])


_readers: dict[str, tuple[Any, Any]] = {}


@contextmanager
def _asked_first(module: ModuleType) -> Iterator[None]:
    """Show the paths that a module's readers get to the watch first."""
    if not _readers:
        names = [name for name in vars(module) if name.startswith(("read_", "scan_"))]
        _readers.update({n: (getattr(module, n), _asking(getattr(module, n))) for n in names})
    for name, (_, asking) in _readers.items():
        setattr(module, name, asking)
    try:
        yield
    finally:
        for name, (original, _) in _readers.items() if not _active else ():
            setattr(module, name, original)


def _asking(reader: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(reader)
    def asking(*args: Any, **kwargs: Any) -> Any:
        concerned = bool(_active) and _active[-1].concerns(sys._getframe(1))
        for value in (*args[:1], *kwargs.values()) if concerned else ():
            for path in value if isinstance(value, (list, tuple)) else (value,):
                if isinstance(path, (str, os.PathLike)):
                    _active[-1].look_at(_without_pattern(path))
        return reader(*args, **kwargs)

    return asking


def _without_pattern(path: str | os.PathLike[str]) -> Path:
    """The folder that a pattern such as ``runs/**/*.parquet`` looks through; other paths as they are."""
    parts = Path(path).parts
    plain = next((i for i, part in enumerate(parts) if set(part) & set("*?[")), len(parts))
    return Path(*parts[:plain])
