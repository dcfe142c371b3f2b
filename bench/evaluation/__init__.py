"""Scores to metrics: ranks with ties, per-user metrics, intervals, paired tests.

The only producer of figures in this package. It knows no data, no protocol and no method: NumPy and
SciPy in, numbers out. Start at :func:`rank_outcomes`, then :func:`summarise`.
"""

from bench.evaluation.corrections import CORRECTIONS, Correction, adjust
from bench.evaluation.effects import EQUIVALENCE_BOUND
from bench.evaluation.intervals import MetricSummary, bootstrap_interval, summarise
from bench.evaluation.metrics import METRICS, metric_means, metric_per_user, random_row
from bench.evaluation.outcomes import Outcomes
from bench.evaluation.paired import PairedTest, paired_t_test
from bench.evaluation.ranks import rank_outcomes
from bench.evaluation.seeds import SeedComparison, compare_seeds
from bench.evaluation.slots import SlotCounts, slot_counts
from bench.evaluation.stars import StarVerdict, beats_reference, star_family
from bench.evaluation.ties import TieReport, tie_report

__all__ = [
    "CORRECTIONS",
    "EQUIVALENCE_BOUND",
    "METRICS",
    "Correction",
    "MetricSummary",
    "Outcomes",
    "PairedTest",
    "SeedComparison",
    "SlotCounts",
    "StarVerdict",
    "TieReport",
    "adjust",
    "beats_reference",
    "bootstrap_interval",
    "compare_seeds",
    "metric_means",
    "metric_per_user",
    "paired_t_test",
    "random_row",
    "rank_outcomes",
    "slot_counts",
    "star_family",
    "summarise",
    "tie_report",
]
