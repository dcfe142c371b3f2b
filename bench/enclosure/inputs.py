"""What a method is given stays as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.io import hash_arrays

__all__ = ["arrays_of", "frozen"]


@contextmanager
def frozen(arrays: Mapping[str, NDArray[Any]], report: Callable[[str], None]) -> Iterator[None]:
    """Make arrays read-only for as long as the block runs and report those whose content changed."""
    before = {name: _hash(array) for name, array in arrays.items()}
    writeable = [array for array in arrays.values() if array.flags.writeable]
    for array in writeable:
        array.flags.writeable = False
    try:
        yield
    finally:
        for array in writeable:
            array.flags.writeable = True
        for name, array in arrays.items():
            if _hash(array) != before[name]:
                report(name)


def _hash(array: NDArray[Any]) -> str:
    # Rows of a broadcast are one row in memory.
    return hash_arrays({"": array[:1] if array.ndim and array.strides[0] == 0 else array})


def arrays_of(value: Any, name: str) -> dict[str, NDArray[Any]]:
    """Every array of nested dataclasses (views, requests, sequences), by dotted name."""
    if isinstance(value, np.ndarray):
        return {name: value}
    found: dict[str, NDArray[Any]] = {}
    if isinstance(value, tuple):
        for index, part in enumerate(value):
            found |= arrays_of(part, f"{name}[{index}]")
    for field in getattr(value, "__dataclass_fields__", ()):
        found |= arrays_of(getattr(value, field), f"{name}.{field}")
    return found
