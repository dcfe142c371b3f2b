"""The tripwire task: held-out items that occur nowhere else, and a search for them.

Every user's validation and test item is a *canary*: an item that nobody else interacts with and that
no training sequence holds. A canary in training data, or a user's own test canary among candidates,
can only come from the held-out half.
"""

from __future__ import annotations

import functools
import logging
import types
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain, Items, Sequences
from bench.data.strings import StringColumn
from bench.protocol.task import RequestSet, Task, build_task
from bench.protocol.types import Requests
from bench.testing.planted import make_domain

__all__ = ["Tripwire", "held_out_paths", "make_tripwire"]

# The canaries' numbers are larger than any offset, user number or usual hyper-parameter of so small a
# task, so that a number in their range is an item.
_N_ITEMS = 1200
_VALID, _TEST = 1101, 1151
_N_USERS = 40
_MAX_OBJECTS = 500_000


@dataclass(frozen=True)
class Tripwire:
    """A task with canaries.

    Attributes:
        task: the task; user u of target and sources has test item ``test[u]``.
        valid: int, shape ``(n_users,)``, validation canaries by canonical user index.
        test: int, shape ``(n_users,)``, test canaries.
        ids: raw item ids and titles of the test canaries -> item index.
    """

    task: Task
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    ids: Mapping[str, int]


def make_tripwire(*, n_sources: int = 0) -> Tripwire:
    """Make the tripwire task; sources have canaries with the same numbers in their own vocabulary."""
    domains = [_canary_domain(number) for number in range(n_sources + 1)]
    titles = domains[0].items.titles
    ids: dict[str, int] = {}
    for item in range(_TEST, _TEST + _N_USERS):
        ids |= {domain.items.ids[item]: item for domain in domains}
        ids[titles[item]] = item
    return Tripwire(
        task=build_task(domains[0], sources=domains[1:]),
        valid=np.arange(_VALID, _VALID + _N_USERS),
        test=np.arange(_TEST, _TEST + _N_USERS),
        ids=ids,
    )


def _canary_domain(number: int) -> Domain:
    rng = np.random.default_rng(number)
    rows = []
    for user in range(_N_USERS):
        start, length = int(rng.integers(100)), int(rng.integers(5, 9))
        walk = [(start + step) % 100 for step in range(length)]
        rows.append([*walk, _VALID + user, _TEST + user])
    prefix = "item" if number == 0 else f"source{number}-"
    name = "tripwire" if number == 0 else f"tripwire-source-{number}"
    return make_domain(name, rows, n_items=_N_ITEMS, item_prefix=prefix)


def held_out_paths(root: Any, name: str, wire: Tripwire) -> list[str]:
    """Where held-out data can be reached from an object, as readable paths.

    Follows attributes, containers, closures, bound methods, partial objects, suspended generators
    and the memory behind array views.

    Args:
        root: a training view, a context or a fitted method.
        name: how to call it in the paths.
        wire: the tripwire task that ``root`` was made from.

    Returns:
        one line for each finding, for example ``context._task: the Task itself, ...``.
    """
    found = []
    for path, value in _reachable(root, name):
        fault = _fault(value, wire)
        if fault:
            found.append(f"{path}: {fault}")
    return found


def _fault(value: Any, wire: Tripwire) -> str:
    if isinstance(value, (Task, Domain, RequestSet)):
        return f"the {type(value).__name__} itself, which holds every test event"
    if isinstance(value, Requests):
        return _fault_of_requests(value, wire)
    if isinstance(value, Sequences):
        n = int(np.isin(value.items, wire.test).sum())
        return f"{n} test events in sequences" if n else ""
    items = _numbers(value, wire)
    if items is None or not len(items):
        return ""
    # A list of the vocabulary, or negatives drawn from it, holds canaries at their share of the
    # vocabulary (3 %); complete sequences hold 12 % and a list of test items 100 %.
    canaries = items[np.isin(items, wire.test)]
    if len(np.unique(canaries)) >= 0.8 * len(wire.test) and len(canaries) > 0.06 * len(items):
        return f"{len(canaries)} test items among {len(items)} values"
    return ""


