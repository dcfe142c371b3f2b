"""Means with bootstrap intervals, at a cost that does not grow with the number of users.

Resampling n users with replacement draws the counts of their distinct values from a multinomial
distribution, so that a resample costs as much as there are distinct values: about a dozen for a
metric with a cut-off (:mod:`bench.evaluation.multinomial`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError
from bench.evaluation.metrics import METRICS, Policy, metric_per_user, weighted_mean
from bench.evaluation.multinomial import resampled_sums, stream
from bench.evaluation.outcomes import Outcomes

__all__ = ["MetricSummary", "bootstrap_interval", "bootstrap_means", "quantiles", "summarise"]

# More distinct values than this (AUC in full ranking) are grouped into cells of equal width.
_MAX_CELLS = 1024


@dataclass(frozen=True, slots=True)
class MetricSummary:
    """Mean of a metric over users and its 95 % bootstrap interval.

    Attributes:
        mean: mean over users.
        ci95: lower and upper end of the percentile interval.
        n: number of users.
    """

    mean: float
    ci95: tuple[float, float]
    n: int


def summarise(
    outcomes: Outcomes,
    metrics: Sequence[str] = METRICS,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    policy: Policy = "keep",
) -> dict[str, MetricSummary]:
    """Means and 95 % intervals of several metrics.

    Args:
        outcomes: n >= 1 outcomes.
        metrics: metric names; the interval of a metric does not depend on which others are asked.
        seed: seed of the resampling, >= 0.
        n_resamples: bootstrap resamples, >= 1.
        policy: what invalid answers of a list generator do to later ones.

    Returns:
        Metric name to summary.

    Raises:
        ConfigError: no users, an unknown metric, or ``n_resamples`` below 1.
    """
    if not len(outcomes):
        raise ConfigError("no users to summarise; expected at least one outcome.")
    distinct, counts = outcomes.histogram()
    summaries = {}
    for metric in metrics:
        values = metric_per_user(distinct, metric, policy=policy)
        interval = bootstrap_interval(values, counts, seed=seed, n_resamples=n_resamples)
        summaries[metric] = MetricSummary(
            weighted_mean(values, counts), interval, int(counts.sum())
        )
    return summaries


def bootstrap_interval(
    values: NDArray[np.float64],
    counts: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Percentile bootstrap interval of a mean (Efron 1979), from a histogram of values.

    Args:
        values: float64, shape ``(d,)``, finite.
        counts: int64, shape ``(d,)``, users per value; None = one each.
        seed: seed of the resampling, >= 0: a stream of words of its own, see ``docs/statistics.md``.
        n_resamples: number of resamples, >= 1.
        level: coverage, in (0, 1).

    Returns:
        Lower and upper end. A single user, or equal values, give ``(mean, mean)``: the data show
        no spread.

    Raises:
        ConfigError: no values, or an argument out of range.
    """
    if not 0 < level < 1:
        raise ConfigError(f"bootstrap with level={level}; expected a level in (0, 1).")
    means = bootstrap_means(values, counts, seed=seed, n_resamples=n_resamples)
    tail = (1.0 - level) / 2.0
    low, high = quantiles(means, (tail, 1.0 - tail))
    return low, high


def bootstrap_means(
    values: NDArray[np.float64],
    counts: NDArray[np.int64] | None = None,
    *,
    seed: int = 0,
    n_resamples: int = 2000,
) -> NDArray[np.float64]:
    """Means of resamples with replacement; arguments and errors as :func:`bootstrap_interval`.

    Returns:
        float64, shape ``(n_resamples,)``; all equal to the value if there is only one.
    """
    if not len(values) or n_resamples < 1 or seed < 0:
        raise ConfigError(
            f"bootstrap of {len(values)} values with n_resamples={n_resamples}, seed={seed}; "
            "expected at least one value and resample, seed >= 0."
        )
    values, counts = _cells(values, counts)
    if len(values) == 1:
        return np.full(n_resamples, values[0])
    n = int(counts.sum())
    return resampled_sums(values, counts, n_resamples, stream(b"bootstrap", seed)) / n


def quantiles(values: NDArray[np.float64], levels: Sequence[float]) -> list[float]:
    """Quantiles with linear interpolation (Hyndman & Fan 1996, type 7), as ``np.quantile`` has them.

    Written out, because a stored interval must come out again bit by bit under another NumPy.

    Args:
        values: float64, shape ``(n,)``, n >= 1, finite.
        levels: in [0, 1].
    """
    ordered = np.sort(values).tolist()
    found = []
    for level in levels:
        place = float(level) * (len(ordered) - 1)
        below = int(place)
        low, high = ordered[below], ordered[min(below + 1, len(ordered) - 1)]
        found.append(low + (high - low) * (place - below))
    return found


def _cells(
    values: NDArray[np.float64], counts: NDArray[np.int64] | None
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Distinct values and their counts, most frequent first.

    Too many distinct values are grouped into cells of equal width, each represented by its mean. The
    mean is kept; the variance lost is below ``range^2 / (4 * 1024^2)``, under 1e-5 of a usual one.
    """
    if counts is None:
        counts = np.ones(len(values), dtype=np.int64)
    distinct, inverse = np.unique(values, return_inverse=True)
    if len(distinct) > _MAX_CELLS:
        low, high = distinct[0], distinct[-1]
        cell = np.minimum(((values - low) / (high - low) * _MAX_CELLS).astype(np.int64), 1023)
        totals = np.bincount(cell, weights=values * counts, minlength=_MAX_CELLS)
        sizes = np.bincount(cell, weights=counts, minlength=_MAX_CELLS).astype(np.int64)
        used = sizes > 0
        distinct, merged = totals[used] / sizes[used], sizes[used]
    else:
        merged = np.bincount(inverse.ravel(), weights=counts).astype(np.int64)
    order = np.lexsort((distinct, -merged))
    return distinct[order], merged[order]
