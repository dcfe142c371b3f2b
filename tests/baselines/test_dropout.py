"""Dropout from random bits."""

from __future__ import annotations

import pytest
import torch

from bench.baselines.dropout import BitDropout
from bench.baselines.training import isolated_randomness


def test_dropout_drops_the_stated_share_and_keeps_the_mean() -> None:
    x = torch.ones(200_001)
    for probability in (0.1, 0.5):
        with isolated_randomness(0):
            out = BitDropout(probability).train()(x)
        assert (out == 0).float().mean().item() == pytest.approx(probability, abs=0.005)
        kept = out[out > 0]
        torch.testing.assert_close(
            kept, torch.full_like(kept, 1 / (1 - probability)), rtol=1e-4, atol=0
        )
    assert BitDropout(0.5).eval()(x) is x
    assert BitDropout(0.0).train()(x) is x


def test_dropout_repeats_with_the_seed_and_does_not_change_its_input() -> None:
    kept = torch.randn(64, 9, generator=torch.Generator().manual_seed(1))
    x = kept.clone()
    drop = BitDropout(0.5).train()
    with isolated_randomness(3):
        first = drop(x)
    with isolated_randomness(3):
        second = drop(x)
    assert torch.equal(first, second)
    assert torch.equal(x, kept)
