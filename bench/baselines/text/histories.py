"""Vectors of histories, kept while a fitted model scores several candidate sets of the same users."""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences

__all__ = ["HistoryVectors"]


class HistoryVectors:
    """Remembers what a fixed encoder made of a history.

    A run scores other draws of the candidates, and the full ranking, of the same users; encoding their
    histories is nearly all of the work.

    Args:
        most: vectors that are kept; beyond, all are forgotten and the next ones kept.
    """

    def __init__(self, most: int = 100_000) -> None:
        self._most = most
        self._known: dict[bytes, NDArray[np.float32]] = {}

    def get(
        self,
        histories: Sequences,
        situation: str,
        encode: Callable[[Sequences], NDArray[np.float32]],
    ) -> NDArray[np.float32]:
        """Vectors of histories, float32, shape ``(len(histories), d)``; equal ones are encoded once.

        Args:
            histories: items of each row; rows may be empty.
            situation: whatever else decides a vector, for example device and number format.
            encode: makes vectors of the rows that it is given; called once at most.
        """
        if len(self._known) > self._most:
            self._known.clear()
        keys = [_key(situation, histories[row]) for row in range(len(histories))]
        fresh = {key: row for row, key in enumerate(keys) if key not in self._known}
        if fresh:
            rows = np.array(sorted(fresh.values()), dtype=np.int64)
            vectors = encode(histories.take(rows))
            for row, vector in zip(rows.tolist(), vectors, strict=True):
                self._known[keys[row]] = vector.copy()
        if not keys:
            return encode(histories)
        return np.stack([self._known[key] for key in keys])


def _key(situation: str, history: NDArray[np.int32]) -> bytes:
    digest = hashlib.blake2b(situation.encode(), digest_size=16)
    digest.update(history.tobytes())
    return digest.digest()
