"""Code of a plugin in the place of this package's own."""

from __future__ import annotations

import sys
from types import FunctionType
from typing import Any

__all__ = ["replaced_code"]


def replaced_code(module: str) -> list[str]:
    """Functions and methods of this package that code of a top-level module has replaced, by name.

    None for code of this package itself (``module`` is "").
    """
    found: list[str] = []
    for name, owner in sorted(sys.modules.items()):
        if name.partition(".")[0] != "bench" or owner is None or not module:
            continue
        for key, value in list(vars(owner).items()):
            if _is_from(value, module):
                found.append(f"{name}.{key}")
            if isinstance(value, type) and value.__module__ == name:
                members = list(vars(value).items())
                found += [f"{name}.{key}.{m}" for m, part in members if _is_from(part, module)]
    return found


def _is_from(value: Any, module: str) -> bool:
    kind = type(value)
    if kind is property:
        value = value.fget
    elif kind is classmethod or kind is staticmethod:
        value = value.__func__
    if type(value) is not FunctionType:
        return False
    own = value.__globals__.get("__name__")
    return isinstance(own, str) and own.partition(".")[0] == module
