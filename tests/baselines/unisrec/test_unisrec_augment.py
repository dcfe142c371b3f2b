"""What UniSRec leaves out of histories and titles."""

from __future__ import annotations

import numpy as np
import pytest
from unisrec_parts import N_ITEMS

from bench.baselines.unisrec.augment import drop_items, drop_words, pick_dropped_texts


def test_item_drop_keeps_order_the_first_item_and_the_padding_at_the_end() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, size=400)
    items = np.where(np.arange(11) < lengths[:, None], np.arange(1, 12), 0)
    kept, left = drop_items(items, lengths, probability=0.2, rng=rng)
    assert kept.shape[1] == left.max()
    assert (left >= 1).all()
    assert (kept[:, 0] == 1).all()
    for row, n in zip(kept, left, strict=True):
        assert (np.diff(row[:n]) > 0).all()
        assert (row[n:] == 0).all()
    # All but the first of a row go with probability 0.2.
    assert (lengths - left).sum() / (lengths - 1).sum() == pytest.approx(0.2, abs=0.03)


def test_word_drop_points_a_fifth_of_the_items_to_their_shortened_titles() -> None:
    rng = np.random.default_rng(0)
    items = np.where(np.arange(20) < 15, rng.integers(1, N_ITEMS + 1, size=(300, 20)), 0)
    picked = pick_dropped_texts(items, N_ITEMS + 1, probability=0.2, rng=rng)
    assert (picked[:, 15:] == 0).all()
    assert ((picked == items) | (picked == items + N_ITEMS + 1)).all()
    assert (picked != items)[:, :15].mean() == pytest.approx(0.2, abs=0.02)


def test_shortened_titles_keep_their_order_and_at_least_a_word() -> None:
    rng = np.random.default_rng(0)
    long = " ".join(f"w{i}" for i in range(40))
    shortened = drop_words([long] * 200 + ["single", ""], probability=0.15, rng=rng)
    assert shortened[-2:] == ["single", ""]
    counts = []
    for text in shortened[:200]:
        numbers = [int(word[1:]) for word in text.split()]
        assert numbers == sorted(numbers)
        counts.append(len(numbers))
    assert np.mean(counts) / 40 == pytest.approx(0.85, abs=0.02)
    assert drop_words(["a b c"], probability=0.999, rng=rng) == ["a"]