def _fault_of_requests(requests: Requests, wire: Tripwire) -> str:
    newest = [
        int(row[-1]) for row in map(requests.history.__getitem__, range(len(requests))) if len(row)
    ]
    n = len(set(newest) & set(wire.valid.tolist()))
    if n:
        return f"{n} test requests (histories that end with the validation item)"
    own = requests.candidates == wire.test[requests.users][:, None]
    # All items of the catalogue as candidates say nothing.
    if requests.candidates.shape[1] < _N_ITEMS and own.any():
        return f"{int(own.any(axis=1).sum())} users have their test item among the candidates"
    return ""


def _numbers(value: Any, wire: Tripwire) -> NDArray[np.int64] | None:
    """Item numbers in an array or a container; None where there can be none."""
    if isinstance(value, StringColumn):
        return None if len(value) == _N_ITEMS else _numbers(value.to_list(), wire)
    if isinstance(value, np.ndarray):
        if value.dtype.kind in "iu":
            return value.ravel().astype(np.int64)
        if value.dtype.kind == "f" and value.size:
            flat = value.ravel().astype(np.float64)
            whole = np.isfinite(flat) & (flat == np.floor(flat)) & (np.abs(flat) < 1e9)
            return flat[whole].astype(np.int64) if whole.all() else None
        if value.dtype.kind in "UO":
            return _numbers(value.ravel().tolist(), wire)
        return None
    if isinstance(value, dict):
        return _numbers([*value.keys(), *value.values()], wire)
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        listed = [
            wire.ids.get(v, -1) if isinstance(v, str) else int(v)
            for v in value
            if isinstance(v, (str, int, np.integer)) and not isinstance(v, bool)
        ]
        small = [v for v in listed if abs(v) < 2**62]
        return np.array(small, dtype=np.int64)
    return None


_ATOMS = (str, bytes, bytearray, int, float, complex, bool, type(None), np.generic, PurePath, type)
_CLOSED = (types.ModuleType, logging.Logger, logging.Handler, Items)


def _reachable(root: Any, name: str) -> Iterator[tuple[str, Any]]:
    """Objects reachable from ``root``, breadth first, each once, with the path that leads there."""
    queue: deque[tuple[str, Any]] = deque([(name, root)])
    seen: dict[int, Any] = {}  # keeps the objects alive, so that an id is never used twice
    while queue and len(seen) < _MAX_OBJECTS:
        path, value = queue.popleft()
        if id(value) in seen or isinstance(value, (*_ATOMS, *_CLOSED)):
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
    elif isinstance(value, (list, tuple, set, frozenset, deque)):
        for index, item in enumerate(value):
            yield f"{path}[{index}]", item
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
    else:
        yield from _attributes(path, value)


def _attributes(path: str, value: Any) -> Iterator[tuple[str, Any]]:
    if type(value).__module__.partition(".")[0] == "torch" and hasattr(value, "detach"):
        tensor = value.detach()
        if not tensor.is_floating_point():
            # A copy: the memory of a shared array leads back to a new tensor, without end.
            yield f"{path}.numpy()", tensor.cpu().numpy().copy()
        return
    for attribute, item in getattr(value, "__dict__", {}).items():
        yield f"{path}.{attribute}", item
    for cls in type(value).__mro__:
        slots = cls.__dict__.get("__slots__", ())
        for slot in (slots,) if isinstance(slots, str) else slots:
            if slot not in ("__dict__", "__weakref__") and hasattr(value, slot):
                yield f"{path}.{slot}", getattr(value, slot)


def _filled(cell: types.CellType) -> bool:
    try:
        cell.cell_contents  # noqa: B018 - raises where the cell is empty
    except ValueError:
        return False
    return True
