"""Corrections of p-values for the number of comparisons that feed one table."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from bench.errors import ConfigError, ResultError, unknown_name

__all__ = ["CORRECTIONS", "Correction", "adjust"]

Correction = Literal["holm", "bh", "none"]

CORRECTIONS: Sequence[str] = get_args(Correction)
"""Names of the corrections: Holm (family-wise error), Benjamini-Hochberg (false discoveries), none."""


def adjust(p_values: ArrayLike, method: Correction = "holm") -> NDArray[np.float64]:
    """Adjust the p-values of one family; an adjusted value is compared with alpha itself.

    Args:
        p_values: shape ``(m,)``, each in [0, 1]; m >= 0, all comparisons of the family.
        method: ``"holm"`` controls the chance of any false positive under every dependence (Holm
            1979, step-down); ``"bh"`` the expected share of false ones among the positives, for
            exploratory grids (Benjamini & Hochberg 1995, step-up); ``"none"`` returns them as they
            are.

    Returns:
        float64, shape ``(m,)``, in the order given, in [0, 1].

    Raises:
        ConfigError: an unknown method.
        ResultError: not a vector, or a value outside [0, 1] or NaN.
    """
    if method not in CORRECTIONS:
        raise unknown_name("correction", str(method), CORRECTIONS)
    p = np.asarray(p_values, dtype=np.float64)
    if p.ndim != 1:
        raise ConfigError(f"p-values of shape {p.shape}; expected a vector.")
    bad = ~((p >= 0.0) & (p <= 1.0))
    if bad.any():
        raise ResultError(
            f"{int(bad.sum())} of {len(p)} p-values are outside [0, 1], the first is "
            f"{p[bad][0]}; expected probabilities. A test that has no answer has p = 1."
        )
    m = len(p)
    if method == "none" or m == 0:
        return p.copy()
    order = np.argsort(p, kind="stable")
    if method == "holm":
        stepped = np.maximum.accumulate(p[order] * np.arange(m, 0, -1))
    else:
        scaled = p[order] * m / np.arange(1, m + 1)
        stepped = np.minimum.accumulate(scaled[::-1])[::-1]
    adjusted = np.empty(m)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
