"""Softmax attention that also returns its normaliser, so that parts over disjoint keys can be joined.

Attention over the keys of two sets is the mean of the two attentions, weighted by the sums of
exponentials of their scores; :func:`join` does that from the logarithms of the sums. No mask is ever
held in memory but a causal one of the longest branch.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

__all__ = ["by_formula", "causal", "join", "with_normaliser"]


def causal(q: Tensor, k: Tensor, v: Tensor, scale: float) -> Tensor:
    """Causal attention of one text.

    Args:
        q: ``(n, H, e)``.
        k: ``(n, K, e)``; K divides H, neighbouring query heads share a key head.
        v: ``(n, K, e)``.
        scale: factor of the scores.

    Returns:
        ``(n, H, e)``.
    """
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    grouped = q.shape[1] != k.shape[1]
    out = F.scaled_dot_product_attention(q, k, v, is_causal=True, scale=scale, enable_gqa=grouped)
    return out[0].transpose(0, 1)


def with_normaliser(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, is_causal: bool = False
) -> tuple[Tensor, Tensor]:
    """Attention and the logarithm of the sum of the exponentials of every query's scores.

    Args:
        q: ``(batch, heads, n, e)``.
        k: ``(batch, heads, m, e)``.
        v: ``(batch, heads, m, e)``.
        scale: factor of the scores.
        is_causal: whether query i sees the keys 0 to i only (n = m).

    Returns:
        Attention ``(batch, heads, n, e)`` and normaliser ``(batch, heads, n)``, float32 (nats).
    """
    if q.device.type == "cpu":
        # The kernel behind scaled_dot_product_attention, which hides its second result.
        fused: Any = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
        out, normaliser = fused(q, k, v, 0.0, is_causal, scale=scale)
        return out, normaliser
    return by_formula(q, k, v, scale, is_causal=is_causal)


def by_formula(
    q: Tensor, k: Tensor, v: Tensor, scale: float, *, is_causal: bool
) -> tuple[Tensor, Tensor]:
    """What :func:`with_normaliser` computes, in plain operations with all scores in memory."""
    scores = (q @ k.transpose(-1, -2)).float().mul_(scale)
    if is_causal:
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=q.device).triu_(1)
        scores.masked_fill_(future, float("-inf"))
    normaliser = torch.logsumexp(scores, dim=-1, keepdim=True)
    weights = scores.sub_(normaliser).exp_().to(q.dtype)
    return weights @ v, normaliser[..., 0]


def join(a: tuple[Tensor, Tensor], b: tuple[Tensor, Tensor]) -> Tensor:
    """Attention over the union of two disjoint sets of keys.

    Args:
        a: attention ``(..., e)`` over the first set and its normaliser ``(...)``.
        b: the same for the second set.

    Returns:
        ``(..., e)``.
    """
    share = torch.sigmoid(a[1] - b[1]).to(a[0].dtype)
    return torch.lerp(b[0], a[0], share[..., None])
