"""Popularity: how often an item was trained on."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from bench.baselines.reference.arrays import item_counts
from bench.methods import Context, Family, Method, Requests, Scores, TrainView

__all__ = ["Popularity"]


class Popularity(Method):
    """Training count of the item; the floor every personalised method must clear.

    Counts come from the training sequences alone. Counting all interactions, held-out ones included,
    would leak the answers and lifts this row by about 0.03 NDCG@1 on Amazon data.
    """

    name: ClassVar[str] = "popularity"
    version: ClassVar[str] = "1"
    family: ClassVar[Family] = Family.REFERENCE
    expected_failures: ClassVar[dict[str, str]] = {
        "learns-planted-pattern": "not personalised, and the planted items are equally popular"
    }

    counts: NDArray[np.int64]

    def fit(self, view: TrainView, context: Context) -> None:
        self.counts = item_counts(view.target)

    def score(self, requests: Requests, context: Context) -> Scores:
        return Scores(self.counts.astype(np.float32)[requests.candidates])

    def save(self, folder: Path) -> None:
        np.save(folder / "counts.npy", self.counts)

    def load(self, folder: Path) -> None:
        self.counts = np.load(folder / "counts.npy")
