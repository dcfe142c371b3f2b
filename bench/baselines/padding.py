"""Left padding, for models whose last column is the newest item."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["shift_right"]


def shift_right(items: Tensor, lengths: Tensor) -> Tensor:
    """Turn right-padded rows into left-padded ones of the same width.

    Args:
        items: int64, shape ``(b, l)``; zeros from ``lengths`` on.
        lengths: int64, shape ``(b,)``, in ``[0, l]``.
    """
    width = items.shape[1]
    source = torch.arange(width, device=items.device) - (width - lengths[:, None])
    return items.gather(1, source.clamp(min=0)).masked_fill(source < 0, 0)
