"""Ext-Sub: take from an expert what an anti-expert does not share with it.

For the rows w1 of the expert's B A and w2 of the anti-expert's, with u = w1/|w1|, v = w2/|w2| and
c = (u + v)/|u + v|, the common part of w2 is P = (w2 . c) c and the original result is
w1 - alpha w2 + alpha P. Since |u + v|^2 = 2 (1 + u . v),

    P = w2 / 2 + rho w1 / 2,    rho = |w2| / |w1|,

so the result is (1 + alpha rho / 2) w1 - (alpha / 2) w2: row-scaled factors of rank 2 r, exactly, with
no division by |u + v|. If w1 = 0 (shorter than 1e-30) it has no direction to add and rho is taken as 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from bench.merging.adapter import Adapter, Factors
from bench.merging.configs import ExtSubConfig
from bench.merging.linear import relative_scaling, scaled_factors, stack
from bench.merging.merged import Part, Setting, canonical

__all__ = ["merge_ext_sub", "row_norms"]

SHORTEST_ROW = 1e-30


def row_norms(pair: Factors) -> torch.Tensor:
    """Euclidean norms of the rows of B A, float32 (d_out,), without forming it."""
    # |b A| = |b R'| with A' = Q R: no cancellation, as there would be in b (A A') b'.
    triangle = torch.linalg.qr(pair.a.T, mode="r").R
    norms: torch.Tensor = torch.linalg.vector_norm(pair.b @ triangle.T, dim=1)
    return norms


def merge_ext_sub(
    adapters: Sequence[Adapter], config: ExtSubConfig, setting: Setting
) -> Iterator[tuple[str, Part]]:
    """Subtract from the first adapter the mean of what the others do not share with it.

    Source: Hu et al., "Separate the wheat from the chaff", AAAI 2024. With N > 1 anti-experts (not in
    the original) each enters with alpha / N.
    """
    others, _ = canonical(adapters[1:], adapters[1:])
    return _rows([adapters[0], *others], config)


def _rows(ordered: list[Adapter], config: ExtSubConfig) -> Iterator[tuple[str, Part]]:
    sign = -1.0 if config.mode == "subtract" else 1.0
    half = config.alpha / (2 * (len(ordered) - 1))
    shares = relative_scaling(ordered)
    for module in ordered[0].modules:
        expert, *others = (
            scaled_factors(adapter, module, share)
            for adapter, share in zip(ordered, shares, strict=True)
        )
        length = row_norms(expert)
        total = torch.stack([row_norms(other) for other in others]).sum(0)
        rho = torch.where(length > SHORTEST_ROW, total / length.clamp_min(SHORTEST_ROW), 0.0)
        weights: list[float | torch.Tensor] = [(1.0 + half * rho)[:, None]]
        weights += [sign * half] * len(others)
        yield module, stack([expert, *others], weights, config.rank)
