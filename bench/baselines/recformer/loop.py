"""A training stage of RecFormer on the shared loop: AdamW, warm-up, linear decay, accumulation."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from bench.baselines.recformer.config import RecFormerConfig
from bench.baselines.schedules import adamw, scheduled
from bench.baselines.training import TrainingReport, train
from bench.methods import Context

__all__ = ["accumulated", "train_stage"]

_Loss = Callable[[], Tensor]


def train_stage(
    module: nn.Module,
    *,
    losses: Callable[[np.random.Generator], list[_Loss]],
    config: RecFormerConfig,
    context: Context,
    batches: int,
    epochs: int,
    learning_rate: float,
    warmup: int,
    validate: Callable[[], float] | None,
    folder: Path,
    seed: int,
    patience: int = 1,
) -> TrainingReport:
    """One stage on the shared loop, with a learning-rate schedule of its own.

    The authors' code has one schedule, sized for one stage, so that a second stage that begins after
    it runs at a learning rate of 0.

    Args:
        module: what is trained.
        losses: given an epoch's generator, the losses of its batches, each computed when called.
        config: settings of all stages.
        context: the run's.
        batches: how many losses an epoch has.
        epochs: most epochs.
        learning_rate: peak learning rate.
        warmup: optimiser steps until it is reached; at most half of all.
        validate: as for :func:`bench.baselines.training.train`.
        folder: for the stage's checkpoint.
        seed: of the stage.
        patience: epochs without a better figure before the stage ends.
    """
    optimiser = adamw(module, learning_rate=learning_rate, weight_decay=config.weight_decay)
    total = epochs * -(-batches // config.accumulate)

    def steps(rng: np.random.Generator) -> Sequence[_Loss]:
        return scheduled(
            accumulated(losses(rng), config.accumulate),
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


def accumulated(losses: Sequence[Callable[[], Tensor]], count: int) -> list[Callable[[], Tensor]]:
    """Steps of ``count`` losses each: their mean, and its gradient, one batch in memory at a time."""
    groups = [losses[start : start + count] for start in range(0, len(losses), count)]
    return [group[0] if len(group) == 1 else partial(_mean, group) for group in groups]


def _mean(losses: Sequence[Callable[[], Tensor]]) -> Tensor:
    """The mean of losses; the gradients of all but the last are there already."""
    total = 0.0
    for loss in losses[:-1]:
        share = loss() / len(losses)
        share.backward()  # type: ignore[no-untyped-call]
        total += float(share.detach())
    return losses[-1]() / len(losses) + total
