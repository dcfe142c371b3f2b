"""Tests of a mean difference that assume no distribution: sign flips, bootstrap, McNemar.

They confirm the t-test. With thousands of users all agree; in small samples sign flips are exact.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.errors import ConfigError, ResultError
from bench.evaluation.effects import settle
from bench.evaluation.intervals import bootstrap_means, quantiles
from bench.evaluation.multinomial import stream
from bench.mixing import words

__all__ = [
    "McNemarTest",
    "PairedBootstrap",
    "SignFlipTest",
    "mcnemar",
    "paired_bootstrap",
    "sign_flip_pairs",
    "sign_flip_test",
]

# One block of random signs as float64, in bytes.
_BLOCK_BYTES = 1 << 26
# Below this many users the percentile interval is replaced by BCa.
_BCA_BELOW = 500
# Sums of equal terms in another order differ by less than this share of their size.
_ROUNDING = 1e-12


@dataclass(frozen=True, slots=True)
class SignFlipTest:
    """Two-sided sign-flip randomization test of a mean of 0.

    Attributes:
        p: p-value; ``(hits + 1) / (n_flips + 1)``, or ``hits / n_flips`` if every assignment of
            signs was tried (which includes the observed one). Never 0.
        hits: assignments at least as extreme as the observed one.
        n_flips: assignments tried.
        exact: whether these were all.
    """

    p: float
    hits: int
    n_flips: int
    exact: bool


@dataclass(frozen=True, slots=True)
class PairedBootstrap:
    """Paired bootstrap of a mean difference.

    Attributes:
        difference: mean over users.
        ci95: 95 % interval.
        p: two-sided p-value of a mean of 0: ``(hits + 1) / (n_resamples + 1)``, hits being
            resampled means, shifted to 0, that are at least as far from 0 as the observed one.
        method: ``percentile``, or ``bca`` (bias-corrected, accelerated) below 500 users.
        n_resamples: resamples drawn.
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    method: Literal["percentile", "bca"]
    n_resamples: int


@dataclass(frozen=True, slots=True)
class McNemarTest:
    """Exact two-sided McNemar test of two binary metrics.

    Attributes:
        p: p-value; 1 if no user differs.
        only_a: users that only the first method serves.
        only_b: users that only the second method serves.
    """

    p: float
    only_a: int
    only_b: int


def sign_flip_test(d: NDArray[np.float64], n_flips: int = 10_000, *, seed: int = 0) -> SignFlipTest:
    """Test whether per-user differences have mean 0, by flipping their signs at random.

    If ``2^n <= n_flips`` every assignment of signs is tried and the p-value is exact.

    Args:
        d: float64, shape ``(n,)``, n >= 1, finite.
        n_flips: random assignments of signs, >= 1.
        seed: seed of a stream of words of its own, >= 0.

    Raises:
        ResultError: not a non-empty finite vector.
        ConfigError: ``n_flips`` or ``seed`` out of range.
    """
    d = _vector(d)
    _check(n_flips, seed, "n_flips")
    n = len(d)
    if n < 63 and 2**n <= n_flips:
        codes = np.arange(2**n)[:, None] >> np.arange(n) & 1
        sums = (1.0 - 2.0 * codes) @ d
        hits = int((np.abs(sums) >= _threshold(d)).sum())
        return SignFlipTest(hits / 2**n, hits, 2**n, exact=True)
    hits = int(_flip_hits(d[None], np.array([0]), None, n_flips, seed)[0])
    return SignFlipTest((hits + 1) / (n_flips + 1), hits, n_flips, exact=False)


