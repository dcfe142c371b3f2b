"""Training negatives: uniform items outside the user's *training* sequence.

Held-out items may be drawn: excluding them would tell the model what it must not know.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.errors import MethodError

__all__ = ["InDomainNegatives", "NegativeSampler"]


class _SeenItems:
    """Which items each training sequence holds.

    Attributes:
        counts: int64, shape ``(n,)``, distinct items of each sequence.
    """

    def __init__(self, sequences: Sequences, n_items: int) -> None:
        self._n_items = n_items
        # One sorted key per (sequence, item) makes membership a binary search.
        self._keys = np.unique(sequences.rows * n_items + sequences.items)
        self.counts = np.bincount(self._keys // max(1, n_items), minlength=len(sequences))

    def redraw(
        self,
        rows: NDArray[np.int64],
        drawn: NDArray[np.int64],
        draw: Callable[[NDArray[np.int64]], NDArray[np.int64]],
    ) -> NDArray[np.int64]:
        """Replace items that a row's sequence holds until there is none left.

        Args:
            rows: shape ``(m,)``, the sequence of each draw.
            drawn: shape ``(m,)``, items; changed in place.
            draw: gives new items for some positions of ``drawn``.
        """
        pending = np.arange(len(rows))
        while len(pending):
            keys = rows[pending] * self._n_items + drawn[pending]
            place = np.minimum(np.searchsorted(self._keys, keys), len(self._keys) - 1)
            pending = pending[self._keys[place] == keys] if len(self._keys) else pending[:0]
            drawn[pending] = draw(pending)
        return drawn


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
        self._seen = _SeenItems(sequences, n_items)
        counts = self._seen.counts
        if len(counts) and int(counts.max()) >= n_items:
            raise MethodError(
                f"user row {int(counts.argmax())} has trained on all {n_items} items, so no "
                "negative can be drawn. Use a loss without negatives (CE)."
            )

    def draw(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.int64]:
        """Item indices, int64, shape ``(len(rows),)``, one for each row of the training sequences."""
        drawn = rng.integers(0, self._n_items, size=len(rows))
        return self._seen.redraw(
            rows, drawn, lambda pending: rng.integers(0, self._n_items, size=len(pending))
        )


class InDomainNegatives:
    """Random items of a row's own domain, never one of that row's training sequence.

    Items of other domains would be told apart by their subject alone.

    Args:
        sequences: training sequences over the union vocabulary.
        domain_of_row: shape ``(n,)``, domain of every sequence.
        offsets: shape ``(d + 1,)``; domain k owns the items ``[offsets[k], offsets[k + 1])``.

    Raises:
        MethodError: some user has trained on every item of the domain.
    """

    def __init__(
        self,
        sequences: Sequences,
        domain_of_row: NDArray[np.integer],
        offsets: NDArray[np.int64],
    ) -> None:
        self._low = offsets[:-1][domain_of_row]
        self._high = offsets[1:][domain_of_row]
        self._seen = _SeenItems(sequences, int(offsets[-1]))
        counts = self._seen.counts
        full = np.flatnonzero((counts > 0) & (counts >= self._high - self._low))
        if len(full):
            raise MethodError(
                f"training sequence {int(full[0])} holds all {int(counts[full[0]])} items of its domain, "
                "so no negative can be drawn. Check the domain with `bench data stats`."
            )

    def draw(
        self, rows: NDArray[np.int64], count: int, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """Union ids, int64, shape ``(len(rows), count)``, uniform and independent of each other."""
        rows = np.repeat(rows, count)
        low, high = self._low[rows], self._high[rows]
        drawn = self._seen.redraw(
            rows,
            rng.integers(low, high),
            lambda pending: rng.integers(low[pending], high[pending]),
        )
        return drawn.reshape(-1, count)
