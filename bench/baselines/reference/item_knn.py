"""Item-based neighbours with order and recency."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from bench.baselines.reference.arrays import (
    co_occurrences,
    decayed,
    interactions,
    item_counts,
    log_popularity,
    sum_over_history,
)
from bench.baselines.reference.sparse_files import load_sparse, save_sparse
from bench.methods import Context, Family, Method, MethodConfig, Requests, Scores, TrainView

__all__ = ["ItemKNN", "ItemKNNConfig"]


class ItemKNNConfig(MethodConfig):
    """Options of :class:`ItemKNN`; the defaults were chosen on validation requests.

    ``pair_decay=1, candidate_exponent=0.5, shrinkage=0`` is the textbook cosine.
    """

    history_decay: float = Field(
        default=0.8, gt=0, le=1, description="weight lost by a history item per step into the past"
    )
    pair_decay: float = Field(
        default=0.9,
        gt=0,
        le=1,
        description="weight lost by a co-occurrence per step between the two events; 1 = order ignored",
    )
    history_exponent: float = Field(
        default=0.5, ge=0, le=1, description="exponent of the history item's count in the cosine"
    )
    candidate_exponent: float = Field(
        default=0.1, ge=0, le=1, description="exponent of the candidate's count in the cosine"
    )
    shrinkage: float = Field(
        default=5.0, ge=0, description="added to the denominator: distrust of rare pairs"
    )
    popularity: float = Field(
        default=0.02,
        ge=0,
        description="weight of the candidate's log count: orders candidates without neighbours",
    )


class ItemKNN(Method):
    """Similarity of the candidate to the user's recent items, popularity if there is none.

    Two items are similar if the same users trained on both (cosine of their columns). Three
    refinements: the candidate's popularity is divided out only partly (asymmetric cosine, Aiolli,
    RecSys 2013, section 3), pairs far apart in a sequence count less, and newer history items count
    more. With pair weights ``C[i, j] = sum pair_decay ** (distance - 1)`` and counts ``n``::

        S[i, j] = C[i, j] / (n_i ** history_exponent * n_j ** candidate_exponent + shrinkage)
        score(j) = sum_h history_decay ** age(h) * S[h, j] + popularity * log(1 + n_j) / log(1 + n_max)
    """

    name: ClassVar[str] = "item-knn"
    version: ClassVar[str] = "1"
    family: ClassVar[Family] = Family.REFERENCE
    Config: ClassVar[type[BaseModel]] = ItemKNNConfig

    similarity: sp.csr_array  # S, float32
    prior: NDArray[np.float32]  # shape (n_items,)

    def fit(self, view: TrainView, context: Context) -> None:
        config: ItemKNNConfig = self.config
        counts = item_counts(view.target)
        self.prior = (config.popularity * log_popularity(counts)).astype(np.float32)
        sequences, n = view.target.sequences, view.target.n_items
        if config.pair_decay < 1:
            after = co_occurrences(sequences, n, reach=None, decay=config.pair_decay)
            pairs = (after + after.T).tocoo()
        else:
            users = interactions(sequences, n)
            pairs = (users.T @ users).tocoo()
        i, j, together = pairs.row, pairs.col, pairs.data.astype(np.float64)
        count = np.maximum(counts, 1).astype(np.float64)
        scale = count[i] ** config.history_exponent * count[j] ** config.candidate_exponent
        values = together / (scale + config.shrinkage)
        other = i != j
        self.similarity = sp.csr_array(
            (values[other].astype(np.float32), (i[other], j[other])), shape=(n, n)
        )
        self.similarity.sum_duplicates()  # sorts the rows, which makes lookups fast

    def score(self, requests: Requests, context: Context) -> Scores:
        recent, weights = decayed(requests.history, self.config.history_decay)
        values = sum_over_history(self.similarity, recent, requests.candidates, weights)
        return Scores(values + self.prior[requests.candidates])

    def save(self, folder: Path) -> None:
        save_sparse(folder, "similarity", self.similarity)
        np.save(folder / "prior.npy", self.prior)

    def load(self, folder: Path) -> None:
        self.similarity = load_sparse(folder, "similarity")
        self.prior = np.load(folder / "prior.npy")
