"""How large a difference is: relative change, wins and losses, d_z, what could have been found."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import special

__all__ = [
    "EQUIVALENCE_BOUND",
    "Counts",
    "counts",
    "is_constant",
    "minimum_detectable",
    "settle",
    "standardised",
]

EQUIVALENCE_BOUND = 0.005
"""Differences smaller than this in both directions are of no interest."""

# Averages over seeds of equal values may differ in their last bits; no metric difference of
# interest is anywhere near this size.
_NOISE = 1e-12

# z(0.975) + z(0.80): the limit of the exact factor for many degrees of freedom.
_NORMAL_FACTOR = 1.959963984540054 + 0.8416212335729143
_NORMAL_DF = 1e6

Counts = tuple[int, int, int]
"""Users for whom the first method is better, equal, worse."""


def settle(d: NDArray[np.float64]) -> NDArray[np.float64]:
    """Per-user differences with rounding noise below 1e-12 set to exactly 0."""
    return np.where(np.abs(d) < _NOISE, 0.0, d)


def is_constant(d: NDArray[np.float64]) -> bool:
    """Whether all differences are the same number, but for rounding."""
    return bool(d.max() - d.min() < _NOISE)


def counts(d: NDArray[np.float64]) -> Counts:
    """Wins, ties and losses of per-user differences."""
    wins, losses = int((d > 0).sum()), int((d < 0).sum())
    return wins, len(d) - wins - losses, losses


def standardised(mean: float, sd: float) -> float:
    """Cohen's d_z, ``mean(d) / sd(d)``: 0 for no difference, infinite for one without spread."""
    if mean == 0.0:
        return 0.0
    return mean / sd if sd > 0.0 else math.copysign(math.inf, mean)


def minimum_detectable(error: float, df: float) -> float:
    """Smallest true difference that a two-sided t-test at 5 % finds with a chance of 80 %.

    The difference is ``error`` times the noncentrality at which t with ``df`` degrees of freedom
    exceeds its critical value in 80 % of cases; for many degrees of freedom 2.80 standard errors. The
    root of an estimated variance is too small on average, by the mean of ``sqrt(chi2 / df)``; with the
    few degrees of freedom that three seeds leave this matters, and is divided out.

    Args:
        error: estimated standard error of the difference, >= 0.
        df: degrees of freedom, > 0; infinite is allowed.
    """
    if error == 0.0:
        return 0.0
    if not math.isfinite(error):
        return math.inf
    if df > _NORMAL_DF:
        return _NORMAL_FACTOR * error
    critical = float(special.stdtrit(df, 0.975))
    bias = math.sqrt(2.0 / df) * math.exp(math.lgamma((df + 1.0) / 2.0) - math.lgamma(df / 2.0))
    return float(special.nctdtrinc(df, 0.2, critical)) * error / bias
