"""Softmax attention that also returns its normaliser, so that parts over disjoint keys can be joined.

Attention over the keys of two sets is the mean of the two attentions, weighted by the sums of
exponentials of their scores; :func:`join` does that from the logarithms of the sums. No mask is ever
held in memory but a causal one of the longest branch.

A forest (:mod:`bench.llm.engines.tree`) is attended to in two such parts: the prompts, each causal and
alone, with the branches of a user reading that user's prompt without any mask; and the branches among
themselves, one causal row per path of a tree.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from bench.llm.engines.tree import Forest

__all__ = ["ForestPlan", "by_formula", "causal", "forest_attention", "join", "with_normaliser"]


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


@dataclass(frozen=True, slots=True)
class ForestPlan:
    """What all layers share of one forest, on the device.

    Attributes:
        forest: the forest.
        cosine: ``(n, 1, e)``, of the rotary angles; n at least the forest's tokens, e the size of a head.
        sine: the same with the first half's sign changed.
        query: places of the paths' queries in the (node, query head) rows, ``(paths * heads *
            longest,)``; None without nodes.
        key: the same for keys and values, repeated for the query heads that share them.
        back: places of the nodes' results in the paths' results.
        heads: query heads and key heads.
        shape: paths, query heads, longest path.
    """

    forest: Forest
    cosine: Tensor
    sine: Tensor
    query: Tensor | None
    key: Tensor | None
    back: Tensor | None
    heads: tuple[int, int]
    shape: tuple[int, int, int]

    @classmethod
    def of(cls, forest: Forest, cosine: Tensor, sine: Tensor, heads: tuple[int, int]) -> ForestPlan:
        """The plan of a forest whose tokens have the rotary angles ``cosine``, ``sine``, ``(n, e)``."""
        half, device = sine.shape[-1] // 2, sine.device
        sine = torch.cat((-sine[:, :half], sine[:, half:]), dim=-1)
        cosine, sine = cosine[:, None], sine[:, None]
        n_q, n_k = heads
        n_paths, longest = forest.paths.shape
        if not forest.paths.size:
            return cls(forest, cosine, sine, None, None, None, heads, (0, n_q, 0))
        paths = torch.from_numpy(forest.paths).to(device)[:, None, :]
        head = torch.arange(n_q, device=device)[:, None]
        first = torch.from_numpy(forest.first).to(device)[:, None]
        path, place = first // longest, first % longest
        return cls(
            forest,
            cosine,
            sine,
            (paths * n_q + head).reshape(-1),
            (paths * n_k + head // (n_q // n_k)).reshape(-1),
            ((path * n_q + head[:, 0]) * longest + place).reshape(-1),
            heads,
            (n_paths, n_q, longest),
        )


def forest_attention(qkv: Tensor, plan: ForestPlan, scale: float) -> Tensor:
    """Rotary embedding and attention of a forest.

    Args:
        qkv: ``(n, (H + 2 K) * e)``: H query heads, K key heads, K value heads of size e.
        plan: of the forest.
        scale: factor of the scores.

    Returns:
        ``(n, H * e)``; rows beyond the forest's tokens are 0.
    """
    (n_q, n_k), size = plan.heads, plan.cosine.shape[-1]
    by_head = qkv.view(len(qkv), n_q + 2 * n_k, size)
    rotated = _rotate(by_head[:, : n_q + n_k], plan)
    q, k, v = rotated[:, :n_q], rotated[:, n_q:], by_head[:, n_q + n_k :]
    out = torch.empty_like(q)
    cut, end = plan.forest.n_prompt, len(plan.forest.tokens)
    out[end:] = 0  # rows that nobody asked for
    to_prompt = out[cut:end]
    normaliser = q.new_empty((end - cut, n_q), dtype=torch.float32)
    for (start, stop), (first, last) in zip(plan.forest.prompts, plan.forest.nodes, strict=True):
        keys, values = k[start:stop], v[start:stop]
        out[start:stop] = causal(q[start:stop], keys, values, scale)
        if last > first:
            part = _to_prompt(q[cut + first : cut + last], keys, values, scale)
            to_prompt[first:last], normaliser[first:last] = part
    if plan.query is not None and plan.key is not None and plan.back is not None:
        own, own_normaliser = with_normaliser(
            _take(q[cut:], plan.query).view(*plan.shape, size),
            _take(k[cut:], plan.key).view(*plan.shape, size),
            _take(v[cut:], plan.key).view(*plan.shape, size),
            scale,
            is_causal=True,
        )
        own = own.reshape(-1, size).index_select(0, plan.back)
        own_normaliser = own_normaliser.reshape(-1).index_select(0, plan.back)
        to_prompt.copy_(
            join(
                (to_prompt, normaliser),
                (own.view(to_prompt.shape), own_normaliser.view(normaliser.shape)),
            )
        )
    return out.view(len(qkv), -1)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """Rows of (n, heads, e), counted over token and head."""
    return x.reshape(-1, x.shape[-1]).index_select(0, places)


def _to_prompt(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of (n, H, e) to all of a prompt's (m, K, e), and its normaliser (n, H)."""
    (n, n_q, size), (m, n_k, _) = q.shape, k.shape
    # Key heads as the batch: the query heads of a group read the same keys without a copy.
    grouped = q.view(n, n_k, n_q // n_k, size).permute(1, 2, 0, 3)
    k, v = (x.transpose(0, 1)[:, None].expand(n_k, n_q // n_k, m, size) for x in (k, v))
    out, normaliser = with_normaliser(grouped, k, v, scale)
    return out.permute(2, 0, 1, 3).reshape(n, n_q, size), normaliser.permute(2, 0, 1).reshape(
        n, n_q
    )


def _rotate(x: Tensor, plan: ForestPlan) -> Tensor:
    """Rotary embedding of (n, heads, e)."""
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    return (x * plan.cosine).addcmul_(swapped, plan.sine)
