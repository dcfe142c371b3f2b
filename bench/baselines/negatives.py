"""Training negatives: uniform items outside the user's *training* sequence.

Held-out items may be drawn: excluding them would tell the model what it must not know.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.errors import MethodError

__all__ = ["NegativeSampler"]


class NegativeSampler:
    """Draw one negative per row, never an item of that row's training sequence.

    Args:
        sequences: training sequences.
        n_items: size of the vocabulary.

    Raises:
        MethodError: some user has trained on every item.
    """

    def __init__(self, sequences: Sequences, n_items: int) -> None:
        self._n_items = n_items
        # One sorted key per (user, item) makes membership a binary search.
        self._seen = np.unique(sequences.rows * n_items + sequences.items)
        per_user = np.bincount(self._seen // n_items, minlength=len(sequences))
        if len(per_user) and int(per_user.max()) >= n_items:
            raise MethodError(
                f"user row {int(per_user.argmax())} has trained on all {n_items} items, so no "
                "negative can be drawn. Use a loss without negatives (CE)."
            )

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Item indices, int64, shape ``(len(rows),)``, one for each row of the training sequences."""
        drawn = rng.integers(0, self._n_items, size=len(rows))
        pending = np.arange(len(rows))
        while len(pending):
            keys = rows[pending] * self._n_items + drawn[pending]
            place = np.minimum(np.searchsorted(self._seen, keys), len(self._seen) - 1)
            pending = pending[self._seen[place] == keys] if len(self._seen) else pending[:0]
            drawn[pending] = rng.integers(0, self._n_items, size=len(pending))
        return drawn
