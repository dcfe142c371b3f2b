"""Scoring with checks, and validation that hands out figures but no answers.

A :class:`Validator` is the only road from a method to a metric, in a run and in the conformance kit
alike. A method may find the validator, for it hangs on the context, so the validator itself refers to
the unlabelled requests only. The labels stand in a table of this module under an opaque key; they are
opened after a method has answered, never while its ``score`` runs, and are dropped with the validator.
"""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import InitVar, dataclass, field
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from bench.errors import BenchError, MethodError, cause, system_error
from bench.evaluation import Outcomes, metric_per_user, random_row, rank_outcomes
from bench.methods import Capabilities, Context, Method, Scores, ValidationFigures
from bench.protocol.types import Labels, Requests

__all__ = [
    "DEFAULT_VALIDATION_USERS",
    "ValidationCall",
    "Validator",
    "check_scores",
    "chunk_rows",
    "method_phase",
    "rank_answers",
    "score_requests",
    "validation_users",
]

DEFAULT_VALIDATION_USERS = 2000
_NDCG_AT = (1, 3, 5, 10)
_MRR_AT = (5, 10)
_MAX_ROWS = 2048
_MAX_CELLS = 8_000_000


def validation_users(config: object) -> int | None:
    """Size of the nested user subset that a method is validated on; None = all users.

    The configuration's ``validation_users``; 2,000 if it has no such key.
    """
    users = getattr(config, "validation_users", DEFAULT_VALIDATION_USERS)
    return None if users in (None, "all") else int(users)


