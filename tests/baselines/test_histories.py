"""Vectors of histories that are encoded once."""

from __future__ import annotations

import numpy as np
from tiny_catalogue import sequences

from bench.baselines.text.histories import HistoryVectors
from bench.data.domain import Sequences


class TestHistoryVectors:
    def encode(self, rows: Sequences) -> np.ndarray:
        self.asked.append(len(rows))
        return np.stack([[len(row), row.sum()] for row in map(rows.__getitem__, range(len(rows)))])

    def test_a_history_is_encoded_once(self) -> None:
        self.asked: list[int] = []
        known = HistoryVectors()
        first = known.get(sequences([1, 2], [3], [1, 2], []), "cpu", self.encode)
        assert first.tolist() == [[2, 3], [1, 3], [2, 3], [0, 0]]
        again = known.get(sequences([], [2, 1], [3]), "cpu", self.encode)
        assert again.tolist() == [[0, 0], [2, 3], [1, 3]]
        assert self.asked == [3, 1]

    def test_another_situation_is_another_vector(self) -> None:
        self.asked = []
        known = HistoryVectors()
        for situation in ("cpu float32", "cpu bfloat16", "cpu float32"):
            known.get(sequences([1]), situation, self.encode)
        assert self.asked == [1, 1]

    def test_it_forgets_beyond_its_size(self) -> None:
        self.asked = []
        known = HistoryVectors(most=1)
        for _ in range(3):
            known.get(sequences([1], [2]), "", self.encode)
        assert self.asked == [2, 2, 2]
