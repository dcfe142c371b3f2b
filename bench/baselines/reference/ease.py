"""EASE: a linear auto-encoder solved in closed form."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, Field
from scipy.linalg.lapack import get_lapack_funcs

from bench.baselines.reference.arrays import (
    interactions,
    item_counts,
    log_popularity,
    sum_over_history,
)
from bench.baselines.reference.memory import available_memory
from bench.errors import MethodError
from bench.methods import Context, Family, Method, MethodConfig, Requests, Scores, TrainView

__all__ = ["Ease", "EaseConfig"]


class EaseConfig(MethodConfig):
    """Options of :class:`Ease`; the defaults were chosen on validation requests."""

    l2: float = Field(default=800.0, gt=0, description="L2 regularisation, added to the diagonal")
    popularity: float = Field(
        default=0.001,
        ge=0,
        description="weight of the candidate's log count, which orders candidates that the history "
        "says nothing about; 0 = the published method",
    )
    precision: Literal["float32", "float64"] = Field(
        default="float32",
        description="number type of the solution; float64 doubles memory and time",
    )


class Ease(Method):
    """Item-item weights of least squared error with a zero diagonal (EASE, Steck, WWW 2019).

    With the binary training matrix ``X`` and ``P = (X'X + l2 I)^-1``, the weights are ``B[i, j] =
    -P[i, j] / P[j, j]`` off the diagonal (equation 8), and the score of a candidate is the sum of
    ``B[h, candidate]`` over the history, plus a small share of its log popularity. Order and time
    are not used.

    One dense matrix of n_items x n_items is held: 0.6 GB for 12,000 items and 2.1 GB for 23,000
    in float32. The inversion takes n_items^3 multiply-adds: 31 s on one idle core for 12,101
    items, so about 2 minutes for 18,000 and 4 for 23,000.
    """

    name: ClassVar[str] = "ease"
    version: ClassVar[str] = "1"
    family: ClassVar[Family] = Family.REFERENCE
    Config: ClassVar[type[BaseModel]] = EaseConfig

    weights: NDArray[np.floating]  # B, shape (n_items, n_items)
    prior: NDArray[np.float32]  # shape (n_items,)

    def fit(self, view: TrainView, context: Context) -> None:
        n = view.target.n_items
        dtype = np.dtype(self.config.precision)
        _require_memory(n, dtype)
        share = log_popularity(item_counts(view.target))
        self.prior = (self.config.popularity * share).astype(np.float32)
        users = interactions(view.target.sequences, n).astype(dtype)
        with context.progress.stage(f"inverting {n} x {n}"):
            self.weights = closed_form((users.T @ users).toarray(order="F"), self.config.l2)

    def score(self, requests: Requests, context: Context) -> Scores:
        values = sum_over_history(self.weights, requests.history, requests.candidates)
        return Scores(values + self.prior[requests.candidates])

    def save(self, folder: Path) -> None:
        np.save(folder / "weights.npy", self.weights)
        np.save(folder / "prior.npy", self.prior)

    def load(self, folder: Path) -> None:
        self.weights = np.load(folder / "weights.npy", mmap_mode="r")
        self.prior = np.load(folder / "prior.npy")


def closed_form(gram: NDArray[np.floating], l2: float) -> NDArray[np.floating]:
    """EASE weights from the Gram matrix, which is overwritten.

    Args:
        gram: ``X'X``, float32 or float64, shape ``(n, n)``, Fortran order.
        l2: regularisation, > 0.

    Returns:
        ``B``, same type and shape, zero diagonal.

    Raises:
        MethodError: the regularised matrix is not positive definite in this precision.
    """
    n = len(gram)
    diagonal = np.arange(n)
    gram[diagonal, diagonal] += l2
    factorise, invert = get_lapack_funcs(("potrf", "potri"), (gram,))
    factor, failed = factorise(gram, lower=1, overwrite_a=1, clean=0)
    if failed == 0:
        weights: NDArray[np.floating]
        weights, failed = invert(factor, lower=1, overwrite_c=1)
    if failed != 0:
        raise MethodError(
            f"ease: the {n} x {n} matrix is not positive definite (LAPACK info {failed}) with "
            f"l2 = {l2}. Raise --set l2=... or use --set precision=float64."
        )
    # potri fills the lower triangle only; mirror it block by block, in place.
    step = 1024
    for start in range(0, n, step):
        block = slice(start, start + step)
        corner = weights[block, block]
        weights[block, block] = np.tril(corner) + np.tril(corner, -1).T
        weights[block, start + step :] = weights[start + step :, block].T
    weights /= -weights[diagonal, diagonal]
    weights[diagonal, diagonal] = 0
    return weights


def _require_memory(n_items: int, dtype: np.dtype[np.floating]) -> None:
    # One matrix, its sparse origin and scoring blocks; factor and weights are made in place.
    needed = int(1.25 * n_items**2 * dtype.itemsize) + 200_000_000
    free = available_memory()
    if free is not None and needed > free:
        advice = "--set precision=float32, " if dtype.itemsize > 4 else ""
        raise MethodError(
            f"ease: {n_items} items need about {needed / 1e9:.1f} GB of memory for one "
            f"n_items x n_items matrix in {dtype.name}; {free / 1e9:.1f} GB are available. Use "
            f"{advice}a smaller target, a larger machine, or item-knn (sparse)."
        )
