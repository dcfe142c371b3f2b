"""Titles of a domain as unit vectors, and their cosines over a history."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.baselines.text import Pooling, encode_texts, unit_rows
from bench.data.domain import Items, Sequences
from bench.methods import Context

__all__ = ["TitleVectors", "cosines_over_history", "encode_titles"]

# Candidate vectors, or cosines with all titles, that are held at once: 32 MB in float32.
_BLOCK = 8_000_000
# A cosine by itself costs about as much as this many within a product with all titles (measured with
# 384 dimensions on one thread: 0.25 microseconds against 8 nanoseconds).
_PAIR_COST = 30


@dataclass(frozen=True, slots=True, eq=False)
class TitleVectors:
    """What a domain's titles say, in the encoder's space.

    Attributes:
        unit: float32, shape ``(n_titles, d)``, one row of norm 1 for every distinct title.
        of_item: int32, shape ``(n_items,)``, row of ``unit`` for every item.
    """

    unit: NDArray[np.float32]
    of_item: NDArray[np.int32]

    def save(self, folder: Path) -> None:
        """Write ``titles-unit.npy`` and ``titles-of-item.npy``."""
        np.save(folder / "titles-unit.npy", self.unit)
        np.save(folder / "titles-of-item.npy", self.of_item)

    @classmethod
    def load(cls, folder: Path) -> TitleVectors:
        """Read what :meth:`save` wrote."""
        unit, of_item = (
            np.load(folder / f"titles-{part}.npy", allow_pickle=False)
            for part in ("unit", "of-item")
        )
        return cls(unit, of_item)


def encode_titles(
    items: Items, *, encoder: str, pooling: Pooling | None, max_tokens: int, context: Context
) -> TitleVectors:
    """Encode the titles of a vocabulary and divide each vector by its norm.

    Raises:
        ConfigError, MissingExtraError, BenchError: as
            :func:`bench.baselines.text.encode_texts`.
    """
    titles = list(items.titles)
    vectors = encode_texts(
        titles,
        encoder=encoder,
        pooling=pooling,
        max_tokens=max_tokens,
        device=context.device,
        progress=context.progress,
    )
    row_of = {title: row for row, title in enumerate(dict.fromkeys(titles))}
    of_item = np.fromiter((row_of[title] for title in titles), np.int32, count=len(titles))
    _, first = np.unique(of_item, return_index=True)
    return TitleVectors(unit_rows(vectors[first]), of_item)


def cosines_over_history(
    titles: TitleVectors,
    history: Sequences,
    candidates: NDArray[np.int32],
    *,
    decay: float | None,
) -> NDArray[np.float32]:
    """Largest, or weighted sum of, cosines between a candidate's title and those of a history.

    Candidates of equal title get equal values, bit for bit. The value of a row does not depend on
    the other rows beyond rounding.

    Args:
        titles: vectors of the domain's titles.
        history: n rows, oldest first.
        candidates: int32, shape ``(n, c)``.
        decay: None for the maximum; else the sum of ``decay ** age * cosine``, the newest event
            having age 0, in (0, 1].

    Returns:
        float32, shape ``(n, c)``; 0 if the history is empty.
    """
    values = np.zeros(candidates.shape, dtype=np.float32)
    n_titles, width = titles.unit.shape
    c = candidates.shape[1]
    longest_first = np.argsort(-history.lengths, kind="stable")
    rows = longest_first[: np.count_nonzero(history.lengths)]
    by_product = c * _PAIR_COST > n_titles
    step = max(1, _BLOCK // (2 * n_titles if by_product else max(1, c) * width))
    for start in range(0, len(rows), step):
        block = rows[start : start + step]
        wanted = titles.of_item[candidates[block]]
        gathered = None if by_product else titles.unit[wanted]
        total = np.zeros(0, dtype=np.float32)
        lengths = history.lengths[block]
        for age in range(int(lengths[0])):
            # The block is sorted by length: rows that are this long come first.
            reaching = int(np.searchsorted(-lengths, -age, side="left"))
            events = history.offsets[block[:reaching] + 1] - 1 - age
            past = titles.unit[titles.of_item[history.items[events]]]
            if gathered is None:
                cosines = past @ titles.unit.T
            else:
                # Not a matrix product: its rounding could tell equal titles apart.
                cosines = np.einsum("rcd,rd->rc", gathered[:reaching], past)
            if age == 0:
                total = cosines
            elif decay is None:
                np.maximum(total[:reaching], cosines, out=total[:reaching])
            else:
                total[:reaching] += np.float32(decay**age) * cosines
        values[block] = np.take_along_axis(total, wanted, axis=1) if by_product else total
    return values
