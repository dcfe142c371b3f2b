"""Array operations shared by the reference rows."""

from __future__ import annotations

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.methods import DomainView

__all__ = [
    "add_at_candidates",
    "co_occurrences",
    "interactions",
    "item_counts",
    "last_items",
    "log_popularity",
]

# Elements of a dense working block: 4 M float32 are 16 MB, which stays near the cache.
_BLOCK = 4_000_000
# A pair weight below this share of the largest is left out: it cannot change an order that matters.
_NEGLIGIBLE = 1e-3


def item_counts(domain: DomainView) -> NDArray[np.int64]:
    """How often every item occurs in the training sequences; int64, shape ``(n_items,)``."""
    return np.bincount(domain.sequences.items, minlength=domain.n_items).astype(np.int64)


def log_popularity(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """``log(1 + count) / log(1 + largest count)``, in [0, 1]; float64, shape ``(n_items,)``."""
    share: NDArray[np.float64] = np.log1p(counts) / np.log1p(max(1, int(counts.max(initial=0))))
    return share


def interactions(
    sequences: Sequences, n_items: int, weights: NDArray[np.floating] | None = None
) -> sp.csr_array:
    """Row-item matrix: float32 CSR, shape ``(len(sequences), n_items)``.

    Args:
        sequences: n rows.
        n_items: number of columns.
        weights: one value per event, summed where an item repeats; None makes the matrix binary.
    """
    values = np.ones(len(sequences.items)) if weights is None else weights
    # Copies, because summing duplicates sorts the arrays in place and they are the caller's.
    matrix = sp.csr_array(
        (values.astype(np.float32), sequences.items.copy(), sequences.offsets.copy()),
        shape=(len(sequences), n_items),
    )
    matrix.sum_duplicates()
    if weights is None:
        matrix.data[:] = 1
    return matrix


def co_occurrences(
    sequences: Sequences, n_items: int, *, reach: int | None, decay: float
) -> sp.csr_array:
    """Weights of ordered pairs within a sequence: float64 CSR, shape ``(n_items, n_items)``.

    Entry ``[i, j]`` sums ``decay ** (d - 1)`` over all places where j stands d >= 1 events after i.

    Args:
        sequences: training sequences.
        n_items: size of the vocabulary.
        reach: largest d, or None for as far as a weight of at least 0.001 goes (needs decay < 1).
        decay: in (0, 1].
    """
    longest = int(sequences.lengths.max(initial=0))
    if reach is None:
        reach = 1 + int(np.log(_NEGLIGIBLE) / np.log(decay))
    rows, items = sequences.rows, sequences.items
    total = sp.csr_array((n_items, n_items))
    for distance in range(1, min(reach, longest - 1) + 1):
        same = rows[distance:] == rows[:-distance]
        before, after = items[:-distance][same], items[distance:][same]
        weight = np.full(len(before), decay ** (distance - 1))
        total = total + sp.csr_array((weight, (before, after)), shape=(n_items, n_items))
    return total


def last_items(sequences: Sequences) -> NDArray[np.int64]:
    """Newest item of every sequence, -1 where it is empty; int64, shape ``(n,)``."""
    last = np.full(len(sequences), -1, dtype=np.int64)
    filled = sequences.lengths > 0
    last[filled] = sequences.items[sequences.offsets[1:][filled] - 1]
    return last


def add_at_candidates(
    scores: NDArray[np.float32],
    candidates: NDArray[np.int32],
    rows: sp.csr_array,
    table: sp.csr_array,
) -> None:
    """Add ``(rows @ table)[i, candidates[i]]`` to ``scores[i]``, block by block.

    Only a block of rows of the product is ever dense, so memory stays at tens of MB for any number
    of requests, and for full ranking.

    Args:
        scores: float32, shape ``(n, c)``, changed in place.
        candidates: int32, shape ``(n, c)``.
        rows: sparse, shape ``(n, m)``.
        table: sparse, shape ``(m, n_items)``.
    """
    step = max(1, _BLOCK // max(1, table.shape[1]))
    for start in range(0, len(scores), step):
        block = slice(start, start + step)
        dense = (rows[block] @ table).toarray()
        scores[block] += np.take_along_axis(dense, candidates[block], axis=1)
