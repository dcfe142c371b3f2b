"""Drawing candidate sets: a keyed counter stream per user, in NumPy, block by block.

A user's negatives are the first ``n_negatives`` *accepted* values of the user's own stream. A value
is accepted unless its title group belongs to the user's history or to an earlier accepted value.
Acceptance looks back only, so 29 negatives are the first 29 of 99. Nothing depends on other users,
on their order or on the block size. ``docs/protocol.md`` states the algorithm with test vectors.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.errors import ProtocolError
from bench.mixing import GAMMA, UInt64Array, mix64, mix64_in_place
from bench.protocol.collisions import CollisionFilter

__all__ = [
    "BLOCK",
    "NESTED_SIZES",
    "Population",
    "draw_candidates",
    "draw_negatives",
    "eligible_groups",
    "insert_positives",
    "place_positives",
    "population",
    "position_of",
]

BLOCK = 8192
"""Users per block: long enough that calls cost little, short enough for the cache."""

NESTED_SIZES = (29, 99, 999)
"""Usual numbers of negatives, listed in errors when one does not fit."""

_POSITION_TAG = np.uint64(int.from_bytes(b"position", "big"))
_HALF = np.uint64(32)
_LOW = np.uint64(0xFFFFFFFF)
_LOW_HALF = 0 if sys.byteorder == "little" else 1
_MAX_DRAWS = 1 << 22
_CELLS = 1 << 20
_WORDS = 5
_PADDING = 40


@dataclass(frozen=True, slots=True, eq=False)
class Population:
    """What negatives are drawn from.

    Attributes:
        group: int32, shape ``(n_items,)``, title group of every item, ``0 <= group < n_groups``.
        n_groups: number of title groups.
        total: size of the range that a draw is uniform on: items, or the sum of weights; < 2**32.
        bounds: int64, shape ``(n_items,)``, cumulative weights; None when all items weigh the same.
        drawable: bool, shape ``(n_groups,)``, groups with a positive weight.
    """

    group: NDArray[np.int32]
    n_groups: int
    total: int
    bounds: NDArray[np.int64] | None
    drawable: NDArray[np.bool_]

    @property
    def n_items(self) -> int:
        return len(self.group)

    def groups_of(self, items: NDArray[np.integer]) -> NDArray[np.int32]:
        """Title groups of items, int32, the shape of ``items``."""
        groups: NDArray[np.int32] = self.group[items]
        return groups


def population(
    group: NDArray[np.int32], weights: NDArray[np.int64] | None = None, *, domain: str = "domain"
) -> Population:
    """Build the population of one domain.

    Args:
        group: int32, shape ``(n_items,)``, see :func:`bench.protocol.titles.title_groups`.
        weights: int64, shape ``(n_items,)``, >= 0 (popularity), or None for uniform draws.
        domain: for messages.

    Raises:
        ProtocolError: no item has a positive weight, or the weights sum to 2**32 or more.
    """
    n_groups = int(group.max()) + 1 if len(group) else 0
    if weights is None:
        total, bounds = len(group), None
        drawable = np.ones(n_groups, dtype=np.bool_)
    else:
        bounds = np.cumsum(weights, dtype=np.int64)
        total = int(bounds[-1]) if len(bounds) else 0
        drawable = np.zeros(n_groups, dtype=np.bool_)
        drawable[group[weights > 0]] = True
    if not 0 < total < 1 << 32:
        raise ProtocolError(
            f"{domain}: negatives are drawn by weights that sum to {total}; expected a sum from 1 to "
            f"{(1 << 32) - 1}. Use `--negatives uniform`."
        )
    return Population(
        np.ascontiguousarray(group, dtype=np.int32), n_groups, total, bounds, drawable
    )


def place_positives(
    negatives: NDArray[np.int32], positives: NDArray[np.int32], keys: UInt64Array
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Put every positive into a keyed column; the negative that stood there goes to the last one.

    Args:
        negatives: int32, shape ``(n, m)``.
        positives: int32, shape ``(n,)``.
        keys: uint64, shape ``(n,)``, the users' stream keys.

    Returns:
        Candidates, int32, shape ``(n, m + 1)``, and the column of the positive, int32, shape ``(n,)``:
        ``mix64(key ^ "position") mod (m + 1)``, thus uniform and independent of the items.
    """
    n, m = negatives.shape
    candidates = np.empty((n, m + 1), dtype=np.int32)
    candidates[:, :m] = negatives
    position = position_of(keys, m)
    insert_positives(candidates, positives, position)
    return candidates, position


