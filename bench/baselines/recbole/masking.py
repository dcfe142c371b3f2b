"""BERT4Rec's masks, drawn for a whole batch at once."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["draw_mask"]


def draw_mask(
    lengths: NDArray[np.int64],
    width: int,
    *,
    mask_ratio: float,
    last_only: bool,
    max_masked: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Choose the items to hide and those of them that are predicted.

    The rule of RecBole's ``MaskItemSequence``: either the last item of every row, or every item
    with probability ``mask_ratio``; at most ``max_masked`` per row count in the loss (the last
    ones). It differs in two ways: position 0 counts like any other (there, index 0 doubles as list
    padding), and a batch that drew no mask at all masks its last items instead of dividing by zero.

    Args:
        lengths: int64, shape ``(b,)``, real items per row, >= 1.
        width: columns of the batch.
        mask_ratio: probability of hiding an item, in (0, 1].
        last_only: hide the last item of every row and nothing else.
        max_masked: most positions per row that count in the loss.
        rng: local generator.

    Returns:
        hidden and predicted, bool, shape ``(b, width)``; ``predicted`` is a subset of ``hidden``.
    """
    columns = np.arange(width)
    last = columns == (lengths - 1)[:, None]
    if last_only:
        return last, last
    hidden = (rng.random((len(lengths), width)) < mask_ratio) & (columns < lengths[:, None])
    if not hidden.any():
        return last, last
    from_the_end = np.cumsum(hidden[:, ::-1], axis=1)[:, ::-1]
    return hidden, hidden & (from_the_end <= max_masked)
