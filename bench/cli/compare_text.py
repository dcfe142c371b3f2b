"""Tests as text: p-values, differences."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.evaluation import SeedComparison

__all__ = ["difference_text", "number_text", "p_text"]


def p_text(p: float | None) -> str:
    """A p-value for people."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def number_text(value: float, form: str = "+.4f") -> str:
    """A number in the given form; a dash where it is not finite."""
    return format(value, form) if math.isfinite(value) else "-"


def difference_text(test: SeedComparison) -> str:
    """A difference with its interval."""
    low, high = test.ci95
    return f"{number_text(test.difference)} [{number_text(low)}, {number_text(high)}]"
