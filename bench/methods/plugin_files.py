"""Methods from single files, faults in the code of plugins, and content hashes of their sources."""

from __future__ import annotations

import hashlib
import inspect
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.abc import ExecutionLoader
from importlib.machinery import ModuleSpec
from importlib.util import decode_source, module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from bench.errors import BenchError, ConfigError, MethodError, cause, unknown_name
from bench.io import canonical_json
from bench.methods.base import Method
from bench.registry import module_sha256, plugin_packages

__all__ = ["is_file_name", "load_file", "plugin_code", "plugin_place", "source_sha256"]

_PRIVATE = "_weavebench_plugin_"


def is_file_name(name: str) -> bool:
    """Whether a method name means a Python file: ``x.py`` or ``x.py:Class``."""
    return name.endswith(".py") or ".py:" in name


class _BytesLoader(ExecutionLoader):
    """Runs exactly the bytes that were hashed, and writes no ``__pycache__`` beside the file."""

    def __init__(self, path: Path, source: bytes) -> None:
        self._path = path
        self._source = source

    def is_package(self, fullname: str) -> bool:
        return False

    def get_filename(self, fullname: str) -> str:
        return str(self._path)

    def get_source(self, fullname: str) -> str:
        return decode_source(self._source)


def load_file(name: str) -> Any:
    """Load a method class from ``path/to/file.py:Class``.

    The file is imported under a private module name made of its path and content, so that it can
    neither shadow nor be shadowed by another module, and an edited file is loaded anew. ``sys.path``
    is not changed: the file may import installed packages only, not its neighbours.

    Args:
        name: the path, a colon and the class name; the class may be left out if the file defines
            exactly one method.

    Returns:
        the class, unchecked.

    Raises:
        ConfigError: no such file or class.
        MethodError: the file fails on import.
    """
    file, marker, class_name = name.rpartition(".py:")
    path = Path(file + ".py" if marker else name).expanduser()
    try:
        source = path.read_bytes()
    except OSError as error:
        raise ConfigError(
            f"{path}: cannot read the method's file ({error.strerror}). "
            "Expected path/to/file.py:ClassName; `bench new method NAME` writes a working file."
        ) from error
    module = _load_module(path.resolve(), source)
    own = {
        key: value
        for key, value in vars(module).items()
        if isinstance(value, type)
        and issubclass(value, Method)
        and value.__module__ == module.__name__
    }
    if marker:
        if not hasattr(module, class_name):
            raise unknown_name(f"class in {path}", class_name, own)
        return getattr(module, class_name)
    concrete = [key for key, value in own.items() if not inspect.isabstract(value)]
    if len(concrete) != 1:
        found = ", ".join(concrete) or "none"
        raise ConfigError(
            f"{path}: {len(concrete)} method classes ({found}), expected one. "
            f"Name the class: {path}:ClassName."
        )
    return own[concrete[0]]


def _load_module(path: Path, source: bytes) -> ModuleType:
    digest = hashlib.sha256(source).hexdigest()
    key = hashlib.sha256(canonical_json([str(path), digest])).hexdigest()[:24]
    module_name = _PRIVATE + key
    if module_name in sys.modules:
        return sys.modules[module_name]
    loader = _BytesLoader(path, source)
    spec = ModuleSpec(module_name, loader, origin=str(path))
    spec.has_location = True
    module = module_from_spec(spec)
    module.__dict__["__weavebench_sha256__"] = digest
    # pydantic and dataclasses look annotations up in sys.modules while the class is being made.
    sys.modules[module_name] = module
    try:
        loader.exec_module(module)
    # A script that ends its process has no business in this one, and would end it without a word.
    except (Exception, SystemExit) as error:
        del sys.modules[module_name]
        place = f"{path}, line {error.lineno}" if isinstance(error, SyntaxError) else None
        raise MethodError(
            f"{place or plugin_place(error) or path}: the method's file fails on import: "
            f"{cause(error)}. "
            "(It may import installed packages, not neighbouring files.)"
        ) from error
    return module


@contextmanager
def plugin_code() -> Iterator[None]:
    """Name file and line where the code of a plugin fails, or ends the process, inside the block.

    Raises:
        MethodError: instead of an exception that came out of a plugin's own code.
    """
    try:
        yield
    except (BenchError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        place = plugin_place(error)
        if place is None:
            raise
        raise MethodError(
            f"{place}: the method's code failed with {cause(error)}. BENCH_DEBUG=1 "
            "shows the traceback; `bench check` tests a method on small data."
        ) from error


def plugin_place(error: BaseException) -> str | None:
    """File and line of the innermost frame of a plugin's code; None if none was passed."""
    packages = plugin_packages()
    place, trace = None, error.__traceback__
    while trace is not None:
        module = str(trace.tb_frame.f_globals.get("__name__", ""))
        if module.startswith(_PRIVATE) or module.partition(".")[0] in packages:
            place = f"{trace.tb_frame.f_code.co_filename}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place


def source_sha256(cls: type[Method]) -> str | None:
    """Identity of a plugin's source code, part of a run's id; None for classes of this package.

    Raises:
        MethodError: a class whose source is on no disk, see :func:`bench.registry.module_sha256`.
    """
    return module_sha256(cls.__module__, f"{cls.__module__}.{cls.__qualname__}")
