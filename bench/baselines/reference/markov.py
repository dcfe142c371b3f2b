"""First-order Markov chain over items."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from pydantic import BaseModel, Field

from bench.baselines.reference.arrays import (
    co_occurrences,
    item_counts,
    last_events,
    sum_over_history,
)
from bench.baselines.reference.sparse_files import load_sparse, save_sparse
from bench.methods import Context, Family, Method, MethodConfig, Requests, Scores, TrainView

__all__ = ["Markov", "MarkovConfig"]


class MarkovConfig(MethodConfig):
    """Options of :class:`Markov`."""

    prior: float = Field(
        default=1.0,
        gt=0,
        description="pseudo-transitions spread over all items by popularity (back-off strength)",
    )


class Markov(Method):
    """Probability that the candidate directly follows the newest item, backed off to popularity.

    With ``T[i, j]`` the number of times j directly followed i in a training sequence, ``n_i`` its
    row sum and ``q`` the popularity distribution, the score is ``(T[i, j] + prior * q[j]) /
    (n_i + prior)``: a Dirichlet-smoothed estimate, which is popularity if nothing is known.
    """

    name: ClassVar[str] = "markov"
    version: ClassVar[str] = "1"
    family: ClassVar[Family] = Family.REFERENCE
    Config: ClassVar[type[BaseModel]] = MarkovConfig

    transitions: sp.csr_array  # T[i, j] / (n_i + prior), float32
    backoff: NDArray[np.float64]  # prior / (n_i + prior), shape (n_items,)
    popularity: NDArray[np.float64]  # q, shape (n_items,)

    def fit(self, view: TrainView, context: Context) -> None:
        counts = item_counts(view.target)
        self.popularity = counts / max(1, int(counts.sum()))
        follows = co_occurrences(view.target.sequences, view.target.n_items, reach=1, decay=1.0)
        total = follows.sum(axis=1) + self.config.prior
        self.backoff = self.config.prior / total
        self.transitions = (sp.diags_array(1 / total) @ follows).tocsr().astype(np.float32)
        self.transitions.sum_duplicates()  # sorts the rows, which makes lookups fast

    def score(self, requests: Requests, context: Context) -> Scores:
        newest = last_events(requests.history)
        share = np.ones(len(requests))
        known = newest.lengths > 0
        share[known] = self.backoff[newest.items]
        values = sum_over_history(self.transitions, newest, requests.candidates)
        values += (share[:, None] * self.popularity[requests.candidates]).astype(np.float32)
        return Scores(values)

    def save(self, folder: Path) -> None:
        save_sparse(folder, "transitions", self.transitions)
        np.save(folder / "backoff.npy", self.backoff)
        np.save(folder / "popularity.npy", self.popularity)

    def load(self, folder: Path) -> None:
        self.transitions = load_sparse(folder, "transitions")
        self.backoff = np.load(folder / "backoff.npy")
        self.popularity = np.load(folder / "popularity.npy")
