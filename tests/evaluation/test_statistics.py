"""Intervals, the paired test and the tie report."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bench.errors import ConfigError
from bench.evaluation import (
    METRICS,
    Outcomes,
    bootstrap_interval,
    compare_seeds,
    metric_means,
    metric_per_user,
    rank_outcomes,
    summarise,
    tie_report,
)


def random_outcomes(n, seed=0, levels=None, c=30):
    rng = np.random.default_rng(seed)
    values = rng.random((n, c)) if levels is None else rng.integers(0, levels, (n, c))
    return rank_outcomes(values.astype(np.float32), rng.integers(0, c, n))


def test_summaries_hold_the_means_of_the_metrics():
    outcomes = random_outcomes(3000, levels=6)
    summaries = summarise(outcomes)
    assert tuple(summaries) == METRICS
    for metric, summary in summaries.items():
        assert summary.mean == pytest.approx(metric_per_user(outcomes, metric).mean(), abs=1e-13)
        assert summary.ci95[0] < summary.mean < summary.ci95[1]
        assert summary.n == 3000


def test_interval_equals_the_bootstrap_over_users():
    """The multinomial over distinct values is the user-level bootstrap, drawn differently."""
    outcomes = random_outcomes(500)
    values = metric_per_user(outcomes, "ndcg@5")
    theirs = stats.bootstrap(
        (values,),
        np.mean,
        n_resamples=20_000,
        method="percentile",
        batch=500,
        rng=np.random.default_rng(1),
    )
    low, high = bootstrap_interval(values, n_resamples=20_000)
    assert low == pytest.approx(theirs.confidence_interval.low, abs=theirs.standard_error / 20)
    assert high == pytest.approx(theirs.confidence_interval.high, abs=theirs.standard_error / 20)


def test_interval_has_the_width_of_the_central_limit():
    values = np.repeat([0.0, 1.0], [70_000, 30_000])
    low, high = bootstrap_interval(values, n_resamples=20_000)
    half = 1.96 * math.sqrt(0.3 * 0.7 / 100_000)
    assert (high - low) / 2 == pytest.approx(half, rel=0.03)
    assert (high + low) / 2 == pytest.approx(0.3, abs=half / 20)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    rng = np.random.default_rng(4)
    hits = 0
    for i in range(400):
        sample = (rng.random(300) < 0.2).astype(float)
        low, high = bootstrap_interval(sample, seed=i, n_resamples=500)
        hits += low <= 0.2 <= high
    # 400 draws at 95 %: standard deviation 1.1 points.
    assert 0.91 <= hits / 400 <= 0.98


def test_grouping_many_distinct_values_keeps_the_interval():
    values = np.random.default_rng(0).random(6000)
    fine = bootstrap_interval(np.round(values, 3), n_resamples=4000)  # 1001 values: not grouped
    grouped = bootstrap_interval(values, n_resamples=4000)
    assert grouped == pytest.approx(fine, abs=1e-3)
    assert grouped[1] - grouped[0] == pytest.approx(2 * 1.96 * values.std() / 6000**0.5, rel=0.05)


def test_intervals_are_reproducible_and_independent_of_order_and_of_other_metrics():
    outcomes = random_outcomes(800)
    shuffled = outcomes.take(np.random.default_rng(1).permutation(800))
    assert summarise(outcomes) == summarise(shuffled)
    assert summarise(outcomes, ["mrr@5"])["mrr@5"] == summarise(outcomes)["mrr@5"]
    assert summarise(outcomes, seed=1) != summarise(outcomes)


def test_global_generators_are_left_alone():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    summarise(random_outcomes(50))
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


@pytest.mark.parametrize(("values", "point"), [([0.3], 0.3), ([0.1] * 7, 0.1), ([0.0] * 3, 0.0)])
def test_no_spread_gives_a_point(values, point):
    assert bootstrap_interval(np.array(values)) == (point, point)


def test_one_user_and_constant_scorers_are_summarised():
    one = summarise(random_outcomes(1))
    assert all(s.ci95 == (s.mean, s.mean) for s in one.values())
    constant = summarise(random_outcomes(40, levels=1))
    assert all(s.ci95 == (s.mean, s.mean) for s in constant.values())
    assert constant["auc"].mean == 0.5


@pytest.mark.parametrize(
    "options", [{"n_resamples": 0}, {"level": 1.0}, {"level": 0.0}, {"seed": -1}]
)
def test_bad_bootstrap_arguments_are_refused(options):
    with pytest.raises(ConfigError, match="expected"):
        bootstrap_interval(np.array([0.0, 1.0]), **options)


def test_nothing_to_summarise_is_refused():
    empty = random_outcomes(3).take(slice(0, 0))
    for function in (summarise, tie_report):
        with pytest.raises(ConfigError, match="no users"):
            function(empty)
    with pytest.raises(ConfigError, match="0 values"):
        bootstrap_interval(np.array([]))


def test_one_user_decides_nothing():
    test = compare_seeds(np.ones((1, 1)), np.zeros((1, 1)))
    assert test.p == 1.0
    assert test.ci95 == (-math.inf, math.inf)
    assert test.minimum_detectable == math.inf


def test_minimum_detectable_difference_has_the_promised_power():
    rng = np.random.default_rng(8)
    n, sd, found = 400, 0.5, 0
    mdd = 2.8015852 * sd / n**0.5
    pilot = compare_seeds(rng.normal(0, sd, (1, 100_000)), np.zeros((1, 100_000)))
    assert pilot.minimum_detectable * (100_000 / n) ** 0.5 == pytest.approx(mdd, rel=0.01)
    for _ in range(1000):
        found += compare_seeds(rng.normal(mdd, sd, (1, n)), np.zeros((1, n))).p < 0.05
    assert 0.76 <= found / 1000 <= 0.84


def test_tie_report_brackets_the_reported_value():
    outcomes = random_outcomes(2000, levels=5)
    report = tie_report(outcomes)
    assert report.needs_footnote
    assert report.share_tied == pytest.approx((outcomes.n_tied > 0).mean())
    assert report.share_unranked == report.share_empty == 0.0
    means = metric_means(outcomes)
    for metric, figures in report.metrics.items():
        assert figures.pessimistic < figures.expected < figures.optimistic
        assert figures.expected == means[metric]
        assert figures.gap == figures.optimistic - figures.pessimistic
    # HR@1 by hand: first in the group, or alone at the top.
    assert report.metrics["hr@1"].optimistic == pytest.approx((outcomes.n_better == 0).mean())
    alone = (outcomes.n_better == 0) & (outcomes.n_tied == 0)
    assert report.metrics["hr@1"].pessimistic == pytest.approx(alone.mean())


def test_tie_report_without_ties_shows_no_gap():
    report = tie_report(random_outcomes(300))
    assert not report.needs_footnote
    assert all(figures.gap == 0.0 for figures in report.metrics.values())


def test_tie_report_counts_unranked_and_empty_answers():
    values = np.array([[1, np.nan, np.nan], [np.nan] * 3, [1, 2, 2]], np.float32)
    outcomes = rank_outcomes(values, np.array([1, 1, 1]), may_leave_unranked=True)
    report = tie_report(outcomes, ["hr@1"])
    assert report.share_unranked == pytest.approx(2 / 3)
    assert report.share_empty == pytest.approx(1 / 3)
    assert report.share_tied == pytest.approx(1 / 3)
    assert report.metrics["hr@1"].optimistic == pytest.approx(1 / 3)


def test_every_metric_is_recomputed_from_stored_columns():
    outcomes = random_outcomes(500, levels=9)
    stored = {name: column.tolist() for name, column in outcomes.to_columns().items()}
    assert summarise(Outcomes.from_columns(stored)) == summarise(outcomes)
