"""The tripwire task: held-out items that occur nowhere else, and a search for them.

Every user's validation and test item is a *canary*: an item that nobody else interacts with and that
no training sequence holds. A canary in training data, a user's own test canary among candidates, or
anything that tells a user's validation canary from the other candidates, can only come from the
held-out events.
"""

from __future__ import annotations

import array
import mmap
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain, Sequences
from bench.data.strings import StringColumn
from bench.protocol.task import RequestSet, Task, build_task
from bench.protocol.types import Labels, Requests
from bench.testing.planted import make_domain
from bench.testing.reach import reachable

__all__ = ["Tripwire", "held_out_paths", "make_tripwire"]

# The canaries' numbers are larger than any offset, user number or usual hyper-parameter of so small a
# task, so that a number in their range is an item.
_N_ITEMS = 1200
_VALID, _TEST = 1101, 1151
_N_USERS = 40
# A list of the vocabulary, or negatives drawn from it, holds each kind of canary at its share of the
# vocabulary (3 %). The validation candidates hold 7 % of validation canaries, for each user's own is
# among them. Complete sequences hold 12 %, and a list of held-out items 50 % or more.
_MOST_TEST, _MOST_VALID = 0.06, 0.10
_LONGEST_PAIR = 4
# Files of prepared domains and of stored runs.
_BESIDE_EVENTS = ("domain.json", "import.json", "per_user.parquet")
# So few positions of positives can agree by chance.
_FEWEST_POSITIONS = 8


@dataclass(frozen=True)
class Tripwire:
    """A task with canaries.

    Attributes:
        task: the task; user u of target and sources has test item ``test[u]``.
        valid: int, shape ``(n_users,)``, validation canaries by canonical user index.
        test: int, shape ``(n_users,)``, test canaries.
        positions: int, shape ``(n_users,)``, column of each user's validation item among the
            validation candidates.
        ids: raw item ids and titles of the canaries -> item index.
    """

    task: Task
    valid: NDArray[np.int64]
    test: NDArray[np.int64]
    positions: NDArray[np.int64]
    ids: Mapping[str, int]


