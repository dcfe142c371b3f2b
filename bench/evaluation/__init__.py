"""Scores to metrics: ranks with ties, per-user metrics, intervals, paired tests.

The only producer of figures in this package. It knows no data, no protocol and no method: NumPy and
SciPy in, numbers out. Start at :func:`rank_outcomes`, then :func:`summarise`.
"""

from bench.evaluation.corrections import CORRECTIONS, Correction, adjust
from bench.evaluation.effects import EQUIVALENCE_BOUND
from bench.evaluation.intervals import MetricSummary, bootstrap_interval, summarise
from bench.evaluation.metrics import METRICS, Metric, metric_means, metric_per_user, random_row
from bench.evaluation.outcomes import Outcomes
from bench.evaluation.rank_intervals import RankInterval, rank_intervals
from bench.evaluation.ranks import rank_outcomes
from bench.evaluation.resampling import (
    McNemarTest,
    PairedBootstrap,
    SignFlipTest,
    mcnemar,
    paired_bootstrap,
    sign_flip_pairs,
    sign_flip_test,
)
from bench.evaluation.seeds import SeedComparison, compare_seeds
from bench.evaluation.slots import SlotCounts, slot_counts
from bench.evaluation.stars import StarVerdict, beats_reference, star_family
from bench.evaluation.ties import TieReport, tie_report

__all__ = [
    "CORRECTIONS",
    "EQUIVALENCE_BOUND",
    "METRICS",
    "Correction",
    "McNemarTest",
    "Metric",
    "MetricSummary",
    "Outcomes",
    "PairedBootstrap",
    "RankInterval",
    "SeedComparison",
    "SignFlipTest",
    "SlotCounts",
    "StarVerdict",
    "TieReport",
    "adjust",
    "beats_reference",
    "bootstrap_interval",
    "compare_seeds",
    "mcnemar",
    "metric_means",
    "metric_per_user",
    "paired_bootstrap",
    "random_row",
    "rank_intervals",
    "rank_outcomes",
    "sign_flip_pairs",
    "sign_flip_test",
    "slot_counts",
    "star_family",
    "summarise",
    "tie_report",
]
