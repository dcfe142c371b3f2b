"""Walk over everything that can be reached from an object without the names of modules."""

from __future__ import annotations

import contextlib
import functools
import gc
import logging
import sys
import types
import weakref
from collections import deque
from collections.abc import Iterator
from pathlib import PurePath
from typing import Any

import numpy as np

from bench.data.domain import Items

__all__ = ["reachable"]

_MAX_OBJECTS = 500_000
_MAX_TENSOR = 10_000
_ATOMS = (
    str, bytes, bytearray, int, float, complex, bool, type(None), np.generic, PurePath, type,
    types.CodeType,
)  # fmt: skip
_PLAIN = (list, tuple, set, frozenset, deque)
_CLOSED = (types.ModuleType, logging.Logger, logging.Handler, Items)


def reachable(root: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Objects reachable from ``root``, breadth first, each once, with the path that leads there.

    Follows attributes, slots, properties of this package's classes, containers, closures, defaults,
    bound methods, partial objects, weak references, local variables of suspended generators and of
    kept frames, the memory behind array views, and whatever else the garbage collector knows an
    object to refer to. It does not follow what is reached by name: modules, their globals, classes,
    loggers, and the callers of a frame.
    """
    queue: deque[tuple[str, Any]] = deque([(name, root)])
    seen: dict[int, Any] = {}  # keeps the objects alive, so that an id is never used twice
    globals_of_modules = {id(vars(module)) for module in list(sys.modules.values())}
    while queue and len(seen) < _MAX_OBJECTS:
        path, value = queue.popleft()
        if (
            id(value) in seen
            or id(value) in globals_of_modules
            or isinstance(value, (*_ATOMS, *_CLOSED))
        ):
            continue
        seen[id(value)] = value
        yield path, value
        queue.extend(_children(path, value))


def _children(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, np.ndarray):
        if value.base is not None:
            yield f"{path}.base", value.base
        if value.dtype.kind != "O":
            return
        yield f"{path}.tolist()", value.ravel().tolist()
    elif isinstance(value, memoryview):
        yield f"{path}.obj", value.obj
    elif isinstance(value, dict):
        for key, item in value.items():
            yield f"{path}[{key!r}]", item
            yield f"{path} key {key!r}", key
        if type(value) is not dict:
            yield from _attributes(path, value)
    elif isinstance(value, _PLAIN):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
        if type(value) not in _PLAIN:
            yield from _attributes(path, value)
    elif isinstance(value, types.FunctionType):
        for cell_name, cell in zip(
            value.__code__.co_freevars, value.__closure__ or (), strict=True
        ):
            if _filled(cell):
                yield f"{path} closure {cell_name}", cell.cell_contents
        yield f"{path}.__defaults__", value.__defaults__
        yield f"{path}.__kwdefaults__", value.__kwdefaults__
        yield f"{path}.__dict__", vars(value)
    elif isinstance(value, types.MethodType):
        yield f"{path}.__self__", value.__self__
        yield f"{path}.__func__", value.__func__
    elif isinstance(value, functools.partial):
        yield f"{path}.args", (value.func, value.args, value.keywords)
    elif isinstance(value, types.GeneratorType):
        if value.gi_frame is not None:
            yield f"{path} locals", dict(value.gi_frame.f_locals)
    elif isinstance(value, types.FrameType):
        yield f"{path} locals", dict(value.f_locals)
    elif isinstance(value, weakref.ReferenceType):
        yield f"{path}()", value()
        yield f"{path}.__callback__", value.__callback__
    elif _is_tensor(value):
        tensor = value.detach()
        if not tensor.is_floating_point() or tensor.numel() <= _MAX_TENSOR:
            # A copy: the memory of a shared array leads back to a new tensor, without end.
            plain = tensor.float() if tensor.is_floating_point() else tensor
            yield f"{path}.numpy()", plain.cpu().numpy().copy()
    else:
        yield from _attributes(path, value)
        yield from _properties(path, value)
        for number, item in enumerate(gc.get_referents(value)):
            yield f"{path} referent {number}", item


def _is_tensor(value: Any) -> bool:
    return type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach")


def _attribute(value: Any, name: str) -> Any:
    """An attribute, or None: objects of others answer with anything and raise anything."""
    try:
        return getattr(value, name, None)
    except Exception:
        return None


def _attributes(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    # llvmlite's wrapper of a C library answers to __dict__ as to any name, with a function.
    if isinstance(found := _attribute(value, "__dict__"), dict):
        for attribute, item in list(found.items()):
            yield f"{path}.{attribute}", item
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__"):
                yield f"{path}.{slot}", _attribute(value, slot)
    # The list of weak references leads to their callbacks, and these to what made them. Before Python 3.11.5
    # dataclasses with slots inherit a descriptor of another class, which raises a TypeError.
    for number, reference in enumerate(weakref.getweakrefs(value)):
        yield f"{path}.__weakref__[{number}]", reference


def _properties(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Values of the properties of this package's classes, which compute what no attribute holds."""
    for cls in type(value).__mro__:
        if cls.__module__.partition(".")[0] != "bench":
            continue
        for name, member in vars(cls).items():
            if isinstance(member, property):
                with contextlib.suppress(Exception):
                    yield f"{path}.{name}", getattr(value, name)


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises if the cell is empty
    except ValueError:
        return False
    return True
