"""Array operations shared by the reference rows."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.methods import DomainView

__all__ = [
    "co_occurrences",
    "decayed",
    "interactions",
    "item_counts",
    "last_events",
    "log_popularity",
    "sum_over_history",
]

# Elements of a dense working block: 4 M float32 are 16 MB, which stays near the cache.
_BLOCK = 4_000_000
# A lookup in a sparse row costs about as much as this many cells of a dense product (measured on
# 35,598 users x 30 candidates x 18,357 items: 2.4 s by lookup, 9.0 s by product).
_LOOKUP_COST = 100
# A pair weight below this share of the largest is left out: it cannot change an order that matters.
_NEGLIGIBLE = 1e-3
_FORGOTTEN = 1e-4


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
        weights: one value per event, summed if an item repeats; None makes the matrix binary.
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


def decayed(history: Sequences, decay: float) -> tuple[Sequences, NDArray[np.float64]]:
    """The events of a history that still count, and their weights ``decay ** age``.

    Args:
        history: n rows, oldest first; the newest event has age 0.
        decay: in (0, 1]; events with a weight below 0.0001 are left out.

    Returns:
        the shortened history (n rows) and one float64 weight per remaining event.
    """
    age = np.repeat(history.offsets[1:], history.lengths) - 1 - np.arange(len(history.items))
    weights = np.power(decay, age.astype(np.float64))
    keep = weights >= _FORGOTTEN
    return history.select(keep), weights[keep]


def last_events(sequences: Sequences) -> Sequences:
    """The newest event of every sequence; rows of length 1, or 0 if there is none."""
    keep = np.zeros(len(sequences.items), dtype=np.bool_)
    keep[sequences.offsets[1:][sequences.lengths > 0] - 1] = True
    return sequences.select(keep)


def sum_over_history(
    table: sp.csr_array | NDArray[np.floating],
    history: Sequences,
    candidates: NDArray[np.int32],
    weights: NDArray[np.floating] | None = None,
) -> NDArray[np.float32]:
    """Sum ``weight * table[h, candidate]`` over the history items h of every request.

    Works in blocks of bounded size, so memory stays at tens of MB for any number of requests and
    for full ranking. The sum of a row does not depend on the other rows.

    Args:
        table: item-item values, shape ``(n_items, n_items)``, dense or sparse (sorted indices).
        history: n rows.
        candidates: int32, shape ``(n, c)``.
        weights: one per history event, or None for 1.

    Returns:
        float32, shape ``(n, c)``; 0 if the history is empty.
    """
    values = np.zeros(candidates.shape, dtype=np.float32)
    weight = np.ones(len(history.items)) if weights is None else weights
    weight = weight.astype(np.float32)
    c = candidates.shape[1]
    if sp.issparse(table) and c * _LOOKUP_COST > table.shape[1]:
        _by_product(values, table, interactions(history, table.shape[0], weight), candidates)
        return values
    start, bound = 0, max(1, _BLOCK // max(1, c))
    while start < len(history):
        # Whole rows per block: it ends before its events x candidates exceed the bound.
        limit = history.offsets[start] + bound
        stop = max(start + 1, int(np.searchsorted(history.offsets, limit, side="right")) - 1)
        stop = min(stop, len(history))
        offsets = history.offsets[start : stop + 1]
        lengths = np.diff(offsets)
        filled = np.flatnonzero(lengths > 0)
        if len(filled):
            events = slice(int(offsets[0]), int(offsets[-1]))
            wanted = candidates[np.repeat(np.arange(start, stop), lengths)]
            found = _lookup(table, history.items[events], wanted) * weight[events, None]
            # reduceat sums from one start to the next: an empty row would take its neighbour's.
            values[start + filled] = np.add.reduceat(found, offsets[filled] - offsets[0], axis=0)
        start = stop
    return values


def _lookup(
    table: sp.csr_array | NDArray[np.floating], items: NDArray[np.int32], wanted: NDArray[np.int32]
) -> NDArray[np.floating]:
    rows = np.repeat(items, wanted.shape[1])
    found: Any = table[rows, wanted.ravel()]
    # Depending on its version SciPy returns a sparse or a dense vector.
    dense: NDArray[np.floating] = found.toarray() if sp.issparse(found) else np.asarray(found)
    return dense.reshape(wanted.shape)


def _by_product(
    values: NDArray[np.float32],
    table: sp.csr_array,
    rows: sp.csr_array,
    candidates: NDArray[np.int32],
) -> None:
    step = max(1, _BLOCK // max(1, table.shape[1]))
    for start in range(0, len(values), step):
        block = slice(start, start + step)
        dense = (rows[block] @ table).toarray()
        values[block] = np.take_along_axis(dense, candidates[block], axis=1)
