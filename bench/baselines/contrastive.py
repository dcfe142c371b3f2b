"""In-batch contrastive losses: the other rows of a batch are the negatives."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["EqualPositives", "equal_positives", "info_nce"]

EqualPositives = Literal["exclude", "as-published"]


def equal_positives(ids: Tensor) -> Tensor:
    """Pairs of different rows that share their positive.

    Args:
        ids: int64, shape ``(b,)``, what each row's positive is, for example its next item. Items of
            several domains need ids that are distinct across them.

    Returns:
        bool, shape ``(b, b)``, symmetric, False on the diagonal.
    """
    same = ids[:, None] == ids[None, :]
    return same.fill_diagonal_(False)


def info_nce(
    queries: Tensor,
    keys: Tensor,
    *,
    temperature: float,
    same: Tensor | None = None,
    handling: EqualPositives = "exclude",
    further: Tensor | None = None,
) -> Tensor:
    """Mean of ``-log(exp(s_ii) / sum_j exp(s_ij))`` with ``s_ij = cos(queries_i, keys_j) / temperature``.

    Rows that share their positive are no negatives of each other. The released code of UniSRec and
    VQ-Rec sets their logit to 0 *before* the exponential, so that each still adds ``exp(0) = 1`` to
    the denominator (``as-published``); ``exclude`` leaves them out.

    Args:
        queries: float, shape ``(b, d)``.
        keys: float, shape ``(b, d)``; row i is the positive of query i and a negative of the others.
        temperature: > 0.
        same: bool, shape ``(b, b)``, the pairs of :func:`equal_positives`, or None for no such pair.
        handling: what becomes of those pairs.
        further: float, shape ``(b, m, d)``: m more negatives of each row alone, or None.

    Returns:
        Scalar tensor, nats, computed in float32 or wider; ``log(b)`` when all vectors are equal, no
        pair is the same and there is nothing further.
    """
    # In bfloat16 two logits near 1 / 0.07 would differ by steps of 0.06.
    with torch.autocast(queries.device.type, enabled=False):
        queries, keys = _direction(queries), _direction(keys)
        logits = queries @ keys.T / temperature
        positive = logits.diagonal()
        if same is not None:
            logits = logits.masked_fill(same, 0.0 if handling == "as-published" else -torch.inf)
        if further is not None:
            extra = torch.einsum("bd,bmd->bm", queries, _direction(further)) / temperature
            logits = torch.cat((logits, extra), dim=1)
        return (torch.logsumexp(logits, dim=1) - positive).mean()


def _direction(vectors: Tensor) -> Tensor:
    if vectors.dtype in (torch.bfloat16, torch.float16):
        vectors = vectors.float()
    return functional.normalize(vectors, dim=-1)
