"""What encoders that are trained further share: positions, passes of like length, one vector per text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.baselines.text.encoders import POOLINGS, Pooling
from bench.baselines.text.title_tokens import like_widths

__all__ = ["first_position", "pass_groups", "pool"]

# Tokens of one forward pass; on a CPU more are no faster, and what a training pass keeps for its
# gradients grows with them: about 0.4 MB per token of a small encoder.
_TOKENS = 2048
_TOKENS_ELSEWHERE = 65_536


def first_position(backbone: Any) -> int:
    """Row of the table of word positions that the first token reads.

    RoBERTa's kind, of which Longformer is, counts positions from the padding id on.
    """
    padding = getattr(getattr(backbone, "embeddings", None), "padding_idx", None)
    return 0 if padding is None else int(padding) + 1


def pass_groups(widths: NDArray[np.integer], device: torch.device) -> list[NDArray[np.int64]]:
    """Rows that one forward pass reads: of like width, so that it holds little padding.

    Args:
        widths: shape ``(n,)``, tokens of each row.
        device: the model's.

    Returns:
        Row numbers of each pass, narrowest first; every row occurs once.
    """
    return like_widths(widths, cells=_TOKENS if device.type == "cpu" else _TOKENS_ELSEWHERE)


def pool(states: Tensor, mask: Tensor | None, pooling: Pooling) -> Tensor:
    """One vector per row, float32, shape ``(b, d)``.

    Args:
        states: last hidden states, shape ``(b, l, d)``.
        mask: 1 for tokens, 0 for padding, shape ``(b, l)``, the first column is 1; None: no padding.
        pooling: name in :data:`bench.baselines.text.encoders.POOLINGS`, a function of the other two.
    """
    pooled: Tensor = POOLINGS.load(pooling)(states.float(), mask)
    return pooled


def first_token(states: Tensor, mask: Tensor | None) -> Tensor:
    """The state of the first token."""
    return states[:, 0]


def mean_of_tokens(states: Tensor, mask: Tensor | None) -> Tensor:
    """The mean over the tokens."""
    if mask is None:
        return states.mean(dim=1)
    weights = mask[..., None].float()
    return (states * weights).sum(1) / weights.sum(1)
