"""Training rows and batches of sequential models, in NumPy.

A *row* is a window ``[start, end)`` of one user's training sequence. Three kinds of epochs exist:

* ``prefixes``: every prefix of every sequence predicts its next item (RecBole's data augmentation);
* ``random-prefix``: one prefix per user, drawn anew in each epoch;
* ``all-positions``: every position of a window predicts the next item in one pass; the same targets
  as ``prefixes`` at a fraction of the cost, for models whose state at a position depends on earlier
  items only.

Little of a batch should be padding. Batches can be *length-bucketed*: rows are shuffled, sorted by
length inside buckets of 20 batches, and each batch is trimmed to its longest row. Such batches hold
rows of one length, which slows learning a little per epoch; if a batch has to be a plain random
sample, as RecBole's, it is read in a few groups of like length instead (:func:`length_groups`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences

__all__ = [
    "PADDING",
    "Batch",
    "RowKind",
    "Rows",
    "cloze_rows",
    "epoch_rows",
    "length_groups",
    "make_batch",
    "pad_histories",
    "plan_batches",
    "rows_before",
    "window_rows",
]

RowKind = Literal["prefixes", "random-prefix", "all-positions"]

# Model ids are dense item indices + 1, so that 0 can stand for padding.
PADDING = 0
_BUCKET_BATCHES = 20


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Windows of training sequences.

    Attributes:
        sequence: int64, shape ``(n,)``, row of the training ``Sequences``.
        start: int64, shape ``(n,)``, first event of the window, position in ``Sequences.items``.
        end: int64, shape ``(n,)``, one past the last event of the window.
        n_targets: int64, shape ``(n,)``, how many items the row is trained to predict.
    """

    sequence: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    n_targets: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.start)

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Number of input items per row, int64, shape ``(n,)``."""
        return self.end - self.start

    def take(self, chosen: NDArray[np.integer]) -> Rows:
        """Rows ``chosen``, in that order."""
        return Rows(
            self.sequence[chosen], self.start[chosen], self.end[chosen], self.n_targets[chosen]
        )


def rows_before(
    sequences: Sequences,
    row: NDArray[np.int64],
    target: NDArray[np.int64],
    *,
    max_length: int,
) -> Rows:
    """One row per target: the newest items before it.

    Args:
        sequences: training sequences.
        row: shape ``(n,)``, sequence of each target.
        target: shape ``(n,)``, place of the target in its sequence, 0-based; at 0 the row is empty.
        max_length: most items before a target.
    """
    begin = sequences.offsets[:-1][row]
    end = begin + target
    return Rows(row, np.maximum(begin, end - max_length), end, np.ones(len(row), dtype=np.int64))


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One training step's data; model ids (item index + 1), right-padded with 0.

    Attributes:
        items: int64, shape ``(b, l)``, inputs, l = the longest row of the batch.
        lengths: int64, shape ``(b,)``, number of real items per row.
        targets: int64, shape ``(b,)``, the item after the window (``prefixes``, ``random-prefix``);
            or shape ``(b, l)``, the next item of every position (``all-positions``), 0 = none.
        sequence: int64, shape ``(b,)``, row of the training sequences (one row per user).
    """

    items: NDArray[np.int64]
    lengths: NDArray[np.int64]
    targets: NDArray[np.int64]
    sequence: NDArray[np.int64]


