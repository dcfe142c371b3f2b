"""Scores to metrics: ranks with ties, per-user metrics, intervals, paired tests.

The only producer of figures in this package. It knows no data, no protocol and no method: NumPy and
SciPy in, numbers out. Start at :func:`rank_outcomes`, then :func:`summarise`.
"""

from bench.evaluation.intervals import MetricSummary, bootstrap_interval, summarise
from bench.evaluation.metrics import METRICS, metric_means, metric_per_user, random_row
from bench.evaluation.outcomes import Outcomes
from bench.evaluation.paired import PairedTest, paired_t_test
from bench.evaluation.ranks import rank_outcomes
from bench.evaluation.slots import SlotCounts, slot_counts
from bench.evaluation.ties import TieReport, tie_report

__all__ = [
    "METRICS",
    "MetricSummary",
    "Outcomes",
    "PairedTest",
    "SlotCounts",
    "TieReport",
    "bootstrap_interval",
    "metric_means",
    "metric_per_user",
    "paired_t_test",
    "random_row",
    "rank_outcomes",
    "slot_counts",
    "summarise",
    "tie_report",
]
