"""Fit a method that may have a first stage."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

from bench.methods import Method, SharedStore
from bench.protocol import Task
from bench.testing import make_context

M = TypeVar("M", bound=Method)


def fitted(
    method: M, task: Task, folder: Path, *, store: SharedStore | None = None, **context: Any
) -> M:
    """Fit a method with all sources of a task, and return it.

    Args:
        method: to be fitted.
        task: what it is fitted on, and validates on.
        folder: gets ``run``, its scratch folder, and ``store``.
        store: of first stages; None = the one in ``folder``.
        context: further attributes of the context, for example ``seed=1``.
    """
    adapters = type(method).adapter_store(folder / "store") if store is None else store
    run = make_context(folder / "run", task, adapters=adapters, **context)
    method.fit(task.train_view(with_sources=True), run)
    return method