def _prefix_ends(sequences: Sequences) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Row and end position (exclusive, in ``items``) of every proper prefix of length >= 1."""
    row = sequences.rows
    event = np.arange(len(sequences.items), dtype=np.int64)
    # The item at `event` is the target of the prefix that ends just before it.
    has_prefix = event > sequences.offsets[:-1][row]
    return row[has_prefix], event[has_prefix]


def epoch_rows(
    sequences: Sequences, kind: RowKind, *, max_length: int, rng: np.random.Generator
) -> Rows:
    """Rows of one epoch for next-item prediction.

    Args:
        sequences: training sequences.
        kind: which rows (module docstring).
        max_length: longest input, >= 1; older items are cut (``all-positions``: further windows).
        rng: draws the prefixes of ``random-prefix``; unused otherwise.
    """
    if kind == "all-positions":
        return window_rows(sequences, max_length=max_length, spare=1)
    if kind == "prefixes":
        row, end = _prefix_ends(sequences)
    else:
        row = np.flatnonzero(sequences.lengths >= 2)
        offset = rng.integers(1, sequences.lengths[row])
        end = sequences.offsets[row] + offset
    start = np.maximum(sequences.offsets[row], end - max_length)
    return Rows(row, start, end, np.ones(len(row), dtype=np.int64))


def window_rows(sequences: Sequences, *, max_length: int, spare: int) -> Rows:
    """Cut every sequence, from its end backwards, into windows of at most ``max_length`` items.

    Args:
        sequences: training sequences.
        max_length: longest window.
        spare: how many items at the end of a sequence stay outside (1 when the last item is only a
            target, 0 when every item is an input).

    Returns:
        Windows that cover every other item exactly once; ``n_targets`` equals the length.
    """
    usable = np.maximum(sequences.lengths - spare, 0)
    n_windows = -(-usable // max_length)
    row = np.repeat(np.arange(len(sequences), dtype=np.int64), n_windows)
    first = np.repeat(np.cumsum(n_windows) - n_windows, n_windows)
    back = np.arange(len(row), dtype=np.int64) - first
    end = sequences.offsets[:-1][row] + usable[row] - back * max_length
    start = np.maximum(sequences.offsets[:-1][row], end - max_length)
    return Rows(row, start, end, end - start)


def cloze_rows(sequences: Sequences, *, prefixes: bool, max_length: int) -> Rows:
    """Rows for fill-in training; every item of a row is an input and may be hidden.

    Args:
        sequences: training sequences.
        prefixes: every prefix of two items or more, the full sequence included; otherwise one row
            per user (further windows if a sequence is longer than ``max_length``).
        max_length: longest row.

    Returns:
        Rows that count as one target each, so that a batch size counts rows.
    """
    if not prefixes:
        rows = window_rows(sequences, max_length=max_length, spare=0)
        return Rows(rows.sequence, rows.start, rows.end, np.ones(len(rows), dtype=np.int64))
    row, last = _prefix_ends(sequences)
    start = np.maximum(sequences.offsets[row], last + 1 - max_length)
    return Rows(row, start, last + 1, np.ones(len(row), dtype=np.int64))


def plan_batches(
    rows: Rows, *, batch_size: int, rng: np.random.Generator, bucketed: bool = True
) -> list[NDArray[np.int64]]:
    """Shuffle rows and cut them into batches of about ``batch_size`` targets.

    Args:
        rows: the epoch's rows.
        batch_size: training targets per batch; a single row with more makes a batch of its own.
        rng: local generator of the epoch.
        bucketed: sort by length inside buckets of 20 batches.

    Returns:
        Row numbers of each batch; every row occurs exactly once.
    """
    order = rng.permutation(len(rows))
    if len(order) == 0:
        return []
    bucket = (np.cumsum(rows.n_targets[order]) - 1) // (batch_size * _BUCKET_BATCHES)
    if bucketed:
        order = order[np.lexsort((rows.lengths[order], bucket))]
    cumulative = np.cumsum(rows.n_targets[order])
    starts = np.searchsorted(bucket, bucket)  # first place of each bucket
    before = np.where(starts > 0, cumulative[starts - 1], 0)
    batch = (cumulative - before - 1) // batch_size
    cut = np.flatnonzero((np.diff(bucket) != 0) | (np.diff(batch) != 0)) + 1
    batches = np.split(order, cut)
    return [batches[i] for i in rng.permutation(len(batches))]


def make_batch(
    sequences: Sequences, rows: Rows, chosen: NDArray[np.int64], *, kind: RowKind, width: int = 0
) -> Batch:
    """Gather a batch as padded arrays.

    Args:
        sequences: training sequences the rows refer to.
        rows: the epoch's rows.
        chosen: row numbers of the batch.
        kind: decides the shape of the targets.
        width: fixed number of columns; 0 trims to the longest row.
    """
    start, end = rows.start[chosen], rows.end[chosen]
    lengths = end - start
    columns = np.arange(width or int(lengths.max()))
    real = columns < lengths[:, None]
    index = np.where(real, start[:, None] + columns, 0)
    items = np.where(real, sequences.items[index].astype(np.int64) + 1, PADDING)
    if kind == "all-positions":
        following = np.minimum(index + 1, len(sequences.items) - 1)
        targets = np.where(real, sequences.items[following].astype(np.int64) + 1, PADDING)
    else:
        targets = sequences.items[end].astype(np.int64) + 1
    return Batch(items, lengths, targets, rows.sequence[chosen])


def length_groups(lengths: NDArray[np.int64], *, smallest: int = 16) -> list[NDArray[np.int64]]:
    """Split the rows of a batch into groups of like length, shortest first.

    Groups reach to 4, 8, 16, 32, ... items and hold at least ``smallest`` rows, but for the last. A
    model that reads each group cut to its own longest row computes the same batch with less padding.

    Args:
        lengths: int64, shape ``(b,)``, real items per row.
        smallest: fewest rows of a group that is not the last.

    Returns:
        Row numbers of each group; every row occurs once.
    """
    order = np.argsort(lengths, kind="stable")
    # Number of doublings beyond 4 items: rows of one class are within a factor of two.
    classes = np.ceil(np.log2(np.maximum(lengths[order], 4) / 4)).astype(np.int64)
    cuts, begin = [], 0
    for end in (np.flatnonzero(np.diff(classes)) + 1).tolist():
        if end - begin >= smallest:
            cuts.append(end)
            begin = end
    return np.split(order, cuts)


def pad_histories(
    history: Sequences, rows: NDArray[np.integer], *, max_length: int, width: int = 0
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Newest ``max_length`` items of some histories as model ids, right-padded with 0.

    Returns:
        items, int64, shape ``(len(rows), l)``; lengths, int64, shape ``(len(rows),)``. An empty
        history becomes one padding id with length 1, so that models can read a position.
    """
    end = history.offsets[1:][rows]
    start = np.maximum(history.offsets[:-1][rows], end - max_length)
    lengths = end - start
    columns = np.arange(width or max(1, int(lengths.max(initial=1))))
    real = columns < lengths[:, None]
    index = np.where(real, start[:, None] + columns, 0)
    source = history.items if len(history.items) else np.zeros(1, dtype=np.int32)
    items = np.where(real, source[index].astype(np.int64) + 1, PADDING)
    return items, np.maximum(lengths, 1)
