"""Metrics of one relevant item per user, in closed form under random tie-breaking.

With ``b`` candidates better than the positive and a tie group of ``g`` (the positive included), every
order of the group is equally likely, so the expected value of a metric with gain ``f`` of the 1-based
rank is the mean of ``f(b + 1) ... f(b + g)``: a difference of two cumulative gains (McSherry and
Najork, "Computing information retrieval performance measures efficiently in the presence of tied
scores", ECIR 2008). Gains: HR@k 1, NDCG@k 1 / log2(rank + 1), MRR@k 1 / rank, each 0 beyond rank k.
AUC is the share of the other candidates below the positive, ties counting one half.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import ConfigError, MethodError, unknown_name
from bench.evaluation.outcomes import Outcomes
from bench.registry import Registry

__all__ = [
    "METRICS",
    "METRIC_KINDS",
    "Metric",
    "Policy",
    "TieRule",
    "gains",
    "metric_means",
    "metric_per_user",
    "parse_metric",
    "random_row",
]

METRICS: tuple[str, ...] = (
    "ndcg@1",
    "ndcg@3",
    "ndcg@5",
    "ndcg@10",
    "mrr@5",
    "mrr@10",
    "hr@1",
    "hr@5",
    "hr@10",
    "auc",
)

Policy = Literal["keep", "close"]
TieRule = Literal["expected", "optimistic", "pessimistic"]

_CUT = re.compile(r"(.+)@([1-9][0-9]{0,5})")


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric of one relevant item; greater is better.

    Attributes:
        summary: its value, or what it is, in a few words; r is the rank among n candidates.
        gain: of the 1-based rank of the positive, 0 beyond rank k; it is asked for as ``NAME@k``.
        values: or, of a metric without a cut-off, its value for every user: float64, shape ``(n,)``, from
            n outcomes and the order of ties; it is asked for as ``NAME``.
    """

    summary: str
    gain: Callable[[int], float] | None = None
    values: Callable[[Outcomes, TieRule], NDArray[np.float64]] | None = None


def _auc(outcomes: Outcomes, ties: TieRule) -> NDArray[np.float64]:
    others = outcomes.n_candidates - 1.0
    weight = {"expected": 0.5, "optimistic": 0.0, "pessimistic": 1.0}[ties]
    below = others - outcomes.n_better - weight * outcomes.n_tied
    values = np.full(len(outcomes), 0.5)
    np.divide(below, others, out=values, where=others > 0)
    return values


HR = Metric("1", gain=lambda rank: 1.0)
# NumPy's logarithm has other last bits on another processor or in another version.
NDCG = Metric("1 / log2(r + 1)", gain=lambda rank: 1.0 / math.log2(rank + 1))
MRR = Metric("1 / r", gain=lambda rank: 1.0 / rank)
AUC = Metric("(n - r) / (n - 1), the share of other candidates below the positive", values=_auc)

METRIC_KINDS: Registry[Metric] = Registry(
    "metric",
    {
        "hr": "bench.evaluation.metrics:HR",
        "ndcg": "bench.evaluation.metrics:NDCG",
        "mrr": "bench.evaluation.metrics:MRR",
        "auc": "bench.evaluation.metrics:AUC",
    },
)
"""The metrics; a new one is a :class:`Metric` and a line here. Stored results hold :data:`METRICS`."""


def parse_metric(metric: str) -> tuple[str, int]:
    """Split ``ndcg@5`` into ``("ndcg", 5)``; ``auc`` gives ``("auc", 0)``.

    Raises:
        ConfigError: no metric of :data:`METRIC_KINDS`, or one with a cut-off k >= 1 if it has none, or the
            reverse.
        MethodError: what a plugin announces is no :class:`Metric`.
    """
    match = _CUT.fullmatch(metric)
    kind, k = (match[1], int(match[2])) if match else (metric, 0)
    if kind not in METRIC_KINDS or (_kind(kind).gain is None) != (k == 0):
        cut = (f"{name}@k" for name in METRIC_KINDS if name not in METRICS)
        raise unknown_name("metric", metric, (*METRICS, *cut))
    return kind, k


def _kind(name: str) -> Metric:
    found = METRIC_KINDS.load(name)
    if not isinstance(found, Metric) or (found.gain is None) == (found.values is None):
        raise MethodError(
            f"metric {name!r} ({METRIC_KINDS.origin(name)}): found {found!r}, expected a "
            "bench.evaluation.Metric with either gain or values."
        )
    return found


