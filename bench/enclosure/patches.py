"""Code of a plugin in the place of this package's own, NumPy's or Python's."""

from __future__ import annotations

import builtins
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from types import FunctionType
from typing import Any

import numpy as np

__all__ = ["Code", "replaced_code"]

_DESCRIPTORS = (classmethod, property, staticmethod)


@dataclass(frozen=True, slots=True)
class Code:
    """What stands where in this package, in NumPy's and in Python's own namespace at one time.

    Attributes:
        places: what was callable, with its owner and its key, by full name.
    """

    places: Mapping[str, tuple[Any, str, Any]]

    @classmethod
    def now(cls) -> Code:
        """The code as it is now."""
        return cls({name: (owner, key, value) for name, owner, key, value in _places()})

    def restored(self) -> list[str]:
        """Put back what was replaced since, and return its names."""
        found = []
        for name, (owner, key, value) in self.places.items():
            if vars(owner).get(key, value) is not value:
                setattr(owner, key, value)
                found.append(name)
        return found


def replaced_code(module: str) -> list[str]:
    """What code of a top-level module has replaced of that, by name.

    None for code of this package itself (``module`` is "").
    """
    return [name for name, _, _, value in _places() if module and _is_from(value, module)]


def _places() -> Iterator[tuple[str, Any, str, Any]]:
    modules = [(n, m) for n, m in sys.modules.items() if n.partition(".")[0] == "bench" and m]
    for name, owner in sorted(modules, key=lambda named: named[0]):
        for key, value in list(vars(owner).items()):
            if callable(value):
                yield f"{name}.{key}", owner, key, value
            if isinstance(value, type) and value.__module__ == name:
                for part, member in list(vars(value).items()):
                    if callable(member) or isinstance(member, _DESCRIPTORS):
                        yield f"{name}.{key}.{part}", value, part, member
    for owner in (builtins, np):
        for key, value in list(vars(owner).items()):
            if callable(value):
                yield f"{owner.__name__}.{key}", owner, key, value


def _is_from(value: Any, module: str) -> bool:
    if isinstance(value, partial):
        value = value.func
    elif isinstance(value, property):
        value = value.fget
    elif isinstance(value, (classmethod, staticmethod)):
        value = value.__func__
    if isinstance(value, FunctionType):
        own = value.__globals__.get("__name__")
    else:  # an instance that can be called; classes of plugins are registered in many places
        own = type(value).__module__
    return isinstance(own, str) and own.partition(".")[0] == module
