"""Weighted sums of adapters: exact stacked factors in product space, sums of factors in factor space.

Any sum of weight times update has an exact form of rank sum of r: A' is the stack of the A, B' the
row of the weighted B. A weight may be a number or a column with one value per output row.

If adapters have different scalings, the largest becomes that of the result and the others enter
through B, so that the stored alpha keeps its usual meaning.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from bench.merging.adapter import Adapter, Factors
from bench.merging.merged import Part
from bench.merging.truncation import truncate_factors

__all__ = [
    "average_factors",
    "common_scaling",
    "relative_scaling",
    "scaled_factors",
    "stack",
    "sum_of_products",
]


def common_scaling(adapters: Sequence[Adapter]) -> float:
    """The scaling of a merge: the largest of its inputs."""
    return max(adapter.scaling for adapter in adapters)


def relative_scaling(adapters: Sequence[Adapter]) -> list[float]:
    """Scaling of each adapter as a share of the largest; exactly 1.0 if all are equal."""
    largest = common_scaling(adapters)
    return [adapter.scaling / largest for adapter in adapters]


def scaled_factors(adapter: Adapter, module: str, share: float) -> Factors:
    """Float32 factors of a module, B multiplied by ``share``."""
    a, b = adapter.factors[module]
    return Factors(a.float(), b.float() if share == 1.0 else b.float() * share)


def stack(
    pairs: Sequence[Factors], weights: Sequence[float | torch.Tensor], rank: int | None
) -> Part:
    """The sum of weight times B A as one pair of factors.

    Args:
        pairs: float32 factors.
        weights: per pair a number, or a float32 column (d_out, 1).
        rank: rank to cut to; None keeps the sum of the ranks.
    """
    a = torch.cat([pair.a for pair in pairs])
    b = torch.cat([pair.b * weight for pair, weight in zip(pairs, weights, strict=True)], dim=1)
    if rank is None:
        return Part(Factors(a, b))
    cut = truncate_factors(a, b, rank)
    return Part(cut.factors, cut.error, cut.norm)


def sum_of_products(
    adapters: Sequence[Adapter],
    weights: Sequence[float] | Mapping[str, Sequence[float]],
    rank: int | None,
) -> Iterator[tuple[str, Part]]:
    """Per module the sum of weight times update, exact unless ``rank`` cuts it.

    An adapter whose weight is exactly 0 everywhere is left out; if all are, the first stays, so that
    the result has a rank.

    Args:
        adapters: adapters over the same modules.
        weights: one number per adapter, or such numbers by module name.
        rank: rank to cut to; None keeps the sum of the ranks of the adapters that count.

    Yields:
        Module name and factors.
    """
    by_module = (
        weights if isinstance(weights, Mapping) else dict.fromkeys(adapters[0].modules, weights)
    )
    kept = [i for i in range(len(adapters)) if any(row[i] for row in by_module.values())] or [0]
    shares = relative_scaling(adapters)
    for module in adapters[0].modules:
        pairs = [scaled_factors(adapters[i], module, shares[i]) for i in kept]
        yield module, stack(pairs, [by_module[module][i] for i in kept], rank)


def average_factors(
    adapters: Sequence[Adapter], weights: Sequence[float]
) -> Iterator[tuple[str, Part]]:
    """Per module A' = sum of weight times A and B' = sum of weight times B.

    Source: WeaveRec, Eq. 6-7 and 10-11. The update B' A' also holds the cross terms B_i A_j.
    """
    shares = relative_scaling(adapters)
    for module, first in adapters[0].factors.items():
        a = torch.zeros_like(first.a, dtype=torch.float32)
        b = torch.zeros_like(first.b, dtype=torch.float32)
        for adapter, share, weight in zip(adapters, shares, weights, strict=True):
            pair = scaled_factors(adapter, module, share)
            a.add_(pair.a, alpha=weight)
            b.add_(pair.b, alpha=weight)
        yield module, Part(Factors(a, b))
