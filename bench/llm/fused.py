"""Hand-written forward and backward passes of what a decoder layer with LoRA consists of.

Each function does in few passes over memory, and with little kept for the backward pass, what
autograd would do with one pass and one kept tensor per operation. All are plain PyTorch, on any
device; ``tests/llm/test_llm_fused.py`` compares each with autograd on the plain formula.

Rows are tokens, laid end to end without a batch dimension (:mod:`bench.llm.batching`).
"""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

__all__ = [
    "lora_linear",
    "packed_attention",
    "rms_norm",
    "rotate",
    "sequence_attention",
    "swiglu",
    "variable_length_kernel",
]


def lora_linear(
    x: Tensor,
    dropped: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    scaling: float,
    sizes: tuple[int, ...],
    adapted: tuple[bool, ...],
    *factors: Tensor,
) -> Tensor:
    """Several adapted linear layers with one input: ``x W' + bias + scaling * (dropped A') B'``.

    The layers' weights are stacked to one product; the factors ``B`` become one block-diagonal
    matrix, which costs a few zeros and saves a pass over the output per layer. Products run in the
    dtype of ``x``; the factors and their gradients stay in their own (float32).

    Args:
        x: (T, d_in).
        dropped: ``x`` after dropout, or ``x`` itself.
        weight: (sum of sizes, d_in), frozen.
        bias: (sum of sizes,), frozen, or None.
        scaling: ``alpha / r``.
        sizes: outputs of every layer.
        adapted: whether each layer has factors; at least one has.
        *factors: ``A_1, B_1, A_2, B_2, ...`` of the adapted layers; A (r, d_in), B (size, r).

    Returns:
        (T, sum of sizes).
    """
    apply: Any = _LoraLinear.apply
    result: Tensor = apply(x, dropped, weight, bias, scaling, sizes, adapted, *factors)
    return result


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dropped: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        scaling: float,
        sizes: tuple[int, ...],
        adapted: tuple[bool, ...],
        *factors: Tensor,
    ) -> Tensor:
        rank = len(factors[0])
        places = _places(sizes, adapted, rank)
        a = torch.cat([factor.detach() for factor in factors[::2]]).to(x.dtype)
        # Thin products are up to three times faster with the rank as the rows of B and the columns of
        # A in memory.
        b = x.new_zeros(len(a), sum(sizes))
        for (columns, rows), factor in zip(places, factors[1::2], strict=True):
            torch.mul(factor.detach().t(), scaling, out=b[rows, columns])
        y = F.linear(x, weight, bias)
        low = dropped @ a.t().contiguous()
        y.addmm_(low, b)
        ctx.save_for_backward(dropped, low, weight, a, b)
        ctx.scaling, ctx.places, ctx.same = scaling, places, dropped is x
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Any, ...]:
        (g,) = outputs
        dropped, low, weight, a, b = ctx.saved_tensors
        g_low = g @ b.t()
        d_a = (g_low.t() @ dropped).float()
        d_b = (low.t() @ g).float().mul_(ctx.scaling)
        gradients = [d for columns, rows in ctx.places for d in (d_a[rows], d_b[rows, columns].t())]
        d_x = d_dropped = None
        if ctx.needs_input_grad[0]:
            d_x = g @ weight
            if ctx.same:
                d_x.addmm_(g_low, a)
            else:
                d_dropped = g_low @ a
        return d_x, d_dropped, None, None, None, None, None, *gradients


def _places(
    sizes: tuple[int, ...], adapted: tuple[bool, ...], rank: int
) -> list[tuple[slice, slice]]:
    """Outputs and ranks of each adapted layer's ``B`` in the block-diagonal matrix."""
    places, output, row = [], 0, 0
    for size, has_factors in zip(sizes, adapted, strict=True):
        if has_factors:
            places.append((slice(output, output + size), slice(row, row + rank)))
            row += rank
        output += size
    return places


def rms_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    """``weight * (x / sqrt(mean(x^2) + epsilon))``, computed in float32 and rounded as Llama does.

    Args:
        x: (T, d).
        weight: (d,), frozen.
        epsilon: added to the mean square.

    Returns:
        (T, d), the dtype of ``x``.
    """
    result: Tensor = _RmsNorm.apply(x, weight, epsilon)  # type: ignore[no-untyped-call]
    return result


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
        wide = x.to(torch.float32, copy=True)
        norm = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale = norm.square_().div_(x.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x, scale, weight)
        return wide.mul_(scale).to(x.dtype).mul_(weight)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        (g,) = outputs
        x, scale, weight = ctx.saved_tensors
        unit = x.to(torch.float32, copy=True).mul_(scale)
        g = (g * weight).float()
        slope = torch.linalg.vecdot(g, unit).div_(-x.shape[-1]).unsqueeze_(-1)
        return g.addcmul_(unit, slope).mul_(scale).to(x.dtype), None, None


