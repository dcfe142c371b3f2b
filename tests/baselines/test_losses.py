"""The fused softmax loss against torch's own."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from torch.nn.functional import cross_entropy  # noqa: E402

from bench.baselines import losses  # noqa: E402


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [1024, 5])
def test_loss_and_gradients_equal_cross_entropy(
    with_bias: bool, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "_CHUNK_ROWS", chunk)
    generator = torch.Generator().manual_seed(0)

    def leaf(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()

    hidden, table, bias = leaf(13, 8), leaf(40, 8), leaf(40)
    targets = torch.randint(0, 40, (13,), generator=generator)
    inputs = [hidden, table] + ([bias] if with_bias else [])

    plain = cross_entropy(hidden @ table.T + (bias if with_bias else 0), targets)
    expected = torch.autograd.grad(3 * plain, inputs)
    fused = losses.full_softmax_loss(hidden, table, targets, bias if with_bias else None)
    found = torch.autograd.grad(3 * fused, inputs)

    assert float((plain - fused).detach().abs()) < 1e-12
    for a, b in zip(expected, found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_large_logits_do_not_overflow() -> None:
    hidden = torch.full((2, 4), 100.0, requires_grad=True)
    table = torch.eye(4).mul(100.0).requires_grad_()
    loss = losses.full_softmax_loss(hidden, table, torch.tensor([0, 1]))
    loss.backward()
    assert torch.isfinite(loss)
    assert torch.isfinite(hidden.grad).all()