def chunk_rows(n_candidates: int) -> int:
    """Rows per chunk: at most 2,048, and at most 8 million scores (32 MB) at once."""
    return max(1, min(_MAX_ROWS, _MAX_CELLS // max(1, n_candidates)))


@contextmanager
def method_phase(label: str, phase: str) -> Iterator[None]:
    """Name method and phase in errors that are not this package's own."""
    try:
        yield
    except (BenchError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        if (system := system_error(error)) is not None:
            raise system from error
        raise MethodError(
            f"{label}: {phase}() failed with {cause(error)}. "
            "The log has the traceback; `bench check` tests a method on small data."
        ) from error


def check_scores(
    scores: object, requests: Requests, capabilities: Capabilities, owner: str
) -> None:
    """Check type, shape and dtype of an answer; the evaluator checks the values.

    Raises:
        MethodError: with the method's name, what came and what was expected.
    """
    # Exactly these types: the code of a subclass would run while the positives are ranked.
    if type(scores) is not Scores:
        raise MethodError(
            f"{owner}: score() returned {type(scores).__name__}, expected bench.methods.Scores."
        )
    expected = requests.candidates.shape
    values = scores.values
    if type(values) is not np.ndarray:
        raise MethodError(
            f"{owner}: Scores.values is {type(values).__name__}, expected a plain float32 or float64 "
            f"NumPy array of shape {expected} (np.asarray makes one of a subclass)."
        )
    if values.shape != expected or values.dtype not in (np.float32, np.float64):
        raise MethodError(
            f"{owner}: Scores.values is {values.dtype} of shape {values.shape}, expected float32 or "
            f"float64 of shape {expected} (one row per request, one column per candidate)."
        )
    slots = scores.slots
    if slots is None:
        return
    if not capabilities.may_leave_unranked:
        raise MethodError(
            f"{owner}: score() returned slots, but capabilities(config).may_leave_unranked is False. "
            "Declare it for configurations that generate lists."
        )
    if type(slots) is not np.ndarray or slots.dtype != np.int16 or slots.ndim != 2:
        found = f"{getattr(slots, 'dtype', type(slots).__name__)} {getattr(slots, 'shape', '')}"
        raise MethodError(f"{owner}: Scores.slots is {found}, expected int16 of shape (n, k).")
    if len(slots) != expected[0]:
        raise MethodError(
            f"{owner}: Scores.slots has {len(slots)} rows for {expected[0]} requests."
        )


def score_requests(
    method: Method, requests: Requests, context: Context, capabilities: Capabilities
) -> Scores:
    """Ask a method for scores and check their form.

    Raises:
        MethodError: ``score`` failed, or its answer breaks the contract.
    """
    with method_phase(method.name, "score"):
        scores = method.score(requests, context)
    check_scores(scores, requests, capabilities, method.name)
    return scores


def rank_answers(
    scores: Scores,
    labels: Labels,
    capabilities: Capabilities,
    owner: str,
    users: NDArray[np.integer] | None = None,
) -> Outcomes:
    """Rank the positives among checked scores; ``users`` names the rows in errors.

    Raises:
        MethodError: infinite scores, or unranked candidates if the method may leave none.
    """
    return rank_outcomes(
        scores.values,
        labels.position,
        excluded=labels.excluded,
        slots=scores.slots,
        may_leave_unranked=capabilities.may_leave_unranked,
        owner=owner,
        users=users,
    )


_held: dict[int, Labels] = {}
_numbers = itertools.count(1)


class _Token:
    """Stands for labels that this module holds; they go when the token is closed or collected.

    It has no weak references, for their callbacks would lead to the table, and cannot be copied,
    for the copy's end would take the labels from the original.
    """

    __slots__ = ("_number",)

    def __init__(self, labels: Labels) -> None:
        self._number = next(_numbers)
        _held[self._number] = labels

    def close(self) -> None:
        """Drop the labels."""
        _held.pop(self._number, None)

    def __del__(self) -> None:
        if _held is not None:  # None while the interpreter shuts down
            self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("validation labels stay in the process that holds them.")

    def __copy__(self) -> _Token:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> _Token:
        return self


def _labels(token: _Token, rows: NDArray[np.integer]) -> Labels:
    """The labels of some rows; for this module's functions, after ``score`` has returned."""
    labels = _held.get(token._number)
    if labels is None:
        raise MethodError("the validator is closed: the run that it belongs to has ended.")
    excluded = labels.excluded
    return Labels(labels.position[rows], None if excluded is None else excluded[rows])


@dataclass(frozen=True, slots=True)
class ValidationCall:
    """One validation: seconds since the run began, its own seconds, NDCG@1 and NDCG@5."""

    at_seconds: float
    seconds: float
    ndcg1: float
    ndcg5: float


@dataclass(slots=True, eq=False)
class Validator:
    """Scores a method on the validation requests of a fixed user subset.

    Attributes:
        requests: whole-history validation requests of the subset, without labels.
        labels: their answers, handed over when the validator is made; they are no attribute.
        capabilities: of the configured method (whether NaN and slots are allowed).
        on_call: called after each :meth:`figures`, for example to write them to disk.
        calls: one entry per validation, oldest first.
    """

    requests: Requests
    labels: InitVar[Labels]
    capabilities: Capabilities
    on_call: Callable[[ValidationCall], None] | None = None
    calls: list[ValidationCall] = field(default_factory=list)
    _start: float = field(default_factory=time.perf_counter)
    _token: _Token = field(init=False, repr=False)

    def __post_init__(self, labels: Labels) -> None:
        self._token = _Token(labels)

    def figures(self, method: Method, context: Context) -> ValidationFigures:
        """Score the requests with ``method`` and average the metrics.

        Raises:
            MethodError: the scores break the contract, or the validator is closed.
        """
        began = time.perf_counter()
        merged = Outcomes.concat(
            [
                rank_answers(
                    scores,
                    _labels(self._token, rows),
                    self.capabilities,
                    method.name,
                    self.requests.users[rows],
                )
                for rows, scores in self._answers(method, context)
            ]
        )
        ndcg = {k: float(metric_per_user(merged, f"ndcg@{k}").mean()) for k in _NDCG_AT}
        mrr = {k: float(metric_per_user(merged, f"mrr@{k}").mean()) for k in _MRR_AT}
        now = time.perf_counter()
        call = ValidationCall(now - self._start, now - began, ndcg[1], ndcg[5])
        self.calls.append(call)
        if self.on_call is not None:
            self.on_call(call)
        chance = random_row(merged.n_candidates, [f"ndcg@{k}" for k in _NDCG_AT])
        return ValidationFigures(
            ndcg=ndcg,
            mrr=mrr,
            n_users=len(self.requests),
            chance={k: chance[f"ndcg@{k}"] for k in _NDCG_AT},
        )

    def loss(self, method: Method, context: Context) -> float:
        """Mean of -log softmax(score of the positive) over the competing candidates, in nats.

        Raises:
            MethodError: the scores break the contract, hold NaN or infinities, or the validator is
                closed.
        """
        total = math.fsum(
            _cross_entropy(scores, _labels(self._token, rows), method.name)
            for rows, scores in self._answers(method, context)
        )
        return total / len(self.requests)

    def close(self) -> None:
        """Drop the labels; validating is an error from now on."""
        self._token.close()

    def _answers(
        self, method: Method, context: Context
    ) -> Iterator[tuple[NDArray[np.integer], Scores]]:
        """Rows and their checked scores, chunk by chunk. No label is on the stack meanwhile."""
        size = chunk_rows(self.requests.candidates.shape[1])
        for start in range(0, len(self.requests), size):
            rows = np.arange(start, min(start + size, len(self.requests)))
            yield (
                rows,
                score_requests(method, self.requests.take(rows), context, self.capabilities),
            )


def _cross_entropy(scores: Scores, labels: Labels, owner: str) -> float:
    """Sum of the rows' cross-entropies, in nats."""
    values = np.asarray(scores.values, dtype=np.float64)
    if np.isinf(values).any():
        raise MethodError(
            f"{owner}: {int(np.isinf(values).any(axis=1).sum())} of {len(values)} validation rows "
            "hold infinite scores; scores must be finite (clip them, or use a large finite number)."
        )
    if np.isnan(values).any():
        raise MethodError(
            f"{owner}: {int(np.isnan(values).any(axis=1).sum())} of {len(values)} validation rows "
            "hold unranked candidates, for which a cross-entropy is not defined. Use "
            "context.validate with this configuration."
        )
    if labels.excluded is not None:
        values = np.where(labels.excluded, -np.inf, values)
    top = values.max(axis=1, keepdims=True)
    log_sum = np.log(np.exp(values - top).sum(axis=1)) + top[:, 0]
    positive = np.take_along_axis(values, labels.position[:, None].astype(np.int64), 1)
    return math.fsum(log_sum - positive[:, 0])
