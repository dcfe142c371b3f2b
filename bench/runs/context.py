"""What surrounds a method during a run: seeds, device, scratch folder, and the way to validate.

The context holds the validation requests and labels, which were taken out of the task beforehand;
it never refers to the task itself, so no test event and no test request is reachable from it.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from bench.errors import MethodError
from bench.evaluation import Outcomes, metric_per_user, rank_outcomes
from bench.methods import AdapterStore, Capabilities, Method, Progress, ValidationFigures
from bench.protocol.types import Labels, Requests
from bench.runs.scoring import check_scores, chunk_rows, method_phase

__all__ = ["DEFAULT_VALIDATION_USERS", "RunContext", "ValidationCall", "Validator"]

DEFAULT_VALIDATION_USERS = 2000
_NDCG_AT = (1, 3, 5, 10)
_MRR_AT = (5, 10)


@dataclass(frozen=True, slots=True)
class ValidationCall:
    """One validation: seconds since the run began, its own seconds, NDCG@1 and NDCG@5."""

    at_seconds: float
    seconds: float
    ndcg1: float
    ndcg5: float


@dataclass(slots=True, eq=False)
class Validator:
    """Validation requests and labels of the fixed user subset, and what was measured on them.

    Attributes:
        requests: whole-history validation requests of the subset.
        labels: their answers; read here and nowhere else.
        capabilities: of the configured method (whether NaN and slots are allowed).
        on_call: called after each validation, for example to write it to disk.
        calls: one entry per validation, oldest first.
    """

    requests: Requests
    labels: Labels
    capabilities: Capabilities
    on_call: Callable[[ValidationCall], None] | None = None
    calls: list[ValidationCall] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)

    def _parts(self) -> list[tuple[Requests, Labels]]:
        size = chunk_rows(self.requests.candidates.shape[1])
        parts = []
        for start in range(0, len(self.requests), size):
            rows = np.arange(start, min(start + size, len(self.requests)))
            excluded = self.labels.excluded
            parts.append(
                (
                    self.requests.take(rows),
                    Labels(
                        self.labels.position[rows], None if excluded is None else excluded[rows]
                    ),
                )
            )
        return parts

    def figures(self, method: Method, context: RunContext) -> ValidationFigures:
        """Score the requests with ``method`` and average the metrics."""
        began = time.perf_counter()
        outcomes = []
        for requests, labels in self._parts():
            with method_phase(method.name, "score"):
                scores = method.score(requests, context)
            check_scores(scores, requests, self.capabilities, method.name)
            outcomes.append(
                rank_outcomes(
                    scores.values,
                    labels.position,
                    excluded=labels.excluded,
                    slots=scores.slots,
                    may_leave_unranked=self.capabilities.may_leave_unranked,
                    owner=method.name,
                )
            )
        merged = Outcomes.concat(outcomes)
        ndcg = {k: float(metric_per_user(merged, f"ndcg@{k}").mean()) for k in _NDCG_AT}
        mrr = {k: float(metric_per_user(merged, f"mrr@{k}").mean()) for k in _MRR_AT}
        now = time.perf_counter()
        call = ValidationCall(now - self._start, now - began, ndcg[1], ndcg[5])
        self.calls.append(call)
        if self.on_call is not None:
            self.on_call(call)
        return ValidationFigures(ndcg=ndcg, mrr=mrr, n_users=len(self.requests))

    def loss(self, method: Method, context: RunContext) -> float:
        """Mean of -log softmax(score of the positive) over the competing candidates, in nats."""
        total = 0.0
        for requests, labels in self._parts():
            with method_phase(method.name, "score"):
                scores = method.score(requests, context)
            check_scores(scores, requests, self.capabilities, method.name)
            values = np.asarray(scores.values, dtype=np.float64)
            if np.isnan(values).any():
                raise MethodError(
                    f"{method.name}: {int(np.isnan(values).any(axis=1).sum())} of {len(values)} "
                    "validation rows hold unranked candidates, for which a cross-entropy is not "
                    "defined. Use context.validate with this configuration."
                )
            if labels.excluded is not None:
                values = np.where(labels.excluded, -np.inf, values)
            top = values.max(axis=1, keepdims=True)
            log_sum = np.log(np.exp(values - top).sum(axis=1)) + top[:, 0]
            positive = np.take_along_axis(values, labels.position[:, None].astype(np.int64), 1)
            total += math.fsum(log_sum - positive[:, 0])
        return total / len(self.requests)


@dataclass(slots=True, eq=False)
class RunContext:
    """The concrete :class:`bench.methods.Context` of a run; attributes as documented there."""

    seed: int
    init_seed: int
    device: str
    dtype: str
    threads: int
    scratch: Path
    progress: Progress
    log: logging.Logger
    validator: Validator
    adapters: AdapterStore | None = None
    before_scoring: Callable[[], None] = lambda: None

    def validate(self, method: Method) -> ValidationFigures:
        """Score the validation requests of the fixed nested user subset with ``method.score``.

        Raises:
            MethodError: the scores break the contract.
        """
        self.before_scoring()
        figures = self.validator.figures(method, self)
        self.progress.status(
            f"validation NDCG@5 {figures.ndcg[5]:.4f}, NDCG@1 {figures.ndcg[1]:.4f} "
            f"({figures.n_users} users)"
        )
        return figures

    def validation_loss(self, method: Method) -> float:
        """Mean cross-entropy (nats) of the positive under a softmax over ``method.score`` values.

        Raises:
            MethodError: the scores break the contract or hold NaN.
        """
        self.before_scoring()
        loss = self.validator.loss(method, self)
        self.progress.status(f"validation loss {loss:.4f}")
        return loss
