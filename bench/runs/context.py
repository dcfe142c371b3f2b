"""What surrounds a method during a run: seeds, device, scratch folder, and the way to validate.

The context leads to the unlabelled validation requests, which were taken out of the task beforehand,
and neither to the task nor to a label: no held-out event is reachable from it.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.methods import Method, Progress, SharedStore, ValidationFigures
from bench.validation import Validator

__all__ = ["RunContext"]


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
    adapters: SharedStore | None = None
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
