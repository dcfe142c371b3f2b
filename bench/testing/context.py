"""A plain Context for tests and for the conformance kit."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.errors import MethodError
from bench.evaluation import Outcomes
from bench.methods import (
    Capabilities,
    Method,
    Progress,
    QuietProgress,
    SharedStore,
    ValidationFigures,
)
from bench.protocol.task import RequestSet, Task
from bench.protocol.types import Labels, Requests
from bench.validation import (
    DEFAULT_VALIDATION_USERS,
    Validator,
    rank_answers,
    score_requests,
)

__all__ = ["TestContext", "evaluate", "make_context"]


@dataclass(slots=True, eq=False)
class TestContext:
    """Implements :class:`bench.methods.Context` without a run, a store or a terminal.

    Validation is that of a run: the same requests, checks and figures.

    Attributes:
        scratch: private folder.
        validator: what :meth:`validate` asks; None if validating is an error.
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
    adapters: SharedStore | None = None
    validator: Validator | None = None

    def validate(self, method: Method) -> ValidationFigures:
        """Score the validation requests with ``method.score``.

        Raises:
            MethodError: the scores break the contract, or the context has no task.
        """
        return self._validator().figures(method, self)

    def validation_loss(self, method: Method) -> float:
        """Mean cross-entropy (nats) of the positive under a softmax over the scores.

        Raises:
            MethodError: the scores break the contract, or the context has no task.
        """
        return self._validator().loss(method, self)

    def _validator(self) -> Validator:
        if self.validator is None:
            raise MethodError("this context was made without a task, so it cannot validate.")
        return self.validator


def make_context(
    scratch: Path,
    task: Task | None = None,
    *,
    validation_users: int | None = DEFAULT_VALIDATION_USERS,
    capabilities: Capabilities | None = None,
    adapters: SharedStore | None = None,
    **changes: Any,
) -> TestContext:
    """Make a context that validates on a task.

    Args:
        scratch: private folder, created if absent.
        task: whose validation requests are used; None for a context that cannot validate.
        validation_users: size of the nested subset; None for all users.
        capabilities: of the method that will be validated; None asks for finite scores of every
            candidate.
        adapters: the adapter store, for example ``Method.adapter_store(folder)``.
        changes: further attributes of :class:`TestContext`, for example ``seed=1``.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    if task is None:
        return TestContext(scratch, adapters=adapters, **changes)
    requests, labels = task.validation(task.subset(validation_users))
    validator = Validator(requests, labels, capabilities or Capabilities())
    return TestContext(scratch, adapters=adapters, validator=validator, **changes)


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

    Raises:
        MethodError: the scores break the contract.
    """
    capabilities = type(method).capabilities(method.config)
    pairs = chunks.chunks(size) if isinstance(chunks, RequestSet) else chunks
    parts = []
    for requests, labels in pairs:
        scores = score_requests(method, requests, context, capabilities)
        parts.append(rank_answers(scores, labels, capabilities, method.name, requests.users))
    return Outcomes.concat(parts)
