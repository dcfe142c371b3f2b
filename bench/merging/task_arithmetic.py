"""Task arithmetic: a linear combination of updates, with any coefficients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.merging.adapter import Adapter
from bench.merging.configs import TaskArithmeticConfig, check_weights
from bench.merging.linear import sum_of_products
from bench.merging.merged import Part, Setting, canonical

__all__ = ["coefficients", "merge_task_arithmetic"]


def coefficients(config: TaskArithmeticConfig, n: int) -> list[float]:
    """Coefficient of each of ``n`` adapters in the sum of updates.

    With a reference R, ``R + sum lambda_i (D_i - R)`` gives R the coefficient 1 - sum lambda_i.
    """
    reference = config.reference
    if reference is None:
        return [config.scale * weight for weight in check_weights(config.weights, n, 1.0)]
    weights = check_weights(config.weights, n - 1, 1.0)
    values = [config.scale * weight for weight in weights]
    return [*values[:reference], 1.0 - sum(values), *values[reference:]]


def merge_task_arithmetic(
    adapters: Sequence[Adapter], config: TaskArithmeticConfig, setting: Setting
) -> Iterator[tuple[str, Part]]:
    """D' = sum lambda_i D_i in product space, exact unless a rank is given.

    Source: Ilharco et al., "Editing models with task arithmetic", ICLR 2023. The form on factors, which
    PEFT calls ``linear``, holds cross terms and is not offered.
    """
    ordered, row = canonical(adapters, coefficients(config, len(adapters)))
    return sum_of_products(ordered, row, config.rank)
