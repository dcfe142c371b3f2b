"""Weight average: the mean of the adapters, in factor or in product space."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bench.merging.adapter import Adapter
from bench.merging.configs import WeightAverageConfig, check_weights
from bench.merging.linear import average_factors, sum_of_products
from bench.merging.merged import Part, Setting, canonical

__all__ = ["merge_weight_average"]


def merge_weight_average(
    adapters: Sequence[Adapter], config: WeightAverageConfig, setting: Setting
) -> Iterator[tuple[str, Part]]:
    """Average adapters with shares that sum to 1.

    In factor space A' = sum w_i A_i and B' = sum w_i B_i (WeaveRec, Eq. 5-7); in product space
    D' = sum w_i D_i, exactly (the authors' code, but not in bfloat16 into the base weights). The two
    are equal if all A_i are.
    """
    weights = check_weights(config.weights, len(adapters), 1 / len(adapters))
    ordered, row = canonical(adapters, weights)
    if config.space == "factor":
        return average_factors(ordered, row)
    return sum_of_products(ordered, row, config.rank)
