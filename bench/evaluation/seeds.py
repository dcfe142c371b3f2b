"""Comparing methods, not checkpoints: the variance between training seeds joins that of the users.

A paired test on one trained model each asks whether *these checkpoints* differ. If retraining moves
the mean by a standard deviation of .003, two identical methods are then called different in a quarter
of experiments with 20,000 users. Here the standard error of a difference is

    SE^2 = Var_users(d) / n  +  V_a  +  V_b,      V_m = Var_seeds(mean of m) / S_m  -  I_m

with d the per-user difference of seed averages. The residual of user and seed, I_m, is contained in
the users' term already and therefore subtracted from the seeds' (never below 0): the estimator of a
two-way layout of users and seeds, both random. Degrees of freedom are Satterthwaite's (1946).
Simulated with 3 seeds each, the chance of a false difference at the 5 % level is between 3 and 5 %,
whatever the shares of users, seeds and residual.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.errors import ResultError
from bench.evaluation.effects import (
    EQUIVALENCE_BOUND,
    counts,
    is_constant,
    minimum_detectable,
    settle,
    standardised,
)

__all__ = ["SeedComparison", "as_seed_matrix", "compare_seeds"]


@dataclass(frozen=True, slots=True)
class SeedComparison:
    """Two-sided paired comparison of two methods over users and training seeds.

    Attributes:
        difference: mean of a minus mean of b; seeds are averaged per user, then users.
        ci95: 95 % t interval of the difference, with the standard error behind ``p``.
        p: two-sided p-value with the variance of users and seeds. If ``this_checkpoint`` is set
            the seeds' part cannot be known and ``p`` equals ``p_users``.
        p_users: two-sided p-value of the users alone: "these checkpoints".
        df: degrees of freedom of ``p``.
        n: number of users.
        seeds: training seeds of a and of b.
        this_checkpoint: a trainable method has one seed, so the test is about its checkpoint only.
        same_sign: every seed of one method lies above every seed of the other.
        seed_range: smallest and largest difference over all pairs of seeds.
        error: standard error of the difference.
        error_users: the users' part of it.
        sd: standard deviation over users of the seed-averaged differences (0 for one user).
        wins: users for whom a is better.
        ties: users without a difference.
        losses: users for whom b is better.
        relative: difference over the mean of b; None if that mean is 0.
        d_z: difference over ``sd``.
        minimum_detectable: smallest true difference found with 80 % power at the 5 % level.
        bound: the equivalence bound.
        wilcoxon_p: Wilcoxon's signed-rank test, if it was asked for. It is about the median, not
            the mean, and has many false positives with thousands of users: a secondary figure.
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    p_users: float
    df: float
    n: int
    seeds: tuple[int, int]
    this_checkpoint: bool
    same_sign: bool
    seed_range: tuple[float, float]
    error: float
    error_users: float
    sd: float
    wins: int
    ties: int
    losses: int
    relative: float | None
    d_z: float
    minimum_detectable: float
    bound: float = EQUIVALENCE_BOUND
    wilcoxon_p: float | None = None

    @property
    def equivalent(self) -> bool:
        """Whether the whole interval lies within the bound: equal for practical purposes."""
        return -self.bound < self.ci95[0] and self.ci95[1] < self.bound


