"""AdamW with warm-up and linear decay, as language models are fine-tuned."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

__all__ = ["adamw", "linear_rate", "scheduled", "steps_taken"]


def adamw(
    model: nn.Module,
    *,
    learning_rate: float,
    weight_decay: float = 0.0,
    epsilon: float = 1e-8,
) -> torch.optim.AdamW:
    """AdamW over the parameters that are trained; biases and layer norms are not decayed.

    Args:
        model: parameters that need no gradient are left out.
        learning_rate: peak step size, > 0.
        weight_decay: decoupled decay of all matrices, >= 0.
        epsilon: added to the root of the second moment, > 0.
    """
    decayed: list[nn.Parameter] = []
    plain: list[nn.Parameter] = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Vectors are exactly the biases and the weights of layer norms.
            (decayed if parameter.dim() > 1 else plain).append(parameter)
    groups = [
        {"params": decayed, "weight_decay": weight_decay},
        {"params": plain, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=learning_rate, eps=epsilon, fused=True)


def linear_rate(step: int, *, warmup: int, total: int) -> float:
    """Share of the peak learning rate at a step: rises over ``warmup`` steps, then falls to 0.

    Args:
        step: 0-based.
        warmup: steps of the rise, >= 0; step 0 has ``1 / warmup``.
        total: steps of the training, > 0; from there on the rate is 0.
    """
    if step < warmup:
        return (step + 1) / warmup
    return max(0.0, (total - step) / max(1, total - warmup))


def scheduled(
    steps: Sequence[Callable[[], Tensor]],
    optimiser: torch.optim.Optimizer,
    *,
    learning_rate: float,
    warmup: int,
    total: int,
) -> list[Callable[[], Tensor]]:
    """The same steps, each of which first sets the learning rate of :func:`linear_rate`.

    How many steps were taken is read from the optimiser itself, so that a resumed training goes on
    where its schedule was.
    """
    return [
        partial(_step, step, optimiser, learning_rate=learning_rate, warmup=warmup, total=total)
        for step in steps
    ]


def _step(
    step: Callable[[], Tensor],
    optimiser: torch.optim.Optimizer,
    *,
    learning_rate: float,
    warmup: int,
    total: int,
) -> Tensor:
    share = linear_rate(steps_taken(optimiser), warmup=warmup, total=total)
    for group in optimiser.param_groups:
        group["lr"] = learning_rate * share
    return step()


def steps_taken(optimiser: torch.optim.Optimizer) -> int:
    """Steps that an optimiser has taken; parameters that had no gradient yet know of none."""
    return max((int(state["step"]) for state in optimiser.state.values()), default=0)
