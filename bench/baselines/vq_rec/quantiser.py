"""Optimised product quantisation: a vector becomes one code per block of its rotated coordinates.

Sources: Jegou, Douze, Schmid, "Product Quantization for Nearest Neighbor Search", TPAMI 2011; Ge, He,
Ke, Sun, "Optimized Product Quantization", CVPR 2013, the non-parametric solution. VQ-Rec uses faiss'
index ``OPQ32,IVF1,PQ32x8``, made for inner products: a learnt rotation, one coarse centroid taken off,
32 blocks of 256 centroids. This is the same construction in NumPy. What is taken off is the mean, in
faiss the mean's direction, for centroids of inner products have length 1; the blocks' centroids move
along with it, so that the codes differ from faiss' as those of two seeds do.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError

__all__ = ["Quantiser", "fit_quantiser", "k_means"]

_DISTANCES_AT_ONCE = 2**23


@dataclass(frozen=True, slots=True, eq=False)
class Quantiser:
    """A fitted quantiser.

    Attributes:
        mean: float32, shape ``(d,)``, taken off first.
        rotation: float32, shape ``(d, d)``, orthogonal; applied to row vectors from the right.
        centroids: float32, shape ``(m, k, d / m)``.
    """

    mean: NDArray[np.float32]
    rotation: NDArray[np.float32]
    centroids: NDArray[np.float32]

    def encode(self, vectors: NDArray[np.float32]) -> NDArray[np.int64]:
        """Codes of vectors ``(n, d)``: int64, shape ``(n, m)``, in [0, k); ties take the lowest."""
        rotated = np.asarray((vectors - self.mean) @ self.rotation, dtype=np.float32)
        return _assign(rotated, self.centroids)

    def decode(self, codes: NDArray[np.int64]) -> NDArray[np.float32]:
        """The vectors that codes ``(n, m)`` stand for: float32, shape ``(n, d)``."""
        return _look_up(codes, self.centroids) @ self.rotation.T + self.mean

    def arrays(self) -> Mapping[str, NDArray[np.float32]]:
        """Everything, by name."""
        return {"mean": self.mean, "rotation": self.rotation, "centroids": self.centroids}


def fit_quantiser(
    vectors: NDArray[np.float32],
    *,
    n_blocks: int,
    n_codes: int,
    rotations: int,
    points: int,
    rng: np.random.Generator,
) -> Quantiser:
    """Learn rotation and centroids by turns, then the centroids once more.

    Args:
        vectors: float, shape ``(n, d)``.
        n_blocks: codes per vector; divides d.
        n_codes: centroids per block. With fewer distinct vectors some centroids are equal, and only
            the first of them is used.
        rotations: rounds of turning the vectors after the centroids; 0 keeps a random rotation.
        points: most vectors that are read, drawn at random.
        rng: local generator.

    Raises:
        ConfigError: the blocks do not divide d, or there is no vector.
    """
    n, size = vectors.shape
    if n == 0 or size % n_blocks:
        raise ConfigError(
            f"{n} text vectors of {size} numbers cannot be cut into {n_blocks} blocks; expected at "
            "least one vector, and a number of blocks that divides its size. Change n_blocks."
        )
    if n > points:
        vectors = vectors[np.sort(rng.permutation(n)[:points])]
    mean = vectors.mean(axis=0, dtype=np.float64).astype(np.float32)
    centred = vectors - mean
    # Rows of a random orthogonal matrix, so that every block begins with a like share of the variance.
    rotation = np.linalg.qr(rng.standard_normal((size, size)))[0].astype(np.float32)
    centroids = _first_centroids(centred @ rotation, n_blocks, n_codes, rng)
    for _ in range(rotations):
        rotated = centred @ rotation
        centroids = _blocks_means(rotated, centroids, iterations=4)
        decoded = _look_up(_assign(rotated, centroids), centroids)
        # Orthogonal Procrustes: the rotation that brings the vectors closest to what they decode to.
        left, _, right = np.linalg.svd(centred.T.astype(np.float64) @ decoded)
        rotation = (left @ right).astype(np.float32)
    centroids = _blocks_means(centred @ rotation, centroids, iterations=25)
    return Quantiser(mean, rotation, centroids)


def k_means(
    points: NDArray[np.float32], centroids: NDArray[np.float32], *, iterations: int
) -> NDArray[np.float32]:
    """Lloyd's algorithm; a centroid without points moves to the point that is farthest from its own.

    Args:
        points: float32, shape ``(n, s)``.
        centroids: where to begin, shape ``(k, s)``.
        iterations: most rounds; ends earlier when nothing changes.

    Returns:
        float32, shape ``(k, s)``.
    """
    centroids = centroids.copy()
    previous = None
    for _ in range(iterations):
        nearest, distance = _nearest(points, centroids)
        if previous is not None and np.array_equal(nearest, previous):
            break
        previous = nearest
        counts = np.bincount(nearest, minlength=len(centroids))
        sums = np.stack(
            [np.bincount(nearest, column, minlength=len(centroids)) for column in points.T], axis=1
        )
        filled = counts > 0
        centroids[filled] = sums[filled] / counts[filled, None]
        empty = np.flatnonzero(~filled)
        # Points at distance 0 have a centroid of their own: moving there would double it.
        far = np.argsort(-distance, kind="stable")[: len(empty)]
        far = far[distance[far] > 0]
        centroids[empty[: len(far)]] = points[far]
    return centroids


def _nearest(
    points: NDArray[np.float32], centroids: NDArray[np.float32]
) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Nearest centroid of every point, and the squared distance to it."""
    nearest = np.empty(len(points), dtype=np.int64)
    distance = np.empty(len(points), dtype=np.float32)
    norms = np.square(centroids).sum(axis=1)
    step = max(1, _DISTANCES_AT_ONCE // len(centroids))
    for start in range(0, len(points), step):
        part = points[start : start + step]
        # Up to the point's own norm, which is the same for all centroids.
        relative = norms - 2 * part @ centroids.T
        nearest[start : start + step] = relative.argmin(axis=1)
        own = np.square(part).sum(axis=1)
        distance[start : start + step] = np.maximum(relative.min(axis=1) + own, 0)
    return nearest, distance


def _blocks(vectors: NDArray[np.float32], n_blocks: int) -> list[NDArray[np.float32]]:
    return [np.ascontiguousarray(part) for part in np.split(vectors, n_blocks, axis=1)]


def _first_centroids(
    vectors: NDArray[np.float32], n_blocks: int, n_codes: int, rng: np.random.Generator
) -> NDArray[np.float32]:
    """Random vectors, the same for all blocks; repeated if there are too few."""
    chosen = np.resize(rng.permutation(len(vectors)), n_codes)
    return np.stack([part[chosen] for part in _blocks(vectors, n_blocks)])


def _blocks_means(
    vectors: NDArray[np.float32], centroids: NDArray[np.float32], *, iterations: int
) -> NDArray[np.float32]:
    parts = _blocks(vectors, len(centroids))
    return np.stack(
        [k_means(p, c, iterations=iterations) for p, c in zip(parts, centroids, strict=True)]
    )


def _assign(vectors: NDArray[np.float32], centroids: NDArray[np.float32]) -> NDArray[np.int64]:
    parts = _blocks(vectors, len(centroids))
    return np.stack([_nearest(p, c)[0] for p, c in zip(parts, centroids, strict=True)], axis=1)


def _look_up(codes: NDArray[np.int64], centroids: NDArray[np.float32]) -> NDArray[np.float32]:
    blocks = np.arange(len(centroids))
    made: NDArray[np.float32] = centroids[blocks, codes].reshape(len(codes), -1)
    return made
