"""Padding on the left."""

from __future__ import annotations

import torch

from bench.baselines.padding import shift_right


def test_left_padding_keeps_the_items_in_order() -> None:
    items = torch.tensor([[3, 4, 0, 0], [5, 6, 7, 8], [0, 0, 0, 0]])
    shifted = shift_right(items, torch.tensor([2, 4, 0]))
    assert shifted.tolist() == [[0, 0, 3, 4], [5, 6, 7, 8], [0, 0, 0, 0]]
