"""A plain Context for tests and for the conformance kit."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.errors import MethodError
from bench.evaluation import Outcomes, metric_per_user, rank_outcomes
from bench.methods import AdapterStore, Method, Progress, ValidationFigures
from bench.protocol.task import RequestSet, Task
from bench.protocol.types import Labels, Requests

__all__ = ["QuietProgress", "TestContext", "evaluate", "make_context"]


class QuietProgress:
    """Progress reporting that shows nothing."""

    def track(
        self, items: Iterable[Any], *, total: int | None = None, description: str = ""
    ) -> Iterable[Any]:
        """Iterate over ``items``."""
        return items

    @contextlib.contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Do nothing around the block."""
        yield

    def status(self, text: str) -> None:
        """Drop the text."""


@dataclass(slots=True, eq=False)
class TestContext:
    """Implements :class:`bench.methods.Context` without a run, a store or a terminal.

    It holds validation requests and labels, taken out of the task beforehand, and no task.

    Attributes:
        scratch: private folder.
        requests, labels: what :meth:`validate` scores; None where validating is an error.
        calls: NDCG@5 of every validation so far.
    """

    __test__ = False  # not a test class, whatever its name

    scratch: Path
    seed: int = 0
    init_seed: int = 0
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1
    progress: Progress = field(default_factory=QuietProgress)
    log: logging.Logger = field(default_factory=lambda: logging.getLogger("bench.testing"))
    adapters: AdapterStore | None = None
    requests: Requests | None = None
    labels: Labels | None = None
    calls: list[float] = field(default_factory=list)

    def validate(self, method: Method) -> ValidationFigures:
        """Score the validation requests with ``method.score``."""
        requests, labels = self._held()
        outcomes = evaluate(method, [(requests, labels)], self)
        ndcg = {k: float(metric_per_user(outcomes, f"ndcg@{k}").mean()) for k in (1, 3, 5, 10)}
        mrr = {k: float(metric_per_user(outcomes, f"mrr@{k}").mean()) for k in (5, 10)}
        self.calls.append(ndcg[5])
        return ValidationFigures(ndcg=ndcg, mrr=mrr, n_users=len(requests))

    def validation_loss(self, method: Method) -> float:
        """Mean cross-entropy (nats) of the positive under a softmax over the scores."""
        requests, labels = self._held()
        values = np.asarray(method.score(requests, self).values, dtype=np.float64)
        if labels.excluded is not None:
            values = np.where(labels.excluded, -np.inf, values)
        values = values - values.max(axis=1, keepdims=True)
        positive = np.take_along_axis(values, labels.position[:, None].astype(np.int64), axis=1)
        return float((np.log(np.exp(values).sum(axis=1)) - positive[:, 0]).mean())

    def _held(self) -> tuple[Requests, Labels]:
        if self.requests is None or self.labels is None:
            raise MethodError("this context was made without a task, so it cannot validate.")
        return self.requests, self.labels


def make_context(
    scratch: Path, task: Task | None = None, *, validation_users: int | None = None, **changes: Any
) -> TestContext:
    """Make a context that validates on a task.

    Args:
        scratch: private folder, created if absent.
        task: whose validation requests are used; None for a context that cannot validate.
        validation_users: size of the nested subset; None for all users.
        changes: further attributes of :class:`TestContext`, for example ``seed=1``.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if task is None:
        return TestContext(scratch, **changes)
    requests, labels = task.validation(task.subset(validation_users))
    return TestContext(scratch, requests=requests, labels=labels, **changes)


def evaluate(
    method: Method,
    chunks: RequestSet | Iterable[tuple[Requests, Labels]],
    context: TestContext,
    *,
    size: int = 4096,
) -> Outcomes:
    """Score requests with a fitted method and rank the positives.

    Args:
        method: fitted.
        chunks: a request set of a task, or pairs of requests and labels.
        context: handed to ``method.score``.
        size: chunk size for a request set.
    """
    may = type(method).capabilities(method.config).may_leave_unranked
    pairs = chunks.chunks(size) if isinstance(chunks, RequestSet) else chunks
    parts = []
    for requests, labels in pairs:
        scores = method.score(requests, context)
        parts.append(
            rank_outcomes(
                scores.values,
                labels.position,
                excluded=labels.excluded,
                slots=scores.slots,
                may_leave_unranked=may,
                owner=method.name,
            )
        )
    return Outcomes.concat(parts)
