from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from bench.llm.fused import lora_linear, packed_attention, rms_norm, sequence_attention, swiglu

BOUNDS = (0, 1, 8, 300, 560, 900)  # a single token, a short one, one above a block, one of two


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def check(mine, plain, *inputs: Tensor) -> None:
    """Values and gradients of both functions agree, in float64."""
    first = [x.clone().requires_grad_() for x in inputs]
    second = [x.clone().requires_grad_() for x in inputs]
    a, b = mine(*first), plain(*second)
    torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-6)
    g = randn(*a.shape, seed=9)
    a.backward(g)
    b.backward(g)
    for x, y in zip(first, second, strict=True):
        torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-5)


def test_rms_norm():
    w = randn(12, seed=1)

    def plain(x: Tensor) -> Tensor:
        return w * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-5)

    check(lambda x: rms_norm(x, w, 1e-5), plain, randn(7, 12))


def test_rms_norm_leaves_its_input_alone():
    x = randn(3, 4).float()
    before = x.clone().requires_grad_()
    y = rms_norm(before, torch.ones(4), 1e-5)
    y.sum().backward()
    assert torch.equal(before.detach(), x)


def test_swiglu():
    def plain(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    check(swiglu, plain, randn(5, 14))


@pytest.mark.parametrize("adapted", [(True, True), (False, True), (True, False)])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dropped", [False, True])
def test_lora_linear(adapted: tuple[bool, ...], with_bias: bool, dropped: bool):
    w = randn(10, 6, seed=1)
    bias = randn(10, seed=2) if with_bias else None
    keep = (randn(4, 6, seed=3) > 0).double() * 2 if dropped else None
    sizes, scaling = (7, 3), 1.7
    factors = [
        f
        for i, size in enumerate(sizes)
        if adapted[i]
        for f in (randn(2, 6, seed=4 + i), randn(size, 2, seed=6 + i))
    ]

    def mine(x: Tensor, *factors: Tensor) -> Tensor:
        seen = x if keep is None else x * keep
        return lora_linear(x, seen, w, bias, scaling, sizes, adapted, *factors)

    def plain(x: Tensor, *factors: Tensor) -> Tensor:
        y = F.linear(x, w, bias)
        seen = x if keep is None else x * keep
        pairs = iter(zip(factors[::2], factors[1::2], strict=True))
        extra = []
        for has, size in zip(adapted, sizes, strict=True):
            if has:
                a, b = next(pairs)
                extra.append(scaling * seen @ a.t() @ b.t())
            else:
                extra.append(torch.zeros(len(x), size, dtype=x.dtype))
        return y + torch.cat(extra, dim=-1)

    check(mine, plain, randn(4, 6), *factors)


def test_lora_linear_on_an_input_without_gradient_trains_the_factors():
    a, b = randn(2, 6).requires_grad_(), randn(3, 2).requires_grad_()
    x, w = randn(4, 6, seed=5), randn(3, 6, seed=6)
    lora_linear(x, x, w, None, 1.0, (3,), (True,), a, b).sum().backward()
    assert a.grad is not None
    assert b.grad is not None


def plain_attention(qkv: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """One mask over everything: causal, and only within a sequence; the formula of the papers."""
    n_q, n_k, size = 6, 2, 8
    x = qkv.view(len(qkv), n_q + 2 * n_k, size)
    half = size // 2
    low, high = x[:, : n_q + n_k, :half], x[:, : n_q + n_k, half:]
    c, s = cosine[:, None], sine[:, None]
    rotated = torch.cat((low * c - high * s, high * c + low * s), dim=-1)
    q, k, v = rotated[:, :n_q], rotated[:, n_q:], x[:, n_q + n_k :]
    k, v = k.repeat_interleave(n_q // n_k, 1), v.repeat_interleave(n_q // n_k, 1)
    scores = torch.einsum("ihe,jhe->hij", q, k) * 0.3
    owner = torch.repeat_interleave(
        torch.arange(len(BOUNDS) - 1), torch.tensor(BOUNDS).diff(), output_size=len(qkv)
    )
    allowed = (owner[:, None] == owner[None]) & torch.ones(len(qkv), len(qkv)).tril().bool()
    p = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hij,jhe->ihe", p, v).reshape(len(qkv), -1)


@pytest.mark.parametrize("attention", [packed_attention, sequence_attention])
def test_attention_keeps_to_its_own_sequence(attention):
    angle = randn(BOUNDS[-1], 4, seed=3)
    cosine, sine = angle.cos(), angle.sin()
    check(
        lambda x: attention(x, cosine, sine, BOUNDS, (6, 2), 0.3),
        lambda x: plain_attention(x, cosine, sine),
        randn(BOUNDS[-1], 80),
    )
