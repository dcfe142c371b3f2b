"""The paired t-test on per-user metrics."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import special

from bench.errors import ResultError

__all__ = ["PairedTest", "paired_t_test"]

# z(0.975) + z(0.80): two-sided test at 5 %, power 80 %.
_POWER_FACTOR = 1.959963984540054 + 0.8416212335729143


@dataclass(frozen=True, slots=True)
class PairedTest:
    """Result of a two-sided paired t-test of ``mean(a - b) = 0``.

    Attributes:
        difference: ``mean(a) - mean(b)``.
        ci95: 95 % t interval of the difference; unbounded for a single user.
        p: two-sided p-value.
        t: t statistic.
        df: degrees of freedom, n - 1.
        n: number of users.
        sd: standard deviation of the per-user differences (ddof 1; 0 for a single user).
        wins: users with a > b.
        losses: users with a < b.
    """

    difference: float
    ci95: tuple[float, float]
    p: float
    t: float
    df: int
    n: int
    sd: float
    wins: int
    losses: int

    @property
    def ties(self) -> int:
        """Users with a = b."""
        return self.n - self.wins - self.losses

    @property
    def minimum_detectable(self) -> float:
        """Smallest true difference found with 80 % power at the 5 % level: 2.80 sd / sqrt(n)."""
        return float("inf") if self.n < 2 else _POWER_FACTOR * self.sd / float(np.sqrt(self.n))


def paired_t_test(a: NDArray[np.float64], b: NDArray[np.float64]) -> PairedTest:
    """Test whether two methods have equal means over the same users.

    Defined for every input: equal vectors give p = 1 and [0, 0]; a constant difference other than 0
    has no spread and gives p = 0 and a point interval; one user gives p = 1 and an unbounded
    interval.

    Args:
        a: float64, shape ``(n,)``, metric of the first method per user.
        b: float64, shape ``(n,)``, metric of the second method for the same users in that order.

    Returns:
        The test; equal to ``scipy.stats.ttest_rel`` where that is defined.

    Raises:
        ResultError: the vectors differ in length, are empty or not finite.
    """
    a = np.asarray(a, dtype=np.float64)
    b = np.asarray(b, dtype=np.float64)
    if a.ndim != 1 or a.shape != b.shape or not len(a):
        raise ResultError(
            f"a paired test of vectors of shapes {a.shape} and {b.shape}; expected two vectors of "
            "equal, positive length over the same users."
        )
    d = a - b
    if not np.isfinite(d).all():
        raise ResultError(
            f"a paired test with {int((~np.isfinite(d)).sum())} differences that are not finite; "
            "expected one finite metric per user and method."
        )
    n = len(d)
    mean = float(d.mean())
    wins, losses = int((d > 0).sum()), int((d < 0).sum())
    if n == 1:
        unbounded = (-float("inf"), float("inf"))
        return PairedTest(mean, unbounded, 1.0, 0.0, 0, 1, 0.0, wins, losses)
    if d.min() == d.max():
        value = float(d[0])
        t = 0.0 if value == 0 else float(np.copysign(np.inf, value))
        p = 1.0 if value == 0 else 0.0
        return PairedTest(value, (value, value), p, t, n - 1, n, 0.0, wins, losses)
    sd = float(d.std(ddof=1))
    error = sd / float(np.sqrt(n))
    t = mean / error
    p = float(2.0 * special.stdtr(n - 1, -abs(t)))
    half = float(special.stdtrit(n - 1, 0.975)) * error
    return PairedTest(mean, (mean - half, mean + half), p, t, n - 1, n, sd, wins, losses)
