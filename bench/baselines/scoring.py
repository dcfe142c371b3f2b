"""Scores of candidates out of scores of all items, for a bounded number of histories at once."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.baselines.training import autocast
from bench.errors import MethodError
from bench.methods import Context, Requests, Scores

__all__ = ["score_in_chunks"]

# Scores of all items are held for so many (history, item) pairs at once: 32 MB in fp32.
_CELLS = 2**23


def score_in_chunks(
    requests: Requests,
    context: Context,
    score_rows: Callable[[NDArray[np.int64]], Tensor],
    *,
    owner: str,
    n_items: int,
    most_rows: int,
) -> Scores:
    """Score requests whose candidates' scores are columns of a score over all items.

    Args:
        requests: n requests with c candidates each.
        context: device and number format; gradients are off while scores are made.
        score_rows: maps row numbers of ``requests``, int64, shape ``(b,)``, to scores over all items,
            float, shape ``(b, n_items)``. Rows come by length, so that a chunk holds little padding.
        owner: name of the method, for messages.
        n_items: columns of these scores.
        most_rows: largest b.

    Returns:
        float32 scores, shape ``(n, c)``.

    Raises:
        MethodError: a negative candidate index, which would count from the end.
    """
    if len(requests.candidates) and int(requests.candidates.min()) < 0:
        raise MethodError(f"{owner} was given a negative candidate index.")
    values = np.empty(requests.candidates.shape, dtype=np.float32)
    rows_at_once = min(most_rows, max(1, _CELLS // n_items))
    order = np.argsort(requests.history.lengths, kind="stable")
    with torch.inference_mode(), autocast(context):
        for start in range(0, len(order), rows_at_once):
            rows = order[start : start + rows_at_once]
            scores = score_rows(rows)
            columns = torch.from_numpy(requests.candidates[rows].astype(np.int64))
            values[rows] = scores.gather(1, columns.to(scores.device)).float().cpu().numpy()
    return Scores(values)
