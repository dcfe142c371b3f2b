"""UniSRec's second view of a sequence: items left out, or words of their titles left out.

Source: the paper's section 2.3.2, and the probabilities of the released ``data/transform.py``, which
does otherwise with items (:func:`drop_items`).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["drop_items", "drop_words", "pick_dropped_texts"]


def drop_items(
    items: NDArray[np.int64],
    lengths: NDArray[np.int64],
    *,
    probability: float,
    rng: np.random.Generator,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Leave items out of every row, at random; the first item always stays.

    As released, the items drawn are scattered to the place of the item that was kept before them and
    overwrite it: of each run the last item stays, so that the newest always does and the first may not.

    Args:
        items: shape ``(b, l)``, right-padded with 0.
        lengths: shape ``(b,)``, real items per row, >= 1.
        probability: of leaving an item out.
        rng: local generator.

    Returns:
        the shortened rows, shape ``(b, l')`` with l' = the longest of them, order kept, right-padded
        with 0; and their lengths, >= 1.
    """
    real = np.arange(items.shape[1]) < lengths[:, None]
    kept = real & (rng.random(items.shape) >= probability)
    kept[:, 0] = True
    left = kept.sum(axis=1)
    shortened = np.zeros((len(items), int(left.max())), dtype=np.int64)
    shortened[np.arange(shortened.shape[1]) < left[:, None]] = items[kept]
    return shortened, left


def pick_dropped_texts(
    items: NDArray[np.int64], n_ids: int, *, probability: float, rng: np.random.Generator
) -> NDArray[np.int64]:
    """Point items, at random, to the second copy of the text table, that of the shortened titles.

    Args:
        items: model ids, shape ``(b, l)``, 0 = padding.
        n_ids: rows of one copy, padding included.
        probability: of an item to be read by its shortened title.
        rng: local generator.

    Returns:
        Ids below ``2 * n_ids``; padding stays 0.
    """
    shortened = (items > 0) & (rng.random(items.shape) < probability)
    return np.where(shortened, items + n_ids, items)


def drop_words(texts: Sequence[str], *, probability: float, rng: np.random.Generator) -> list[str]:
    """Texts with words left out at random; a text that would lose all keeps its first word.

    Args:
        texts: any.
        probability: of leaving a word out.
        rng: local generator.
    """
    words = [text.split() for text in texts]
    draws = rng.random(sum(map(len, words))) >= probability
    shortened, start = [], 0
    for row in words:
        keep = draws[start : start + len(row)]
        start += len(row)
        shortened.append(
            " ".join(w for w, k in zip(row, keep, strict=True) if k) or " ".join(row[:1])
        )
    return shortened
