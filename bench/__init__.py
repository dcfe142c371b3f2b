"""Benchmark harness for cross-domain sequential recommendation: what Python users import (docs/python.md)."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.api.stored import Runs, load_runs
    from bench.api.tables import Leaderboard, compare, table
    from bench.api.tasks import TaskHandle, load_task, run

__version__ = "0.1.0"

__all__ = [
    "Leaderboard",
    "Runs",
    "TaskHandle",
    "__version__",
    "compare",
    "load_runs",
    "load_task",
    "run",
    "table",
]

_MODULES = {
    "Leaderboard": "tables",
    "Runs": "stored",
    "TaskHandle": "tasks",
    "compare": "tables",
    "load_runs": "stored",
    "load_task": "tasks",
    "run": "tasks",
    "table": "tables",
}


def __getattr__(name: str) -> object:
    """Load a public name at its first use, so that ``import bench`` itself takes no time."""
    if name not in _MODULES:
        raise AttributeError(f"module 'bench' has no attribute {name!r}")
    module = import_module(f"bench.api.{_MODULES[name]}")
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
