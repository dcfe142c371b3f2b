"""Which tokens are hidden for masked language modelling: whole words."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["IGNORED", "mask_words"]

IGNORED = -100
"""Label of tokens that are not to be predicted."""

_MASKED, _RANDOM = 0.8, 0.1


def mask_words(
    ids: NDArray[np.int64],
    starts: NDArray[np.bool_],
    real: NDArray[np.bool_],
    *,
    share: float,
    mask_id: int,
    vocabulary: int,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Choose whole words and hide them: 80 % become the mask, 10 % a random token, 10 % stay.

    Per row, words are taken in random order while they fit into ``share`` of its tokens (rounded, at
    least 1), as in BERT's whole-word masking; the first word is taken even where it is longer.

    Args:
        ids: shape ``(b, l)``.
        starts: shape ``(b, l)``, whether a word begins here.
        real: shape ``(b, l)``, tokens that may be hidden; no special tokens, no padding. The first one
            of a row begins a word.
        share: share of a row's tokens to hide, in (0, 1).
        mask_id: id of the mask token.
        vocabulary: number of token ids, for random tokens.
        rng: local generator.

    Returns:
        the ids with hidden tokens; labels, int64, :data:`IGNORED` where nothing is to be predicted.
    """
    row, column = np.nonzero(real)
    if not len(row):
        return ids.copy(), np.full(ids.shape, IGNORED, dtype=np.int64)
    begins = starts[row, column]
    begins[np.flatnonzero(np.diff(row, prepend=-1))] = True
    word = np.cumsum(begins) - 1
    row_of_word, size = row[begins], np.bincount(word)
    order = np.lexsort((rng.random(len(size)), row_of_word))
    # Tokens taken up to and including each word, within its row.
    taken = np.cumsum(size[order])
    first = np.flatnonzero(np.diff(row_of_word[order], prepend=-1))
    before = np.zeros(len(ids), dtype=np.int64)
    before[row_of_word[order][first]] = taken[first] - size[order][first]
    quota = np.maximum(1, np.round(share * real.sum(axis=1))).astype(np.int64)
    chosen = np.zeros(len(size), dtype=np.bool_)
    chosen[order] = taken - before[row_of_word[order]] <= quota[row_of_word[order]]
    chosen[order[first]] = True
    hidden = np.zeros(ids.shape, dtype=np.bool_)
    hidden[row, column] = chosen[word]
    labels = np.where(hidden, ids, IGNORED)
    draw = rng.random(ids.shape)
    masked = np.where(hidden & (draw < _MASKED), mask_id, ids)
    other = hidden & (draw >= _MASKED) & (draw < _MASKED + _RANDOM)
    masked[other] = rng.integers(0, vocabulary, size=int(other.sum()))
    return masked, labels