def compare_seeds(
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    *,
    trainable_a: bool = True,
    trainable_b: bool = True,
    bound: float = EQUIVALENCE_BOUND,
    wilcoxon: bool = False,
) -> SeedComparison:
    """Compare two methods over the same users, each with its own training seeds.

    With one seed each (or methods without training) it is the paired t-test. Seeds of different
    methods share nothing and are not paired. Defined for every input: without any variance p is 1
    for no difference and 0 for any other; one user gives p = 1 and an unbounded interval.

    Args:
        a: float64, shape ``(S_a, n)``: the metric per seed and user, in [0, 1].
        b: float64, shape ``(S_b, n)``: likewise, for the same users in the same order.
        trainable_a: whether another training seed would change ``a``.
        trainable_b: likewise for ``b``.
        bound: differences within ``+-bound`` are of no interest.
        wilcoxon: also compute Wilcoxon's signed-rank test of the seed-averaged differences.

    Raises:
        ResultError: not two matrices over the same users, empty or not finite.
    """
    a, b = as_seed_matrix(a, "the first method"), as_seed_matrix(b, "the second method")
    if a.shape[1] != b.shape[1]:
        raise ResultError(
            f"a comparison over {a.shape[1]} and {b.shape[1]} users; expected the same users in the "
            "same order. Restrict both methods to the users they share."
        )
    n = a.shape[1]
    seeds = (len(a), len(b))
    d = settle(a.mean(axis=0) - b.mean(axis=0))
    difference = math.fsum(d.tolist()) / n
    low, high = _seed_range(a, b)
    unknown = (trainable_a and seeds[0] == 1) or (trainable_b and seeds[1] == 1)
    sd = 0.0 if n == 1 or is_constant(d) else float(d.std(ddof=1))
    parts = [(sd**2 / n, sd**2 / n, n - 1)]
    parts += [_seed_part(matrix) for matrix in (a, b) if len(matrix) > 1]
    error_users = math.inf if n == 1 else sd / math.sqrt(n)
    users_only = unknown or n == 1 or len(parts) == 1
    error, df = (error_users, float(n - 1)) if users_only else _combine(parts)
    p, interval = _t_test(difference, error, df)
    base = float(b.mean())
    wins, ties, losses = counts(d)
    return SeedComparison(
        difference=difference,
        ci95=interval,
        p=p,
        p_users=_t_test(difference, error_users, n - 1)[0],
        df=df,
        n=n,
        seeds=seeds,
        this_checkpoint=unknown,
        same_sign=low > 0.0 or high < 0.0,
        seed_range=(low, high),
        error=error,
        error_users=error_users,
        sd=sd,
        wins=wins,
        ties=ties,
        losses=losses,
        relative=difference / base if base != 0.0 else None,
        d_z=standardised(difference, sd),
        minimum_detectable=minimum_detectable(error, df),
        bound=bound,
        wilcoxon_p=_wilcoxon(d) if wilcoxon else None,
    )


def as_seed_matrix(values: NDArray[np.float64], owner: str) -> NDArray[np.float64]:
    """Check the metric of one method: float64, shape ``(S, n)``, S and n >= 1, finite.

    Raises:
        ResultError: naming ``owner`` and what is wrong.
    """
    values = np.asarray(values, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise ResultError(
            f"metric of {owner} has shape {values.shape}; expected (seeds, users), at least one of "
            "each."
        )
    bad = int((~np.isfinite(values)).sum())
    if bad:
        raise ResultError(
            f"metric of {owner} has {bad} values that are not finite; expected one finite metric "
            "per seed and user."
        )
    return values


def _seed_range(a: NDArray[np.float64], b: NDArray[np.float64]) -> tuple[float, float]:
    """Smallest and largest difference of means over all pairs of seeds."""
    ends = settle(np.subtract.outer(a.mean(axis=1), b.mean(axis=1)))
    return float(ends.min()), float(ends.max())


def _seed_part(values: NDArray[np.float64]) -> tuple[float, float, int]:
    """What the seeds of one method add to the squared standard error.

    Returns:
        The part itself, the mean square it comes from (whose uncertainty counts), and its degrees of
        freedom.
    """
    n_seeds, n = values.shape
    means = values.mean(axis=1)
    between = 0.0 if is_constant(means) else float(means.var(ddof=1)) / n_seeds
    if n == 1:
        return between, between, n_seeds - 1
    residual = values - values.mean(axis=0) - (means - means.mean())[:, None]
    square = float(np.square(residual).sum()) / ((n_seeds - 1) * (n - 1))
    return max(0.0, between - square / (n * n_seeds)), between, n_seeds - 1


def _combine(parts: list[tuple[float, float, int]]) -> tuple[float, float]:
    """Standard error and Satterthwaite's degrees of freedom of a sum of variance components.

    The residuals that were subtracted are known to thousands of degrees of freedom: only the mean
    squares of users and seeds are uncertain.
    """
    total = math.fsum(part for part, _, _ in parts)
    if total == 0.0:
        return 0.0, float(parts[0][2])
    spread = math.fsum((square / total) ** 2 / df for _, square, df in parts)
    # If a part was cut at 0 its mean square may exceed the total.
    return math.sqrt(total), max(1.0 / spread, float(min(df for _, _, df in parts)))


def _t_test(difference: float, error: float, df: float) -> tuple[float, tuple[float, float]]:
    """Two-sided p-value and 95 % interval; see :func:`compare_seeds` for the degenerate cases."""
    if not math.isfinite(error):
        return 1.0, (-math.inf, math.inf)
    if error == 0.0:
        return (1.0 if difference == 0.0 else 0.0), (difference, difference)
    p = float(2.0 * special.stdtr(df, -abs(difference) / error))
    half = float(special.stdtrit(df, 0.975)) * error
    return p, (difference - half, difference + half)


def _wilcoxon(d: NDArray[np.float64]) -> float:
    """Two-sided signed-rank test with zeros left out (Wilcoxon 1945); 1 without a difference."""
    from scipy import stats

    return float(stats.wilcoxon(d).pvalue) if np.any(d) else 1.0