def position_of(keys: UInt64Array, n_negatives: int) -> NDArray[np.int32]:
    """Column of the positive among ``n_negatives + 1`` candidates, int32, shape ``(n,)``."""
    return (mix64(keys ^ _POSITION_TAG) % np.uint64(n_negatives + 1)).astype(np.int32)


def insert_positives(
    candidates: NDArray[np.int32], positives: NDArray[np.int32], position: NDArray[np.int32]
) -> None:
    """Move the entry at ``position`` to the last column and put the positive there, in place.

    ``candidates`` is contiguous; its last column need not hold anything yet.
    """
    width = candidates.shape[1]
    cells = candidates.reshape(-1)
    at = np.arange(len(candidates)) * width
    at += position
    cells[width - 1 :: width] = cells[at]
    cells[at] = positives


def draw_negatives(
    pop: Population,
    keys: UInt64Array,
    history: Sequences,
    n_negatives: int,
    *,
    block: int = BLOCK,
) -> NDArray[np.int32]:
    """Draw the negatives of many users.

    Args:
        pop: the population.
        keys: uint64, shape ``(n,)``, stream keys, see :func:`bench.protocol.keys.stream_keys`.
        history: n rows of *title groups* (not items): every group a user's negatives must avoid,
            held-out items included; duplicates allowed.
        n_negatives: negatives per user, >= 1.
        block: users per block; changes speed and memory only.

    Returns:
        int32 item indices in drawing order, shape ``(n, n_negatives)``.

    Raises:
        ProtocolError: a user has fewer eligible groups than negatives; the row is named. Check with
            :func:`eligible_groups` first to name the user.
    """
    negatives = np.empty((len(keys), n_negatives), dtype=np.int32)
    _draw_into(negatives, pop, keys, history, block)
    return negatives


