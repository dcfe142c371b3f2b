"""Results as plain values for JSON, and as words."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bench.evaluation import SeedComparison

__all__ = [
    "CORRECTION_NAMES",
    "count_text",
    "difference_text",
    "finite",
    "number_text",
    "p_figure",
    "p_text",
    "share_text",
]

# Apart from the corrections themselves: the command line reads it before any heavy import.
CORRECTION_NAMES: Mapping[str, str] = {
    "holm": "Holm",
    "bh": "Benjamini-Hochberg",
    "none": "no correction",
}
"""Corrections for the number of comparisons, by their names in :mod:`bench.evaluation`."""


def count_text(n: int, noun: str) -> str:
    """A number with its noun: ``1 run``, ``2,000 runs``."""
    return f"{n:,} {noun}{'' if n == 1 else 's'}"


def p_figure(p: float) -> str:
    """A p-value for a column of a page: ``0.012``, ``< 1e-4``."""
    return "< 1e-4" if p < 1e-4 else f"{p:.2g}"


def share_text(share: float | None) -> str:
    """A share as percent with two digits: ``0.54 %``, ``14 %``, ``97 %``, ``170 %``; "" for None."""
    if share is None:
        return ""
    return f"{float(f'{100 * share:.2g}'):g} %"


def finite(value: Any) -> Any:
    """A nested value with infinite and undefined numbers as None, tuples as lists."""
    if isinstance(value, dict):
        return {key: finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def p_text(p: float | None) -> str:
    """A p-value for people."""
    if p is None:
        return "-"
    return "< 0.0001" if p < 1e-4 else f"{p:.4f}"


def number_text(value: float, form: str = "+.4f") -> str:
    """A number in the given form; a dash if it is not finite."""
    return format(value, form) if math.isfinite(value) else "-"


def difference_text(test: SeedComparison) -> str:
    """A difference with its interval."""
    low, high = test.ci95
    return f"{number_text(test.difference)} [{number_text(low)}, {number_text(high)}]"
