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

    Per row, words are looked at in random order, and each one that still fits into ``share`` of the
    row's tokens (rounded, at least 1) is taken; one that does not is skipped, so that a word of more
    tokens than the share is never hidden. This is how the authors' collator and BERT's do it.

    Args:
        ids: shape ``(b, l)``.
        starts: shape ``(b, l)``, whether a word begins here.
        real: shape ``(b, l)``, tokens that may be hidden; no special tokens, no padding. The first one
            of a row begins a word.
        share: share of a row's tokens to hide, in (0, 1); its first, special token counts among them.
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
    ordered = row_of_word[order]
    first = np.flatnonzero(np.diff(ordered, prepend=-1))
    n_words = np.diff(first, append=len(order))
    place = np.arange(len(order)) - np.repeat(first, n_words)
    left = np.maximum(1, np.round(share * (1 + real.sum(axis=1)))).astype(np.int64)
    chosen = np.zeros(len(size), dtype=np.bool_)
    # The words of one place in the order of their rows, one place after the other.
    by_place = np.argsort(place, kind="stable")
    for words in np.split(by_place, np.cumsum(np.bincount(place))[:-1]):
        fits = words[size[order[words]] <= left[ordered[words]]]
        left[ordered[fits]] -= size[order[fits]]
        chosen[order[fits]] = True
    hidden = np.zeros(ids.shape, dtype=np.bool_)
    hidden[row, column] = chosen[word]
    labels = np.where(hidden, ids, IGNORED)
    draw = rng.random(ids.shape)
    masked = np.where(hidden & (draw < _MASKED), mask_id, ids)
    other = hidden & (draw >= _MASKED) & (draw < _MASKED + _RANDOM)
    masked[other] = rng.integers(0, vocabulary, size=int(other.sum()))
    return masked, labels
