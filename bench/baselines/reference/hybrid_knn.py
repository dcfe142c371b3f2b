"""Neighbours by title and by interactions, and popularity, in one sum."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field, field_validator

from bench.baselines.encoder_method import EncoderMethod
from bench.baselines.reference.arrays import item_counts, log_popularity
from bench.baselines.reference.item_knn import ItemKNN, ItemKNNConfig
from bench.baselines.reference.title_knn import TitleKNN, TitleKNNConfig
from bench.io import hash_arrays, read_json, write_json
from bench.methods import (
    Context,
    Family,
    MethodConfig,
    Requests,
    Scores,
    TrainView,
)

__all__ = ["HybridKNN", "HybridKNNConfig", "weight_grid"]

PARTS = ("title-knn", "item-knn", "log popularity")
"""What is summed, in the order of the weights."""

_ALONE = dict(zip(PARTS, ("title-knn", "item-knn", "popularity"), strict=True))
"""The method that each part is when it is alone."""

# Spread is measured on so many validation requests, which hold 30,000 candidates.
_SPREAD_ROWS = 1000
_SELECTED_BY = 5


class HybridKNNConfig(MethodConfig):
    """Options of :class:`HybridKNN`."""

    weights: tuple[float, float, float] | None = Field(
        default=None,
        description="of title-knn, item-knn and log popularity; null: chosen on validation requests",
    )
    steps: int = Field(
        default=10, ge=1, le=50, description="the weights that are tried are multiples of 1 / steps"
    )
    validation_users: int = Field(
        default=2000, ge=1, description="size of the nested user subset behind the choice"
    )
    title: TitleKNNConfig = TitleKNNConfig()
    item_knn: ItemKNNConfig = ItemKNNConfig()

    @field_validator("weights")
    @classmethod
    def _some_weight(
        cls, weights: tuple[float, float, float] | None
    ) -> tuple[float, float, float] | None:
        if weights is not None and (min(weights) < 0 or not 0 < sum(weights) < float("inf")):
            raise ValueError("three weights of at least 0, not all 0")
        return weights


class HybridKNN(EncoderMethod):
    """Weighted sum of title-knn, item-knn and log popularity, weighted by validation.

    Each part is divided by its standard deviation over the candidates of the first 1,000 validation
    requests (their labels are not used), a constant of the domain, so that a candidate's score
    depends on no other candidate::

        score(j) = w_title * title(j) / s_title + w_knn * knn(j) / s_knn + w_pop * pop(j) / s_pop

    All weights that are multiples of ``1 / steps`` and sum to 1 are tried (66 for tenths), the
    largest validation NDCG@5 wins, and of equal ones the first, in ascending order of the title's
    weight and then of item-knn's.
    """

    name: ClassVar[str] = "hybrid-knn"
    version: ClassVar[str] = "1"
    family: ClassVar[Family] = Family.REFERENCE
    Config: ClassVar[type[BaseModel]] = HybridKNNConfig
    encoder_setting: ClassVar[str] = "title.encoder"

    weights: NDArray[np.float32]  # shape (3,), in the order of PARTS
    spreads: NDArray[np.float32]  # shape (3,), likewise
    popularity: NDArray[np.float32]  # shape (n_items,)

    def __init__(self, config: BaseModel | None = None) -> None:
        super().__init__(config)
        self.title = TitleKNN(self.config.title)
        self.item_knn = ItemKNN(self.config.item_knn)
        # Scores of the parts by requests, while weights are tried on the same ones again and again.
        self._known: dict[str, tuple[NDArray[np.float32], ...]] | None = None

    def fit(self, view: TrainView, context: Context) -> None:
        self.title.fit(view, context)
        self.item_knn.fit(view, context)
        self.popularity = log_popularity(item_counts(view.target)).astype(np.float32)
        some = np.arange(min(_SPREAD_ROWS, len(view.target.validation)))
        parts = self._parts(view.target.validation.take(some), context)
        spreads = [float(part.std()) for part in parts]
        # A part that is equal for all, or for no candidate at all, orders nothing.
        self.spreads = np.array([spread or 1 for spread in spreads], dtype=np.float32)
        chosen = self.config.weights or self._choose(context)
        self.weights = np.array(chosen, dtype=np.float32)

    def score(self, requests: Requests, context: Context) -> Scores:
        total = np.zeros(requests.candidates.shape, dtype=np.float32)
        for part, factor in zip(
            self._parts(requests, context), self.weights / self.spreads, strict=True
        ):
            total += factor * part
        return Scores(total, diagnostics=self._diagnostics())

    def _parts(self, requests: Requests, context: Context) -> tuple[NDArray[np.float32], ...]:
        """Scores of the three parts, each of the shape of the candidates."""
        if self._known is None:
            return self._fresh_parts(requests, context)
        history, candidates = requests.history, requests.candidates
        key = hash_arrays({"o": history.offsets, "i": history.items, "c": candidates})
        if key not in self._known:
            self._known[key] = self._fresh_parts(requests, context)
        return self._known[key]

    def _fresh_parts(self, requests: Requests, context: Context) -> tuple[NDArray[np.float32], ...]:
        return (
            self.title.score(requests, context).values,
            self.item_knn.score(requests, context).values,
            self.popularity[requests.candidates],
        )

    def _choose(self, context: Context) -> tuple[float, ...]:
        best, chosen = -1.0, (1.0, 0.0, 0.0)
        grid = weight_grid(self.config.steps)
        self._known = {}
        for weights in context.progress.track(grid, total=len(grid), description="weights"):
            self.weights = np.array(weights, dtype=np.float32)
            figure = context.validate(self).ndcg[_SELECTED_BY]
            if figure > best:
                best, chosen = figure, weights
        self._known = None
        context.log.info(
            "hybrid-knn: validation NDCG@%d %.4f with weights %s", _SELECTED_BY, best, chosen
        )
        return chosen

    def _diagnostics(self) -> dict[str, str]:
        pairs = list(zip(PARTS, self.weights.tolist(), strict=True))
        said = {"weights": ", ".join(f"{name} {weight:.4g}" for name, weight in pairs)}
        left = [name for name, weight in pairs if weight]
        # Told to those who look for copied results.
        return {**said, "equals": _ALONE[left[0]]} if len(left) == 1 else said

    def save(self, folder: Path) -> None:
        self.title.save(folder)
        self.item_knn.save(folder)
        np.save(folder / "popularity.npy", self.popularity)
        numbers = {"weights": self.weights.tolist(), "spreads": self.spreads.tolist()}
        write_json(folder / "hybrid.json", numbers)

    def load(self, folder: Path) -> None:
        self.title.load(folder)
        self.item_knn.load(folder)
        self.popularity = np.load(folder / "popularity.npy")
        numbers = read_json(folder / "hybrid.json")
        self.weights = np.array(numbers["weights"], dtype=np.float32)
        self.spreads = np.array(numbers["spreads"], dtype=np.float32)


def weight_grid(steps: int) -> list[tuple[float, float, float]]:
    """All triples of multiples of ``1 / steps`` that are not negative and sum to 1, ascending."""
    return [
        (first / steps, second / steps, (steps - first - second) / steps)
        for first in range(steps + 1)
        for second in range(steps + 1 - first)
    ]
