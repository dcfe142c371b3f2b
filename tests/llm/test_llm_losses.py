from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from bench.llm.losses import chunked_cross_entropy


def problem(n: int, dtype: torch.dtype, seed: int = 0, spread: float = 1.0):
    g = torch.Generator().manual_seed(seed)
    hidden = (torch.randn(n, 24, generator=g) * spread).to(dtype)
    weight = torch.randn(101, 24, generator=g).to(dtype)
    return hidden, weight, torch.randint(0, 101, (n,), generator=g)


@pytest.mark.parametrize("rows", [1, 3, 7, 20, 1000])
def test_loss_and_gradient_equal_autograd_on_full_logits(rows: int):
    hidden, weight, labels = problem(20, torch.float32)
    mine, theirs = hidden.clone().requires_grad_(), hidden.clone().requires_grad_()
    loss = chunked_cross_entropy(mine, weight, labels, chunk_bytes=rows * 101 * 4)
    expected = F.cross_entropy(theirs @ weight.t(), labels, reduction="sum")
    (loss / 13).backward()
    (expected / 13).backward()
    torch.testing.assert_close(loss, expected, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(mine.grad, theirs.grad, atol=1e-6, rtol=1e-6)


def test_an_impossible_label_has_its_exact_loss():
    hidden, weight, labels = problem(12, torch.float32, spread=60.0)
    expected = F.cross_entropy(hidden @ weight.t(), labels, reduction="none")
    assert expected.max() > 200  # exp(-200) is 0 in float32
    loss = chunked_cross_entropy(hidden, weight, labels)
    torch.testing.assert_close(loss, expected.sum(), rtol=1e-6, atol=0)


def test_bfloat16_is_within_rounding_of_float32():
    hidden, weight, labels = problem(64, torch.bfloat16)
    mine = hidden.clone().requires_grad_()
    wide = hidden.float().requires_grad_()
    loss = chunked_cross_entropy(mine, weight, labels)
    expected = F.cross_entropy(wide @ weight.float().t(), labels, reduction="sum")
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=5e-3, atol=0)
    assert mine.grad is not None
    assert wide.grad is not None
    assert (mine.grad.float() - wide.grad).norm() < 0.01 * wide.grad.norm()


def test_no_label_costs_nothing_and_the_projection_gets_no_gradient():
    hidden, weight, labels = problem(4, torch.float32)
    weight.requires_grad_()
    none = chunked_cross_entropy(hidden[:0].requires_grad_(), weight, labels[:0])
    assert none.item() == 0.0
    hidden.requires_grad_()
    chunked_cross_entropy(hidden, weight, labels).backward()
    assert weight.grad is None


def test_without_gradient_the_loss_is_the_same():
    hidden, weight, labels = problem(9, torch.float32)
    with torch.no_grad():
        plain = chunked_cross_entropy(hidden, weight, labels)
    tracked = chunked_cross_entropy(hidden.requires_grad_(), weight, labels)
    assert plain.item() == tracked.item()
