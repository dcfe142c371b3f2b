"""The network of FMLP-Rec (Zhou et al., WWW 2022, section 3), computed for its last position only.

Everything equals the published model; two things are computed in another way because they are
several times faster on CPUs. The discrete Fourier transforms over 50 positions are products with
constant matrices. And since only the last position is scored, the last block, whose filter is a
circular convolution over time, computes that position alone.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.dropout import BitDropout
from bench.errors import MethodError

__all__ = ["FMLPNetwork", "FilterLayer"]

_INIT_STD = 0.02
_EPS = 1e-12


class FilterLayer(nn.Module):
    """Multiply every frequency of every channel by a learned complex number.

    Equal to ``irfft(rfft(x, norm="ortho") * weight, norm="ortho")`` over time, hence to a circular
    convolution over time with the kernel ``irfft(weight)``, and linear in ``x``.

    Args:
        length: number of positions; inputs have exactly so many.
        size: number of channels.
    """

    forward_dft: Tensor
    inverse_dft: Tensor

    def __init__(self, length: int, size: int) -> None:
        super().__init__()
        self.length = length
        n_frequencies = length // 2 + 1
        # Pairs of real and imaginary part: optimisers and weight averages work on real numbers.
        self.weight = nn.Parameter(torch.empty(1, n_frequencies, size, 2).normal_(0, _INIT_STD))
        turns = torch.outer(torch.arange(n_frequencies), torch.arange(length)) % length
        angle = turns.double() * (2 * math.pi / length)
        dft = torch.cat((angle.cos(), -angle.sin())) / math.sqrt(length)
        # A real signal has every frequency twice, but for the mean and, if even, the highest one.
        times = torch.full((n_frequencies,), 2.0, dtype=torch.float64)
        times[0] = 1.0
        if length % 2 == 0:
            times[-1] = 1.0
        self.register_buffer("forward_dft", dft.float(), persistent=False)
        inverse = (dft * times.repeat(2)[:, None]).t().contiguous()
        self.register_buffer("inverse_dft", inverse.float(), persistent=False)

    def kernel(self) -> Tensor:
        """The equivalent convolution kernel over time, float32, shape ``(length, size)``."""
        weight = torch.view_as_complex(self.weight[0].float())
        kernel: Tensor = torch.fft.irfft(weight, n=self.length, dim=0)
        return kernel

    def forward(self, x: Tensor) -> Tensor:
        """Filter all positions; ``x`` and the result are ``(b, length, size)``, float32.

        Raises:
            MethodError: another number of positions.
        """
        self._check(x)
        # Sums over 50 positions lose too much in half precision, as transforms in it do.
        with torch.autocast(x.device.type, enabled=False):
            spectrum = torch.matmul(self.forward_dft, x.float())
            real, imaginary = spectrum.chunk(2, dim=1)
            w_real, w_imaginary = self.weight.unbind(-1)
            filtered = torch.cat(
                (
                    real * w_real - imaginary * w_imaginary,
                    real * w_imaginary + imaginary * w_real,
                ),
                dim=1,
            )
            out: Tensor = torch.matmul(self.inverse_dft, filtered)
            return out

    def last(self, x: Tensor) -> Tensor:
        """Column ``[:, -1]`` of :meth:`forward`, shape ``(b, size)``, without the others.

        Raises:
            MethodError: another number of positions.
        """
        self._check(x)
        # Position length - 1 sees position t through tap (length - 1 - t) of the kernel.
        return (x.float() * self.kernel().flip(0)).sum(dim=1)

    def _check(self, x: Tensor) -> None:
        if x.dim() != 3 or x.shape[1] != self.length:
            raise MethodError(
                f"fmlp-rec: an input of shape {tuple(x.shape)}; its filters are made for "
                f"{self.length} positions. Pad every history to max_history."
            )


class _Block(nn.Module):
    """Filter, then a two-layer perceptron, each with dropout, residual and layer norm."""

    def __init__(self, length: int, size: int, inner_size: int, dropout: float) -> None:
        super().__init__()
        self.filter = FilterLayer(length, size)
        self.filter_norm = nn.LayerNorm(size, eps=_EPS)
        self.inner = nn.Linear(size, inner_size)
        self.outer = nn.Linear(inner_size, size)
        self.norm = nn.LayerNorm(size, eps=_EPS)
        self.dropout = BitDropout(dropout)

    def forward(self, x: Tensor, *, last: bool) -> Tensor:
        """Shape ``(b, length, size)`` to the same, or to ``(b, size)`` of the last position."""
        if last:
            filtered, x = self.filter.last(x), x[:, -1]
        else:
            filtered = self.filter(x)
        hidden: Tensor = self.filter_norm(self.dropout(filtered) + x)
        fed = self.outer(functional.gelu(self.inner(hidden)))
        out: Tensor = self.norm(self.dropout(fed) + hidden)
        return out


class FMLPNetwork(nn.Module):
    """FMLP-Rec over model ids (item index + 1); id 0 is padding and is not masked, as published.

    Args:
        n_items: number of items, without padding.
        length: positions; shorter histories are padded on the left.
        size: size of item vectors and states.
        n_layers: number of blocks, >= 1.
        inner_size: width of the perceptrons.
        dropout: probability of dropout, in [0, 1).
    """

    def __init__(
        self,
        n_items: int,
        *,
        length: int,
        size: int,
        n_layers: int,
        inner_size: int,
        dropout: float,
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, size, padding_idx=0)
        self.positions = nn.Embedding(length, size)
        self.norm = nn.LayerNorm(size, eps=_EPS)
        self.dropout = BitDropout(dropout)
        self.blocks = nn.ModuleList(
            _Block(length, size, inner_size, dropout) for _ in range(n_layers)
        )
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                # The padding vector too: it stays as drawn, since its gradient is dropped.
                nn.init.normal_(module.weight, 0, _INIT_STD)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, items: Tensor) -> Tensor:
        """State of the last position, the user's vector.

        Args:
            items: int64, shape ``(b, length)``, left-padded model ids.

        Returns:
            Float tensor, shape ``(b, size)``.

        Raises:
            MethodError: another number of positions.
        """
        if items.shape[1] != len(self.positions.weight):
            raise MethodError(
                f"fmlp-rec: histories of {items.shape[1]} positions; expected "
                f"{len(self.positions.weight)} (max_history). Pad them on the left."
            )
        x: Tensor = self.dropout(self.norm(self.items(items) + self.positions.weight))
        n_last = len(self.blocks) - 1
        for number, block in enumerate(self.blocks):
            x = block(x, last=number == n_last)
        return x
