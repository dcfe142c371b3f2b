"""The codes of vectors: rotation, centroids, and what is nearest."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from vq_rec_parts import BLOCKS, CODES

from bench.baselines.vq_rec.quantiser import Quantiser, fit_quantiser, k_means
from bench.errors import ConfigError


def clustered(n: int, size: int = 24, seed: int = 0) -> np.ndarray:
    """Vectors with directions of unequal variance that no block of coordinates holds alone."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((size, size)))[0]
    spread = np.geomspace(4, 0.1, size)
    return ((rng.standard_normal((n, size)) * spread) @ turn + 3).astype(np.float32)


def quantiser(vectors: np.ndarray, **more: Any) -> Quantiser:
    settings: dict[str, Any] = {"n_blocks": BLOCKS, "n_codes": CODES, "rotations": 5}
    settings |= {"points": 10_000, "rng": np.random.default_rng(0)}
    return fit_quantiser(vectors, **(settings | more))


def error(index: Quantiser, vectors: np.ndarray) -> float:
    return float(np.square(index.decode(index.encode(vectors)) - vectors).sum())


def test_codes_are_in_range_and_the_same_for_one_seed() -> None:
    vectors = clustered(200)
    codes = quantiser(vectors).encode(vectors)
    assert codes.shape == (200, BLOCKS)
    assert codes.min() >= 0
    assert codes.max() < CODES
    assert np.array_equal(codes, quantiser(vectors).encode(vectors))
    other = quantiser(vectors, rng=np.random.default_rng(1)).encode(vectors)
    assert not np.array_equal(codes, other)


def test_a_code_is_the_nearest_centroid_of_its_block() -> None:
    vectors = clustered(50)
    index = quantiser(vectors)
    rotated = ((vectors - index.mean) @ index.rotation).reshape(50, BLOCKS, 1, -1)
    distances = np.square(rotated - index.centroids).sum(axis=-1)
    assert np.array_equal(index.encode(vectors), distances.argmin(axis=-1))


def test_the_rotation_is_orthogonal_and_learning_it_pays() -> None:
    vectors, unseen = clustered(600), clustered(300, seed=1)
    learnt, random = quantiser(vectors, rotations=10), quantiser(vectors, rotations=0)
    np.testing.assert_allclose(learnt.rotation @ learnt.rotation.T, np.eye(24), atol=1e-4)
    assert error(learnt, vectors) < 0.95 * error(random, vectors)
    assert error(learnt, unseen) < 0.95 * error(random, unseen)


def test_decoding_beats_a_random_codebook() -> None:
    vectors = clustered(600)
    index = quantiser(vectors)
    rng = np.random.default_rng(3)
    made_up = Quantiser(
        index.mean,
        index.rotation,
        (rng.standard_normal(index.centroids.shape) * index.centroids.std()).astype(np.float32),
    )
    assert error(index, vectors) < 0.7 * error(made_up, vectors)
    variance = float(np.square(vectors - vectors.mean(axis=0)).sum())
    assert error(index, vectors) < 0.7 * variance


def test_k_means_goes_the_way_of_lloyds_algorithm() -> None:
    """Against scipy, from the same starting centroids, before rounding can part them."""
    from scipy.cluster.vq import kmeans2

    points = clustered(300, size=3)
    begin = points[:5].copy()
    for rounds in (1, 2, 5):
        ours = k_means(points, begin, iterations=rounds)
        theirs, _ = kmeans2(
            points.astype(np.float64), begin.astype(np.float64), iter=rounds, minit="matrix"
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_fewer_vectors_than_centroids_still_have_codes() -> None:
    vectors = clustered(3)
    index = quantiser(vectors)
    assert len(np.unique(index.encode(vectors), axis=0)) == 3
    assert error(index, vectors) == pytest.approx(0, abs=1e-3)


def test_an_empty_cluster_moves_to_the_worst_served_point() -> None:
    points = np.array([[0.0], [0.1], [10.0], [20.0]], dtype=np.float32)
    begin = np.array([[0.0], [0.0], [0.0]], dtype=np.float32)
    found = np.sort(k_means(points, begin, iterations=20).ravel())
    np.testing.assert_allclose(found, [0.05, 10, 20], atol=1e-6)


def test_blocks_must_divide_the_vectors() -> None:
    with pytest.raises(ConfigError, match="24 numbers cannot be cut into 5 blocks"):
        quantiser(clustered(20), n_blocks=5)
