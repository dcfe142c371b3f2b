"""What a row of a table cost, read from the manifests of its runs."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bench.errors import unknown_name
from bench.report.table import Row, Table

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["COSTS", "CostKind", "Point", "cost_of", "points", "runs_by_id"]


@dataclass(frozen=True, slots=True)
class CostKind:
    """A kind of cost.

    Attributes:
        key: its name in the command line.
        title: the axis label, without the unit.
        unit: the unit of its values.
        read: takes a manifest; returns the cost of that run, or None if it is not recorded.
    """

    key: str
    title: str
    unit: str
    read: Callable[[Mapping[str, Any]], float | None]


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) and value >= 0 else None


def _entry(section: str, name: str) -> Callable[[Mapping[str, Any]], float | None]:
    def read(manifest: Mapping[str, Any]) -> float | None:
        found = manifest.get(section)
        return _number(found.get(name)) if isinstance(found, Mapping) else None

    return read


def _with_adapters(section: str, name: str) -> Callable[[Mapping[str, Any]], float | None]:
    """An entry of the run's own plus what its adapters cost, whichever run trained them."""

    def read(manifest: Mapping[str, Any]) -> float | None:
        own = _entry(section, name)(manifest)
        return None if own is None else own + (_entry(section, "adapters")(manifest) or 0.0)

    return read


def _milliseconds_per_user(manifest: Mapping[str, Any]) -> float | None:
    seconds = _entry("seconds", "score")(manifest)
    n_users = _entry("users", "n_users")(manifest)
    return None if seconds is None or not n_users else 1000 * seconds / n_users


COSTS: Mapping[str, CostKind] = {
    cost.key: cost
    for cost in (
        CostKind("fit", "Training, wall time", "s", _with_adapters("seconds", "fit")),
        CostKind(
            "cpu", "Training and scoring, CPU time", "s", _with_adapters("cpu_seconds", "total")
        ),
        CostKind(
            "total",
            "Wall time including adapters",
            "s",
            _entry("seconds", "total_with_adapters"),
        ),
        CostKind("score", "Scoring, wall time per user", "ms", _milliseconds_per_user),
        CostKind("memory", "Peak memory", "MB", _entry("peak_memory", "mb")),
    )
}
"""Kinds of cost by their key, adapters included. Wall times depend on what else the machine did."""


@dataclass(frozen=True, slots=True)
class Point:
    """A row of a table in a plot.

    Attributes:
        row: the row.
        cost: mean over its runs, in the cost's unit; None if a run does not record it.
    """

    row: Row
    cost: float | None


def runs_by_id(runs: Iterable[StoredRun]) -> dict[str, StoredRun]:
    """Runs by their id; of copies of one run, the first in order of path."""
    found: dict[str, StoredRun] = {}
    for run in sorted(runs, key=lambda r: str(r.path)):
        found.setdefault(run.run_id, run)
    return found


def cost_of(row: Row, known: Mapping[str, StoredRun], cost: CostKind) -> float | None:
    """Mean cost over the runs of a row; None without runs, or if one does not record it."""
    values = [cost.read(known[run_id].manifest) for run_id in row.run_ids if run_id in known]
    numbers = [value for value in values if value is not None]
    if not numbers or len(numbers) != len(row.run_ids):
        return None
    return math.fsum(numbers) / len(numbers)


def points(table: Table, runs: Sequence[StoredRun], cost: str) -> list[Point]:
    """One point per row of the main block that has runs, in the table's order.

    Raises:
        ConfigError: an unknown kind of cost.
    """
    if cost not in COSTS:
        raise unknown_name("cost", cost, COSTS)
    known = runs_by_id(runs)
    return [
        Point(row, cost_of(row, known, COSTS[cost]))
        for block in table.blocks
        if block.comparable
        for row in block.rows
        if row.run_ids
    ]