@lru_cache(maxsize=64)
def _tables(kind: str, k: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Gains and cumulative gains.

    Returns:
        ``gain``, shape ``(k + 1,)``: entry ``b`` is the gain with ``b`` candidates ahead, entry k is
        0; ``cumulative``, shape ``(k + 1,)``: entry ``b`` is the sum of the first ``b`` gains.
    """
    of_rank = _kind(kind).gain
    assert of_rank is not None  # noqa: S101 - parse_metric gave a k
    gain = _checked(kind, np.array([*map(of_rank, range(1, k + 1)), 0.0]), k + 1)
    cumulative = np.append(0.0, np.cumsum(gain[:k]))
    gain.setflags(write=False)
    cumulative.setflags(write=False)
    return gain, cumulative


def _checked(kind: str, values: NDArray[np.float64], n: int) -> NDArray[np.float64]:
    if values.shape != (n,) or not np.isfinite(values).all():
        raise MethodError(
            f"metric {kind!r} ({METRIC_KINDS.origin(kind)}) gave values of shape {values.shape}, "
            f"{int((~np.isfinite(values)).sum())} of them not finite; expected {n} finite numbers."
        )
    return values


def gains(kind: str, k: int) -> NDArray[np.float64]:
    """Gains of a metric with a cut-off at ranks 1 to k: float64, shape ``(k,)``."""
    return _tables(kind, k)[0][:-1]


def metric_per_user(
    outcomes: Outcomes,
    metric: str,
    *,
    policy: Policy = "keep",
    ties: TieRule = "expected",
) -> NDArray[np.float64]:
    """One metric for every user.

    Args:
        outcomes: n outcomes.
        metric: ``auc``, or ``ndcg@k``, ``mrr@k``, ``hr@k`` with any k >= 1, or one of a plugin.
        policy: for outcomes with answer slots, whether an invalid answer keeps its slot or later
            answers close up; no effect otherwise, nor on AUC.
        ties: ``expected`` over random tie-breaking (the protocol), or, for diagnosis, the best
            (``optimistic``) or worst (``pessimistic``) order of the tie group.

    Returns:
        float64, shape ``(n,)``, those of this package in [0, 1]. A positive that is not ranked has 0 at every k; for AUC
        all candidates that are not ranked form one tie group at the bottom. AUC without any other
        candidate is 0.5.

    Raises:
        ConfigError: unknown metric or policy.
        MethodError: a plugin's metric is not finite, or has not one value per user.
    """
    kind, k = parse_metric(metric)
    if policy not in ("keep", "close"):
        raise unknown_name("slot policy", policy, ("keep", "close"))
    if ties not in ("expected", "optimistic", "pessimistic"):
        raise unknown_name("tie rule", ties, ("expected", "optimistic", "pessimistic"))
    whole = _kind(kind).values
    if whole is not None:
        return _checked(kind, np.asarray(whole(outcomes, ties), dtype=np.float64), len(outcomes))
    gain, cumulative = _tables(kind, k)
    ranks = outcomes.rank_keep if policy == "keep" else outcomes.rank_close
    if ranks is not None:
        ahead = np.where(ranks > 0, ranks.astype(np.int64) - 1, k)
        return gain.take(ahead, mode="clip")
    better, tied = outcomes.n_better, outcomes.n_tied
    if ties == "pessimistic":
        better = better + tied
    # np.take with "clip" is several times faster than indexing with a clipped copy.
    values: NDArray[np.float64] = gain.take(better, mode="clip")
    if ties == "expected":
        rows = np.flatnonzero(tied)
        if len(rows):
            first, group = better[rows], tied[rows] + 1
            total = cumulative.take(first + group, mode="clip") - cumulative.take(
                first, mode="clip"
            )
            values[rows] = total / group
    if not outcomes.ranked.all():
        values[~outcomes.ranked] = 0.0
    return values


def metric_means(
    outcomes: Outcomes,
    metrics: Sequence[str] = METRICS,
    *,
    policy: Policy = "keep",
    ties: TieRule = "expected",
) -> dict[str, float]:
    """Mean of each metric over users, from the histogram of distinct outcomes.

    Raises:
        ConfigError: no users, or an unknown metric.
    """
    if not len(outcomes):
        raise ConfigError("no users to average over; expected at least one outcome.")
    distinct, counts = outcomes.histogram()
    return {
        metric: weighted_mean(metric_per_user(distinct, metric, policy=policy, ties=ties), counts)
        for metric in metrics
    }


def weighted_mean(values: NDArray[np.float64], counts: NDArray[np.int64]) -> float:
    """Mean of ``values`` with integer weights; exact when all values are equal.

    The sum is rounded once, whatever the order: a product of BLAS depends on the processor.
    """
    if values.min() == values.max():
        return float(values[0])
    return math.fsum((values * counts).tolist()) / int(counts.sum())


def random_row(n_candidates: ArrayLike, metrics: Sequence[str] = METRICS) -> dict[str, float]:
    """Expected metrics of a scorer that knows nothing, without running one.

    Args:
        n_candidates: number of candidates (the positive included), >= 1, the same for all users or
            one per user (then the mean over users is given).
        metrics: metric names.

    Returns:
        Metric name to expected value; for 30 candidates NDCG@1 is 1/30 and AUC 0.5.

    Raises:
        ConfigError: a number of candidates below 1, or an unknown metric.
    """
    sizes = np.atleast_1d(np.asarray(n_candidates))
    if sizes.dtype.kind not in "iu" or sizes.ndim != 1 or not len(sizes) or sizes.min() < 1:
        raise ConfigError(f"n_candidates is {n_candidates!r}; expected integers >= 1.")
    sizes = sizes.astype(np.int32)
    constant = Outcomes(np.zeros_like(sizes), sizes - 1, sizes, np.ones(len(sizes), dtype=np.bool_))
    return metric_means(constant, metrics)
