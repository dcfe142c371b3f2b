"""Chance: every candidate gets the same score."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from bench.methods import Context, Family, Method, Requests, Scores, TrainView

__all__ = ["Random"]


class Random(Method):
    """Chance level: one constant score, which the evaluator averages over all orders.

    Ties are scored by their expectation, so this row has no sampling noise and equals the closed
    form (NDCG@5 0.0983 for 30 candidates). A table whose methods come near it measures nothing.
    """

    name: ClassVar[str] = "random"
    version: ClassVar[str] = "1"
    family: ClassVar[Family] = Family.REFERENCE
    known_below_popularity: ClassVar[dict[str, str]] = {"*": "chance level, by definition"}
    expected_failures: ClassVar[dict[str, str]] = {
        "learns-planted-pattern": "a constant score learns nothing, by definition"
    }

    def fit(self, view: TrainView, context: Context) -> None:
        """Nothing to learn."""

    def score(self, requests: Requests, context: Context) -> Scores:
        return Scores(np.zeros(requests.candidates.shape, dtype=np.float32))
