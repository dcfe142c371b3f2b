"""Dropout with cheap random bits: on CPUs torch's own spends most of its time on drawing them."""

from __future__ import annotations

import torch
from torch import Tensor, nn

__all__ = ["BitDropout"]

_LEVELS = 2**16


class BitDropout(nn.Module):
    """Zero elements at random in training and scale the rest, as ``torch.nn.Dropout`` does.

    One 64-bit draw decides four elements, so the probability is rounded to a multiple of 2^-16 (0.5
    and 0.25 are exact). Draws come from torch's generator of the tensor's device.

    Args:
        probability: of an element to become zero, in [0, 1).
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self._zeroed = round(probability * _LEVELS)

    def forward(self, x: Tensor) -> Tensor:
        if not self.training or self._zeroed == 0:
            return x
        n = x.numel()
        words = torch.empty(-(-n // 4), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        bits = words.view(torch.int16)[:n].view(x.shape)
        kept = bits >= self._zeroed - _LEVELS // 2
        return x * kept.to(x.dtype).mul_(_LEVELS / (_LEVELS - self._zeroed))

    def extra_repr(self) -> str:
        return f"probability={self._zeroed / _LEVELS}"
