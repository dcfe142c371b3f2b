"""A training stage of RecFormer on the shared loop: AdamW, warm-up, linear decay, accumulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from bench.baselines.recformer.config import RecFormerConfig
from bench.baselines.recformer.stages import Loss
from bench.baselines.schedules import adamw, scheduled
from bench.baselines.training import TrainingReport, train
from bench.methods import Context, ValidationFigures

__all__ = ["Batch", "accumulated", "train_stage"]

Batch = Callable[[], list[Loss]]
"""Makes the losses of a batch, whose sum is the batch's; each is back-propagated before the next."""


def train_stage(
    module: nn.Module,
    *,
    batches: Callable[[np.random.Generator], list[Batch]],
    config: RecFormerConfig,
    context: Context,
    n_batches: int,
    epochs: int,
    learning_rate: float,
    warmup: int,
    validate: Callable[[], ValidationFigures] | None,
    folder: Path,
    seed: int,
    patience: int = 1,
) -> TrainingReport:
    """One stage on the shared loop, with a learning-rate schedule of its own.

    The authors' code has one schedule, sized for one stage, so that a second stage that begins after
    it runs at a learning rate of 0.

    Args:
        module: what is trained.
        batches: given an epoch's generator, its batches.
        config: settings of all stages.
        context: the run's.
        n_batches: how many batches an epoch has.
        epochs: most epochs.
        learning_rate: peak learning rate.
        warmup: optimiser steps until it is reached; at most half of all.
        validate: as for :func:`bench.baselines.training.train`.
        folder: for the stage's checkpoint.
        seed: of the stage.
        patience: epochs without a better figure before the stage ends.
    """
    optimiser = adamw(module, learning_rate=learning_rate, weight_decay=config.weight_decay)
    total = epochs * -(-n_batches // config.accumulate)

    def steps(rng: np.random.Generator) -> Sequence[Loss]:
        return scheduled(
            accumulated(batches(rng), config.accumulate),
            optimiser,
            learning_rate=learning_rate,
            warmup=min(warmup, total // 2),
            total=total,
        )

    return train(
        module,
        steps,
        config=config.model_copy(
            update={"epochs": epochs, "patience": patience, "learning_rate": learning_rate}
        ),
        context=context,
        validate=validate,
        folder=folder,
        seed=seed,
        optimiser=optimiser,
    )


def accumulated(batches: Sequence[Batch], count: int) -> list[Loss]:
    """Steps of ``count`` batches each: the mean of their losses, and its gradient.

    Only one part of a loss has its graph in memory at a time.
    """
    groups = [batches[start : start + count] for start in range(0, len(batches), count)]
    return [partial(_mean, group) for group in groups]


def _mean(batches: Sequence[Batch]) -> Tensor:
    """The mean of the batches' losses; the gradients of all parts but the last are there already."""
    parts = [loss for batch in batches for loss in batch()]
    total = 0.0
    for loss in parts[:-1]:
        share = loss() / len(batches)
        share.backward()  # type: ignore[no-untyped-call]
        total += float(share.detach())
    return parts[-1]() / len(batches) + total
