"""Items that a reader of titles cannot tell apart share a title group."""

from __future__ import annotations

import unicodedata

import numpy as np
from numpy.typing import NDArray

from bench.data.strings import StringColumn

__all__ = ["canonical_title", "title_groups"]


def canonical_title(title: str) -> str:
    """A title in the form in which two are compared: NFKC, one blank between words, case-folded.

    Case folding can undo NFKC, so NFKC is applied again after it (Unicode's NFKC_Casefold order).
    HTML entities are the data layer's business and are decoded before.
    """
    folded = unicodedata.normalize("NFKC", title).casefold()
    return " ".join(unicodedata.normalize("NFKC", folded).split())


def title_groups(titles: StringColumn) -> NDArray[np.int32]:
    """The title group of every item.

    Returns:
        int32, shape ``(n_items,)``: groups are numbered 0, 1, ... in the order of their first item,
        so that they are ``arange(n_items)`` when all titles differ.
    """
    numbers: dict[str, int] = {}
    return np.fromiter(
        (numbers.setdefault(canonical_title(t), len(numbers)) for t in titles.to_list()),
        dtype=np.int32,
        count=len(titles),
    )
