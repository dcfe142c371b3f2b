"""Printed figures: cells, rows, tables; names of metrics and numbers as people print them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass

__all__ = ["STORED_UNIT", "Cell", "ReportedRow", "ReportedTable", "metric_name", "parse_cell"]

STORED_UNIT = 1e-9
"""Unit of figures with full precision: what is left is the rounding of sums."""

_METRIC = re.compile(
    r"(ndcg|n|hr|h|hits?|hit rate|hit ratio|recall|r|mrr|m)[\s_]*@\s*([1-9][0-9]{0,3})", re.I
)
_KINDS = {"n": "ndcg", "ndcg": "ndcg", "m": "mrr", "mrr": "mrr"}
_NUMBER = re.compile(
    r"[<≤~≈]?\s*([+-]?(?:\d+[.,]\d*|[.,]\d+|\d+)(?:[eE][+-]?\d{1,2})?)\s*(%?)\s*"
    r"((?:±|\+/?-|\(|\[).*|[*^†‡§∗⋆★↑↓\s]*)"
)


@dataclass(frozen=True, slots=True)
class Cell:
    """One printed figure.

    Attributes:
        value: as a share of one (percentages are divided by 100).
        unit: one unit in its last printed place, in the same scale.
        text: as printed.
    """

    value: float
    unit: float
    text: str


@dataclass(frozen=True, slots=True)
class ReportedRow:
    """The figures of one method on one target.

    Attributes:
        target: domain, or the group of columns; "" = not said.
        method: as printed, without marks.
        line: 1-based line of the file; 0 = not from a file.
        figures: by metric name of this package, or ``mrr`` for one without a cut-off.
        n_users: users averaged over; None = not said.
        n_seeds: training seeds averaged over; None = not said.
        share_tied: share of users whose positive is tied; None = not known.
        n_candidates: candidates per user; None = not said or not the same for all.
    """

    target: str
    method: str
    line: int
    figures: Mapping[str, Cell]
    n_users: int | None = None
    n_seeds: int | None = None
    share_tied: float | None = None
    n_candidates: int | None = None

    @property
    def is_random(self) -> bool:
        """Whether this is the row of a scorer that knows nothing."""
        return re.match(r"random(?:\b|$)", self.method, re.I) is not None


@dataclass(frozen=True, slots=True)
class ReportedTable:
    """All rows of a source.

    Attributes:
        source: file or run, as messages name it.
        rows: in the order of the source.
        unread: ``(line, what)`` for cells under a metric that are neither figures nor missing.
    """

    source: str
    rows: tuple[ReportedRow, ...]
    unread: tuple[tuple[int, str], ...] = ()


def metric_name(text: str) -> str | None:
    """The metric that a header cell names, for example ``N@5`` or ``NDCG@5 (%) ↑``; else None.

    With one relevant item per user Recall@k is HR@k. ``MRR`` alone is the one without a cut-off.
    """
    bare = re.sub(r"\(%\)|[↑↓*]", "", text).strip()
    if match := _METRIC.fullmatch(bare):
        return f"{_KINDS.get(match[1].lower(), 'hr')}@{match[2]}"
    return bare.lower() if bare.lower() in {"mrr", "auc"} else None


def parse_cell(text: str, *, percent: bool = False) -> Cell | None:
    """A printed figure with its unit in the last place; marks and spreads behind it are dropped."""
    match = _NUMBER.fullmatch(text.strip())
    if match is None:
        return None
    number = match[1].replace(",", ".")
    mantissa, _, exponent = number.lower().partition("e")
    decimals = len(mantissa.partition(".")[2]) - int(exponent or 0)
    value = float(number) * (scale := 0.01 if match[2] or percent else 1.0)
    if not math.isfinite(value):
        return None
    return Cell(value, 10.0**-decimals * scale, text)
