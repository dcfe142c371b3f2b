"""How much the ties of a run could matter."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from bench.errors import ConfigError
from bench.evaluation.metrics import METRICS, Policy, metric_means
from bench.evaluation.outcomes import Outcomes

__all__ = ["TieFigures", "TieReport", "tie_report"]

# A larger gap between the best and the worst order of ties earns a footnote.
FOOTNOTE_GAP = 0.001


@dataclass(frozen=True, slots=True)
class TieFigures:
    """Mean of one metric under three ways to order ties.

    Attributes:
        optimistic: the positive first in its tie group.
        expected: the mean over random orders: the reported value.
        pessimistic: the positive last in its tie group.
    """

    optimistic: float
    expected: float
    pessimistic: float

    @property
    def gap(self) -> float:
        """Optimistic minus pessimistic, >= 0."""
        return self.optimistic - self.pessimistic


@dataclass(frozen=True, slots=True)
class TieReport:
    """Ties and unranked positives of a run.

    Attributes:
        share_tied: share of users whose positive is ranked and tied with another candidate.
        share_unranked: share of users whose positive is not ranked.
        share_empty: share of users for whom nothing at all is ranked.
        metrics: figures by metric.
    """

    share_tied: float
    share_unranked: float
    share_empty: float
    metrics: Mapping[str, TieFigures]

    @property
    def needs_footnote(self) -> bool:
        """Whether the order of ties moves some metric by more than 0.001."""
        return any(figures.gap > FOOTNOTE_GAP for figures in self.metrics.values())


def tie_report(
    outcomes: Outcomes, metrics: Sequence[str] = METRICS, *, policy: Policy = "keep"
) -> TieReport:
    """Bound what any way to break ties could have reported.

    Raises:
        ConfigError: no users, or an unknown metric.
    """
    n = len(outcomes)
    if not n:
        raise ConfigError("no users to report on; expected at least one outcome.")
    best = metric_means(outcomes, metrics, policy=policy, ties="optimistic")
    mean = metric_means(outcomes, metrics, policy=policy)
    worst = metric_means(outcomes, metrics, policy=policy, ties="pessimistic")
    lost = ~outcomes.ranked
    return TieReport(
        share_tied=int(np.count_nonzero(outcomes.ranked & (outcomes.n_tied > 0))) / n,
        share_unranked=int(np.count_nonzero(lost)) / n,
        share_empty=int(np.count_nonzero(lost & (outcomes.n_better == 0))) / n,
        metrics={m: TieFigures(best[m], mean[m], worst[m]) for m in metrics},
    )
