"""A batch whose rows an encoder reads in three groups of like length."""

from __future__ import annotations

import numpy as np
import torch

from bench.baselines.batches import Batch, length_groups

ROWS = 48


def three_groups(n_items: int) -> tuple[Batch, torch.Tensor]:
    """Random items in rows of 10, 3 and 6 by turns, so that groups change the order of the rows.

    Returns:
        The batch, one target a row; and, bool of shape ``(ROWS, ROWS)``, which other rows have the
        same target: some have.
    """
    rng = np.random.default_rng(0)
    lengths = np.tile([10, 3, 6], ROWS // 3)
    assert len(length_groups(lengths)) == 3
    drawn = rng.integers(1, n_items + 1, size=(ROWS, 10))
    items = np.where(np.arange(10) < lengths[:, None], drawn, 0)
    targets = rng.integers(1, n_items + 1, size=ROWS)
    same = torch.from_numpy(targets[:, None] == targets).fill_diagonal_(False)
    assert same.any()
    return Batch(items, lengths, targets, np.arange(ROWS)), same