def make_tripwire(*, n_sources: int = 0) -> Tripwire:
    """Make the tripwire task; sources have canaries with the same numbers in their own vocabulary."""
    domains = [_canary_domain(number) for number in range(n_sources + 1)]
    titles = domains[0].items.titles
    ids: dict[str, int] = {}
    for item in (*range(_VALID, _VALID + _N_USERS), *range(_TEST, _TEST + _N_USERS)):
        ids |= {domain.items.ids[item]: item for domain in domains}
        ids[titles[item]] = item
    task = build_task(domains[0], sources=domains[1:])
    _, labels = task.validation(task.subset(None))
    return Tripwire(
        task=task,
        valid=np.arange(_VALID, _VALID + _N_USERS),
        test=np.arange(_TEST, _TEST + _N_USERS),
        positions=labels.position.astype(np.int64),
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

    Finds the task, test requests, test items, and the answers to the validation requests: labels,
    columns of the positives, pairs of user and validation item. The unlabelled validation requests
    may be reachable. What is followed says :func:`bench.testing.reach.reachable`.

    Args:
        root: a training view, a context or a fitted method.
        name: how to call it in the paths.
        wire: the tripwire task that ``root`` was made from.

    Returns:
        one line for each finding, for example ``context._task: the Task itself, ...``.
    """
    found = []
    for path, value in reachable(root, name):
        fault = _fault(value, wire)
        if fault:
            found.append(f"{path}: {fault}")
    return found


def _fault(value: Any, wire: Tripwire) -> str:
    if isinstance(value, (Task, Domain, RequestSet)):
        return f"the {type(value).__name__} itself, which holds every test event"
    if isinstance(value, Labels):
        return f"the Labels of {len(value)} requests"
    if isinstance(value, Requests):
        return _fault_of_requests(value, wire)
    if isinstance(value, Sequences):
        for canaries, kind in ((wire.test, "test"), (wire.valid, "validation")):
            n = int(np.isin(value.items, canaries).sum())
            if n:
                return f"{n} {kind} events in sequences"
        return ""
    if isinstance(value, (np.memmap, mmap.mmap)):
        return _fault_of_map(value)
    if isinstance(value, np.ndarray) and value.ndim == 2:
        fault = _fault_of_table(value, wire)
        if fault:
            return fault
    items = _numbers(value, wire)
    return "" if items is None or not len(items) else _fault_of_numbers(items, wire)


def _fault_of_map(value: np.memmap[Any, Any] | mmap.mmap) -> str:
    """A map of a file that lies beside held-out events, which its name leads to."""
    file = _mapped_file(value)
    folder = None if file is None else file.parent
    if folder is not None and any((folder / name).exists() for name in _BESIDE_EVENTS):
        return f"a memory map of {file}, beside which every held-out event is stored"
    return ""


def _mapped_file(value: np.memmap[Any, Any] | mmap.mmap) -> Path | None:
    if isinstance(value, np.memmap):
        return None if value.filename is None else Path(value.filename)
    try:
        start = np.frombuffer(value, dtype=np.uint8).__array_interface__["data"][0]
        lines = Path("/proc/self/maps").read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):  # closed, or another system
        return None
    for line in lines:
        first, _, rest = line.partition("-")
        if int(first, 16) == start and "/" in rest:
            return Path(rest[rest.index("/") :])
    return None


def _fault_of_numbers(items: NDArray[np.int64], wire: Tripwire) -> str:
    for canaries, kind, most in (
        (wire.test, "test", _MOST_TEST),
        (wire.valid, "validation", _MOST_VALID),
    ):
        first = canaries[0]  # canaries are consecutive numbers
        held = items[(items >= first) & (items < first + len(canaries))]
        if len(held) > most * len(items) and len(np.unique(held)) >= 0.8 * len(canaries):
            return f"{len(held)} {kind} items among {len(items)} values"
    half = len(items) // 2
    # Alone, or beside something else, for example the user.
    for part in (items, items[0::2], items[1::2], items[:half], items[half:]):
        if _are_positions(part, wire):
            return f"the places of {len(part)} validation items among the candidates"
    return ""


def _are_positions(values: NDArray[np.int64], wire: Tripwire) -> bool:
    """Whether the values are the positives' columns of some users, in the order of the users."""
    if not _FEWEST_POSITIONS <= len(values) <= len(wire.positions):
        return False
    remaining = iter(wire.positions.tolist())
    return all(value in remaining for value in values.tolist())


def _fault_of_table(table: NDArray[Any], wire: Tripwire) -> str:
    """Tables with a row for each user that single out the validation item."""
    if len(table) != len(wire.positions) or table.dtype.kind not in "biuf" or not table.size:
        return ""
    for columns in (wire.positions, wire.valid):
        if table.shape[1] > int(columns.max()) and _are_marked(table.astype(np.float64), columns):
            return "a mark at the validation item of every user"
    share = np.isin(table, wire.valid).mean(axis=0)
    if share.max() >= 0.8:
        return f"a column of {len(table)} validation items"
    return ""


def _are_marked(table: NDArray[np.float64], columns: NDArray[np.int64]) -> bool:
    """Whether one cell of each row, at ``columns``, is above or below all others of its row."""
    rows = np.arange(len(table))
    marked = table[rows, columns][:, None]
    above, below = (marked > table).sum(axis=1), (marked < table).sum(axis=1)
    others = table.shape[1] - 1
    return bool((above == others).all() or (below == others).all())


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
    """Item numbers in an array or a container; None if there can be none."""
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
        return _numbers(list(value.items()), wire)
    if isinstance(value, array.array):
        return _numbers(np.array(value), wire)
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        parts: list[Any] = [
            part
            for v in value
            for part in (v if isinstance(v, (tuple, list)) and len(v) <= _LONGEST_PAIR else (v,))
        ]
        listed = [
            wire.ids.get(v, -1) if isinstance(v, str) else int(v)
            for v in parts
            if isinstance(v, (str, int, np.integer)) and not isinstance(v, bool)
        ]
        small = [v for v in listed if abs(v) < 2**62]
        return np.array(small, dtype=np.int64)
    return None