def draw_candidates(
    pop: Population,
    keys: UInt64Array,
    history: Sequences,
    positives: NDArray[np.int32],
    n_negatives: int,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """:func:`draw_negatives` and :func:`place_positives` in one, without a copy of the negatives.

    Negatives drawn by weights are put into a keyed order first: without replacement heavy items
    tend to come early, so the drawing order would say something about which candidate is the
    positive.
    """
    candidates = np.empty((len(keys), n_negatives + 1), dtype=np.int32)
    negatives = candidates[:, :n_negatives]
    _draw_into(negatives, pop, keys, history, BLOCK)
    if pop.bounds is not None:
        shuffled = mix64(keys[:, None] + negatives.astype(np.uint64) * np.uint64(GAMMA))
        negatives[...] = np.take_along_axis(negatives, shuffled.argsort(axis=1), axis=1)
    position = position_of(keys, n_negatives)
    insert_positives(candidates, positives, position)
    return candidates, position


def _draw_into(
    out: NDArray[np.int32],
    pop: Population,
    keys: UInt64Array,
    history: Sequences,
    block: int,
) -> None:
    """Fill ``out``, int32, shape ``(n, n_negatives)``, any strides, block by block."""
    workspace = _Workspace(pop, out.shape[1], min(block, len(keys)))
    for start in range(0, len(keys), block):
        stop = min(start + block, len(keys))
        offsets = history.offsets[start : stop + 1]
        part = Sequences(offsets - offsets[0], history.items[offsets[0] : offsets[-1]])
        workspace.draw(keys[start:stop], part, out[start:stop])


def eligible_groups(pop: Population, history: Sequences) -> NDArray[np.int64]:
    """How many title groups each user's negatives can come from, int64, shape ``(n,)``."""
    pairs = np.unique(history.rows * pop.n_groups + history.items)
    rows, groups = np.divmod(pairs, max(pop.n_groups, 1))
    taken = np.bincount(rows[pop.drawable[groups]], minlength=len(history))
    return int(pop.drawable.sum()) - taken.astype(np.int64)


class _Workspace:
    """Buffers of one block, laid out ``(draws, users)`` so that every step is a long vector loop.

    Most users need no more than their first ``n_negatives`` draws. Those of a block are computed at
    once; users with a rejected draw, a repeated title or a history title are found by a filter that
    may only err towards "redo", and are redone by the rule itself.
    """

    def __init__(self, pop: Population, n_negatives: int, block: int) -> None:
        self._pop = pop
        self._n = n_negatives
        self._words = np.empty((_WORDS, block), dtype=np.uint64)
        self._products = np.empty((2 * _WORDS, block), dtype=np.uint64)
        # Its columns are read: rows a power of two apart would fall into the same cache sets. The
        # other buffers have no gaps, and a whole block is one long loop.
        self._values = np.empty((n_negatives, block + _PADDING), dtype=np.int32)
        self._rows = np.empty((block, n_negatives), dtype=np.int32)
        self._filter = CollisionFilter(pop.group, n_negatives, block)

    def draw(self, keys: UInt64Array, history: Sequences, out: NDArray[np.int32]) -> None:
        """Fill ``out``, int32, shape ``(len(keys), n_negatives)``, for one block."""
        n = len(keys)
        # Longest history first: the users that still have an event at slot s are a prefix.
        order = np.argsort(-np.minimum(history.lengths, 32767).astype(np.int16), kind="stable")
        sorted_keys = keys[order]
        rejected = np.zeros(n, dtype=np.bool_)
        # A few words at a time: the 64-bit intermediate results then stay in the cache.
        for first in range(0, self._n, 2 * _WORDS):
            n_draws = min(2 * _WORDS, self._n - first)
            values, invalid = _values(
                self._pop,
                sorted_keys,
                self._words[: (n_draws + 1) // 2, :n],
                self._products[: n_draws + 1, :n],
                n_draws,
                first // 2,
            )
            self._values[first : first + n_draws, :n] = values
            self._filter.load(first, values)
            if invalid is not None:
                rejected |= invalid.any(axis=0)
        redo = self._filter.collisions(history, order)
        redo |= rejected
        drawn = self._rows[:n]
        np.copyto(drawn, self._values[:, :n].T)
        out[order] = drawn
        rows = order[np.flatnonzero(redo)]
        if len(rows):
            _draw_exactly(self._pop, keys, history, rows, out)


def _values(
    pop: Population,
    keys: UInt64Array,
    words: UInt64Array,
    products: UInt64Array,
    n_draws: int,
    first_word: int = 0,
) -> tuple[NDArray[np.int64], NDArray[np.bool_] | None]:
    """Consecutive draws of every stream.

    Args:
        pop: the population.
        keys: uint64, shape ``(n,)``.
        words: uint64 buffer, shape ``((n_draws + 1) // 2, n)``.
        products: uint64 buffer, shape ``(n_draws or more, n)``, last axis contiguous.
        n_draws: number of draws.
        first_word: words to skip.

    Returns:
        Items, int64, shape ``(n_draws, n)``, in the memory of ``products`` if draws are uniform,
        and which draws are invalid (Lemire's rejection), bool of the same shape, or None when all are
        valid.

    Two 32-bit numbers per word, the upper half first; number x gives ``x * total >> 32`` and is
    rejected when ``x * total mod 2**32 < 2**32 mod total``, which makes it exactly uniform
    (Lemire, "Fast random integer generation in an interval", ACM TOMACS 29(1), 2019).
    """
    n_words = len(words)
    counters = np.arange(first_word + 1, first_word + n_words + 1, dtype=np.uint64)
    counters *= np.uint64(GAMMA)
    np.add(counters[:, None], keys, out=words)
    mix64_in_place(words, products[:n_words])
    products = products[:n_draws]
    np.right_shift(words, _HALF, out=products[0::2])
    np.bitwise_and(words[: n_draws // 2], _LOW, out=products[1::2])
    np.multiply(products, np.uint64(pop.total), out=products)
    threshold = (1 << 32) % pop.total
    invalid = None
    if threshold:
        remainders = products.view(np.uint32)[:, _LOW_HALF::2]
        if remainders.min(initial=threshold) < threshold:
            invalid = remainders < np.uint32(threshold)
    np.right_shift(products, _HALF, out=products)
    values = products.view(np.int64)
    if pop.bounds is not None:
        values = np.searchsorted(pop.bounds, values, side="right")
    return values, invalid


def _draw_exactly(
    pop: Population,
    keys: UInt64Array,
    history: Sequences,
    rows: NDArray[np.intp],
    out: NDArray[np.int32],
) -> None:
    """Apply the acceptance rule to the given rows, with as many draws as they need."""
    n_draws = out.shape[1] + 8
    while len(rows):
        if n_draws > _MAX_DRAWS:
            raise ProtocolError(
                f"row {int(rows[0])}: fewer than {out.shape[1]} eligible negatives in "
                f"{_MAX_DRAWS} draws. Ask for fewer negatives or use `--negatives full`."
            )
        size = max(1, _CELLS // n_draws)
        unfinished = []
        for start in range(0, len(rows), size):
            part = rows[start : start + size]
            done = _accept(pop, keys[part], history.take(part), n_draws, part, out)
            unfinished.append(part[~done])
        rows = np.concatenate(unfinished)
        n_draws *= 2


def _accept(
    pop: Population,
    keys: UInt64Array,
    history: Sequences,
    n_draws: int,
    rows: NDArray[np.intp],
    out: NDArray[np.int32],
) -> NDArray[np.bool_]:
    """Judge the first ``n_draws`` draws; write the rows for which they suffice, and say which.

    All (row, group, step) triples are sorted as one integer each, history events at step 0: a draw
    whose predecessor has the same row and group repeats an earlier draw or a history title.
    """
    n, n_negatives = len(keys), out.shape[1]
    words = np.empty(((n_draws + 1) // 2, n), dtype=np.uint64)
    products = np.empty((n_draws, n), dtype=np.uint64)
    drawn, invalid = _values(pop, keys, words, products, n_draws)
    values = np.ascontiguousarray(drawn.T)
    groups = pop.group[values].astype(np.int64)
    steps = np.arange(1, n_draws + 1)
    refused = np.zeros((n, n_draws), dtype=np.bool_)
    if invalid is not None:
        refused |= invalid.T
        # An invalid draw stands for no title: a group of its own repeats nothing.
        groups = np.where(invalid.T, pop.n_groups + steps, groups)
    step_bits = int(n_draws).bit_length()
    span = pop.n_groups + n_draws + 1
    lines = np.arange(n)[:, None] * span
    triples = np.concatenate(
        [
            (((lines + groups) << step_bits) | steps).ravel(),
            (history.rows * span + history.items) << step_bits,
        ]
    )
    triples.sort()
    titles = triples >> step_bits
    repeats = triples[1:][titles[1:] == titles[:-1]]
    step = repeats & ((1 << step_bits) - 1)
    of_draws = step > 0
    refused[(repeats[of_draws] >> step_bits) // span, step[of_draws] - 1] = True
    accepted = np.cumsum(~refused, axis=1)
    done: NDArray[np.bool_] = accepted[:, -1] >= n_negatives
    chosen = ~refused & (accepted <= n_negatives) & done[:, None]
    out[rows[done]] = values[chosen].reshape(-1, n_negatives)
    return done