def sign_flip_pairs(
    values: NDArray[np.float64], n_flips: int = 10_000, *, seed: int = 0
) -> NDArray[np.float64]:
    """Sign-flip p-values of all pairs of methods, with the same random signs for every pair.

    The flipped sum of a pair's differences is the difference of the methods' flipped sums, so that
    all pairs cost one matrix product of methods x users with users x flips. Signs are made in blocks
    of 64 MB; float64, because sums that are exactly equal must count as hits.

    Args:
        values: float64, shape ``(k, n)``, k methods over the same n users, finite.
        n_flips: random assignments of signs, >= 1.
        seed: seed of a stream of words of its own, >= 0.

    Returns:
        float64, shape ``(k, k)``, symmetric, ones on the diagonal; every entry at least
        ``1 / (n_flips + 1)``. Each is what :func:`sign_flip_test` gives for the pair's differences.

    Raises:
        ResultError: not a non-empty finite matrix.
        ConfigError: ``n_flips`` or ``seed`` out of range.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size or not np.isfinite(values).all():
        raise ResultError(
            f"a matrix of shape {values.shape} for sign flips; expected (methods, users), non-empty "
            "and finite."
        )
    _check(n_flips, seed, "n_flips")
    k = len(values)
    first, second = np.triu_indices(k, 1)
    p = np.ones((k, k))
    if len(first):
        hits = _flip_hits(values, first, second, n_flips, seed)
        p[first, second] = p[second, first] = (hits + 1) / (n_flips + 1)
    return p


def _flip_hits(
    values: NDArray[np.float64],
    first: NDArray[np.intp],
    second: NDArray[np.intp] | None,
    n_flips: int,
    seed: int,
) -> NDArray[np.int64]:
    """How often a flipped sum is at least as extreme as the observed one, per pair of rows."""
    n = values.shape[1]
    if second is None:
        thresholds = np.array([_threshold(values[i]) for i in first])
    else:
        pairs = zip(first, second, strict=True)
        thresholds = np.array([_threshold(values[i] - values[j]) for i, j in pairs])
    totals = values.sum(axis=1)[:, None]
    key = stream(b"sign flips", seed)
    hits = np.zeros(len(first), dtype=np.int64)
    step = max(1, min(n_flips, _BLOCK_BYTES // (8 * n)))
    # Whole 64-bit words per assignment: the stream does not depend on the size of blocks.
    row_words = -(-n // 64)
    for start in range(0, n_flips, step):
        size = min(step, n_flips - start)
        numbers = np.arange(start * row_words, (start + size) * row_words)
        packed = words(key, numbers).astype(">u8").view(np.uint8).reshape(size, -1)
        bits = np.unpackbits(packed, axis=1, count=n)
        # A sum with signs is the total minus twice the sum of what is flipped.
        flipped = totals - 2.0 * (values @ bits.astype(np.float64).T)
        sums = flipped[first] if second is None else flipped[first] - flipped[second]
        hits += (np.abs(sums) >= thresholds[:, None]).sum(axis=1)
    return hits


def _threshold(d: NDArray[np.float64]) -> float:
    """The observed absolute sum, less what rounding may take from an equal one."""
    return float(abs(d.sum())) - _ROUNDING * max(float(np.abs(d).sum()), len(d))


def paired_bootstrap(
    d: NDArray[np.float64], n_resamples: int = 2000, *, seed: int = 0
) -> PairedBootstrap:
    """Resample users with replacement: interval and test of a mean difference.

    Percentile interval from 500 users on, BCa below (Efron 1987). Without any spread the interval is
    a point; one user gives p = 1 and an unbounded interval.

    Args:
        d: float64, shape ``(n,)``, n >= 1, finite: per-user differences.
        n_resamples: resamples, >= 1.
        seed: seed of a stream of words of its own, >= 0.

    Raises:
        ResultError: not a non-empty finite vector.
        ConfigError: ``n_resamples`` or ``seed`` out of range.
    """
    d = _vector(d)
    _check(n_resamples, seed, "n_resamples")
    mean = float(d.mean())
    method: Literal["percentile", "bca"] = "percentile" if len(d) >= _BCA_BELOW else "bca"
    if len(d) == 1:
        return PairedBootstrap(mean, (-math.inf, math.inf), 1.0, method, n_resamples)
    if d.min() == d.max():
        value = float(d[0])
        p = 1.0 if value == 0.0 else 1.0 / (n_resamples + 1)
        return PairedBootstrap(value, (value, value), p, method, n_resamples)
    means = bootstrap_means(d, seed=seed, n_resamples=n_resamples)
    hits = int((np.abs(means - mean) >= abs(mean) - _ROUNDING).sum())
    levels: Sequence[float] = _bca_levels(d, means) if method == "bca" else (0.025, 0.975)
    low, high = quantiles(means, levels)
    p = (hits + 1) / (n_resamples + 1)
    return PairedBootstrap(mean, (low, high), p, method, n_resamples)


def _bca_levels(d: NDArray[np.float64], means: NDArray[np.float64]) -> Sequence[float]:
    """Quantile levels of the BCa interval of a mean (Efron 1987, equations 2.3 and 6.6)."""
    centred = d - d.mean()
    cubes = centred * centred * centred
    acceleration = cubes.sum() / (6.0 * np.square(centred).sum() ** 1.5)
    below = ((means < d.mean()).sum() + (means <= d.mean()).sum()) / (2 * len(means))
    # A level of 0 or 1 would be an infinite shift; half a resample is the finest that can be told.
    finest = 0.5 / len(means)
    shift = special.ndtri(min(max(below, finest), 1.0 - finest))
    z = shift + special.ndtri((0.025, 0.975))
    levels: list[float] = special.ndtr(shift + z / (1.0 - acceleration * z)).tolist()
    return levels


def mcnemar(a: NDArray[np.float64], b: NDArray[np.float64]) -> McNemarTest:
    """Exact McNemar test for binary metrics (HR@k, NDCG@1) of one run each.

    Args:
        a: shape ``(n,)``, values 0 and 1 only.
        b: likewise, for the same users.

    Raises:
        ResultError: vectors of other lengths, or values other than 0 and 1 (a user whose positive is
            tied has an expected value between them; use :func:`sign_flip_test`).
    """
    from scipy import stats

    a, b = _vector(a), _vector(b)
    if len(a) != len(b):
        raise ResultError(f"McNemar's test over {len(a)} and {len(b)} users; expected the same.")
    for values in (a, b):
        graded = int(((values != 0.0) & (values != 1.0)).sum())
        if graded:
            raise ResultError(
                f"McNemar's test with {graded} values other than 0 and 1; expected a binary metric "
                "without ties. Use the sign-flip test or the t-test."
            )
    only_a, only_b = int(((a == 1.0) & (b == 0.0)).sum()), int(((a == 0.0) & (b == 1.0)).sum())
    different = only_a + only_b
    p = float(stats.binomtest(only_a, different, 0.5).pvalue) if different else 1.0
    return McNemarTest(p, only_a, only_b)


def _vector(d: NDArray[np.float64]) -> NDArray[np.float64]:
    d = np.asarray(d, dtype=np.float64)
    if d.ndim != 1 or not len(d) or not np.isfinite(d).all():
        raise ResultError(
            f"per-user values of shape {d.shape}; expected a non-empty vector of finite numbers."
        )
    return settle(d)


def _check(n: int, seed: int, name: str) -> None:
    if n < 1 or seed < 0:
        raise ConfigError(f"{name}={n}, seed={seed}; expected {name} >= 1 and a seed >= 0.")