def swiglu(gate_up: Tensor) -> Tensor:
    """``silu(gate) * up`` where ``gate_up`` is ``[gate, up]`` side by side.

    Args:
        gate_up: (T, 2 f).

    Returns:
        (T, f).
    """
    result: Tensor = _SwiGlu.apply(gate_up)  # type: ignore[no-untyped-call]
    return result


class _SwiGlu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor) -> Tensor:
        ctx.save_for_backward(gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor]:
        (g,) = outputs
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        result = torch.empty_like(gate_up)
        d_gate, d_up = result.chunk(2, dim=-1)
        torch.mul(g, F.silu(gate), out=d_up)
        torch.mul(g, up, out=d_gate)
        torch.ops.aten.silu_backward.grad_input(d_gate, gate, grad_input=d_gate)
        return (result,)


def packed_attention(
    qkv: Tensor,
    cosine: Tensor,
    sine: Tensor,
    bounds: tuple[int, ...],
    heads: tuple[int, int],
    scale: float,
) -> Tensor:
    """Rotary embedding and causal attention of packed sequences, each within itself.

    Written for processors, whose fused kernel is slow backwards: one product per sequence and group
    of query heads, the probabilities kept in the dtype of ``qkv`` (heads * length^2 numbers per
    sequence; sequences longer than a block skip what lies above the diagonal).

    Args:
        qkv: (T, (H + 2 K) * e): H query heads, K key heads, K value heads of size e.
        cosine: (T, e / 2), of the rotary angles at every token's position.
        sine: (T, e / 2).
        bounds: where sequences begin and end, n + 1 numbers from 0 to T.
        heads: (H, K); K divides H.
        scale: factor of the scores, usually ``e ** -0.5``.

    Returns:
        (T, H * e).
    """
    result: Tensor = _PackedAttention.apply(  # type: ignore[no-untyped-call]
        qkv, cosine, sine, bounds, heads, scale
    )
    return result


def sequence_attention(
    qkv: Tensor,
    cosine: Tensor,
    sine: Tensor,
    bounds: tuple[int, ...],
    heads: tuple[int, int],
    scale: float,
) -> Tensor:
    """What :func:`packed_attention` computes, by PyTorch's fused kernels (for accelerators).

    On CUDA in half precision all sequences go through one call of the variable-length flash kernel, where
    there is one (:func:`variable_length_kernel`); elsewhere each sequence is one call of scaled
    dot-product attention, without a mask in memory. Arguments and result are those of :func:`packed_attention`.
    """
    n_q, n_k = heads
    size = qkv.shape[-1] // (n_q + 2 * n_k)
    by_token = qkv.view(len(qkv), -1, size)
    rotated = rotate(by_token[:, : n_q + n_k], cosine, sine)
    q, k, v = rotated[:, :n_q], rotated[:, n_q:], by_token[:, n_q + n_k :]
    kernel = variable_length_kernel(qkv.device, qkv.dtype)
    if kernel is not None:
        starts = torch.tensor(bounds, dtype=torch.int32, device=qkv.device)
        longest = _longest(bounds)
        out: Any = kernel(
            q,
            k,
            v.contiguous(),
            starts,
            starts,
            longest,
            longest,
            scale=scale,
            window_size=(-1, 0),  # all of the past, nothing of the future
            enable_gqa=n_q != n_k,
        )
        flat: Tensor = out.reshape(len(qkv), -1)
        return flat
    parts = [
        F.scaled_dot_product_attention(
            q[a:b].transpose(0, 1)[None],
            k[a:b].transpose(0, 1)[None],
            v[a:b].transpose(0, 1)[None],
            is_causal=True,
            scale=scale,
            enable_gqa=n_q != n_k,
        )[0].transpose(0, 1)
        for a, b in itertools.pairwise(bounds)
    ]
    return torch.cat(parts).reshape(len(qkv), -1)


