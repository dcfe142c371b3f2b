"""Negatives that are drawn at random for training."""

from __future__ import annotations

import numpy as np
import pytest
from tiny_catalogue import sequences

from bench.baselines.negatives import NegativeSampler
from bench.errors import MethodError


def test_negatives_avoid_the_training_items_only() -> None:
    sampler = NegativeSampler(sequences([0, 1, 2], [3]), 5)
    drawn = sampler.draw(np.array([0, 1] * 500), np.random.default_rng(0))
    assert set(drawn[::2].tolist()) == {3, 4}
    assert set(drawn[1::2].tolist()) == {0, 1, 2, 4}


def test_no_negative_left_is_an_error_not_an_endless_loop() -> None:
    with pytest.raises(MethodError, match="all 3 items"):
        NegativeSampler(sequences([0, 1, 2]), 3)
