"""What encoders that are trained further share: positions, passes of like length, one vector per text."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.baselines.text.encoders import Pooling
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


def pool(states: Tensor, mask: Tensor, pooling: Pooling) -> Tensor:
    """One vector per row, float32, shape ``(b, d)``.

    Args:
        states: last hidden states, shape ``(b, l, d)``.
        mask: 1 for tokens, 0 for padding, shape ``(b, l)``; the first column is 1.
        pooling: the first token's state, or the mean over the tokens.
    """
    if pooling == "cls":
        return states[:, 0].float()
    weights = mask[..., None].float()
    return (states.float() * weights).sum(1) / weights.sum(1)