@functools.cache
def variable_length_kernel(device: torch.device, dtype: torch.dtype) -> Callable[..., Any] | None:
    """PyTorch's attention over packed sequences, if this PyTorch and this device have what is needed.

    It came with PyTorch 2.10, grouped heads and windows with later ones (2.12), and its flash kernels run
    on GPUs of compute capability 8.0 and newer, in half precision.
    """
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        return None
    if not torch.cuda.is_available() or torch.cuda.get_device_capability(device) < (8, 0):
        return None
    try:
        kernel: Any = importlib.import_module("torch.nn.attention.varlen").varlen_attn
        known = inspect.signature(kernel).parameters
    except (ImportError, AttributeError, TypeError, ValueError):
        return None
    found: Callable[..., Any] | None = kernel
    return found if {"scale", "window_size", "enable_gqa"} <= set(known) else None


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Rotary embedding of (T, heads, e) by the angles of every token, (T, e / 2) each."""
    low, high = x.chunk(2, dim=-1)
    cosine, sine = cosine[:, None], sine[:, None]
    return torch.cat((low * cosine - high * sine, high * cosine + low * sine), dim=-1)


_BLOCK = 128


class _PackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: Tensor,
        cosine: Tensor,
        sine: Tensor,
        bounds: tuple[int, ...],
        heads: tuple[int, int],
        scale: float,
    ) -> Tensor:
        n_q, n_k = heads
        size = qkv.shape[-1] // (n_q + 2 * n_k)
        by_head = _rotate(qkv, cosine, sine, n_q + n_k, size)
        by_head[:n_q].mul_(scale)
        out = qkv.new_empty(len(qkv), n_q, size)
        future = _future(min(_BLOCK, _longest(bounds)), qkv)
        kept = []
        for start, first, last in _blocks(bounds):
            q = _group(by_head[:n_q, first:last], n_k)
            k = by_head[n_q : n_q + n_k, start:last]
            v = by_head[n_q + n_k :, start:last]
            rows = last - first
            scores = torch.bmm(q, k.transpose(1, 2)).view(n_q, rows, last - start)
            scores[..., first - start :].add_(future[:rows, :rows])
            probabilities = torch.softmax(scores, dim=-1)
            kept.append(probabilities)
            o = torch.bmm(probabilities.view(n_k, -1, last - start), v)
            out[first:last].copy_(o.view(n_q, rows, size).transpose(0, 1))
        ctx.save_for_backward(by_head, cosine, sine, *kept)
        ctx.settings = (bounds, heads, scale)
        return out.view(len(qkv), -1)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None, None, None, None]:
        by_head, cosine, sine, *kept = ctx.saved_tensors
        bounds, (n_q, n_k), scale = ctx.settings
        _, n_tokens, size = by_head.shape
        g = outputs[0].view(n_tokens, n_q, size)
        result = torch.empty_like(by_head)
        d_k, d_v = result[n_q : n_q + n_k], result[n_q + n_k :]
        for (start, first, last), probabilities in zip(_blocks(bounds), kept, strict=True):
            rows, columns = last - first, last - start
            q = _group(by_head[:n_q, first:last], n_k)
            k = by_head[n_q : n_q + n_k, start:last]
            v = by_head[n_q + n_k :, start:last]
            g_part = _group(g[first:last].transpose(0, 1), n_k)
            d_p = torch.bmm(g_part, v.transpose(1, 2)).view(n_q, rows, columns)
            d_s = torch.ops.aten._softmax_backward_data(d_p, probabilities, -1, d_p.dtype)
            d_s = d_s.view(n_k, -1, columns)
            d_q = torch.bmm(d_s, k).view(n_q, rows, size)
            torch.mul(d_q, scale, out=result[:n_q, first:last])
            d_k_part = torch.bmm(d_s.transpose(1, 2), q)
            d_v_part = torch.bmm(probabilities.view(n_k, -1, columns).transpose(1, 2), g_part)
            # Later blocks of a sequence also read the keys and values of earlier ones.
            seen = first - start
            for total, part in ((d_k, d_k_part), (d_v, d_v_part)):
                total[:, start:first].add_(part[:, :seen])
                total[:, first:last].copy_(part[:, seen:])
        return _unrotate(result, cosine, sine, n_q + n_k), None, None, None, None, None


def _blocks(bounds: tuple[int, ...]) -> list[tuple[int, int, int]]:
    """(start of the sequence, first row, one past the last row) of every block of query rows."""
    return [
        (start, first, min(first + _BLOCK, end))
        for start, end in itertools.pairwise(bounds)
        for first in range(start, end, _BLOCK)
    ]


def _longest(bounds: tuple[int, ...]) -> int:
    return max((b - a for a, b in itertools.pairwise(bounds)), default=0)


def _future(n: int, like: Tensor) -> Tensor:
    """(n, n): minus infinity above the diagonal, 0 elsewhere."""
    return like.new_full((n, n), float("-inf")).triu_(1)


def _group(heads: Tensor, n_k: int) -> Tensor:
    """(H, rows, e) as (K, H / K * rows, e): the query heads that share a key head, stacked."""
    return heads.reshape(n_k, -1, heads.shape[-1])


def _rotate(qkv: Tensor, cosine: Tensor, sine: Tensor, n_rotated: int, size: int) -> Tensor:
    """(T, heads * e) as (heads, T, e), the first ``n_rotated`` heads rotated."""
    by_head = qkv.view(len(qkv), -1, size).transpose(0, 1).contiguous()
    low, high = by_head[:n_rotated].chunk(2, dim=-1)
    old_low = low.clone()
    low.mul_(cosine).addcmul_(high, sine, value=-1)
    high.mul_(cosine).addcmul_(old_low, sine)
    return by_head


def _unrotate(by_head: Tensor, cosine: Tensor, sine: Tensor, n_rotated: int) -> Tensor:
    """The transpose of :func:`_rotate`; changes its argument."""
    low, high = by_head[:n_rotated].chunk(2, dim=-1)
    old_low = low.clone()
    low.mul_(cosine).addcmul_(high, sine)
    high.mul_(cosine).addcmul_(old_low, sine, value=-1)
    return by_head.transpose(0, 1).reshape(by_head.shape[1], -1)
