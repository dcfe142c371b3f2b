"""Metrics against hand-made values, brute force over permutations, and other tools."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.evaluation import METRICS, Outcomes, metric_means, metric_per_user, rank_outcomes
from bench.evaluation.metrics import parse_metric, random_row


def outcome_of(*rows):
    """Outcomes from rows of (n_better, n_tied, n_candidates)."""
    better, tied, total = (np.array(column, np.int32) for column in zip(*rows, strict=True))
    return Outcomes(better, tied, total, np.ones(len(rows), bool))


def gain(metric, rank, n):
    """Definition of a metric for one 1-based rank among n."""
    if metric == "auc":
        return (n - rank) / (n - 1)
    kind, k = metric.split("@")
    if rank > int(k):
        return 0.0
    return {"hr": 1.0, "ndcg": 1 / math.log2(rank + 1), "mrr": 1 / rank}[kind]


# Printed with four digits in the textbook form of the definitions.
@pytest.mark.parametrize(
    ("metric", "gains"),
    [
        ("ndcg@5", [1, 0.6309, 0.5, 0.4307, 0.3869, 0]),
        ("mrr@5", [1, 0.5, 0.3333, 0.25, 0.2, 0]),
        ("hr@5", [1, 1, 1, 1, 1, 0]),
        ("ndcg@1", [1, 0, 0, 0, 0, 0]),
    ],
)
def test_gains_by_rank(metric, gains):
    outcomes = outcome_of(*((rank, 0, 30) for rank in range(6)))
    np.testing.assert_allclose(metric_per_user(outcomes, metric), gains, atol=5e-5)


@given(
    st.integers(2, 6).flatmap(
        lambda c: st.tuples(
            st.lists(st.integers(0, 2), min_size=c, max_size=c), st.integers(0, c - 1)
        )
    )
)
@settings(max_examples=60, deadline=None)
def test_expectation_over_ties_equals_the_mean_over_all_orders(problem):
    scores, position = problem
    n = len(scores)
    outcomes = rank_outcomes(np.array([scores], np.float32), np.array([position]))
    ranks = []
    for order in itertools.permutations(range(n)):
        # A sort that is stable on this order breaks the ties in one of the possible ways.
        ranked = sorted(order, key=lambda j: -scores[j])
        ranks.append(ranked.index(position) + 1)
    for metric in METRICS:
        expected = math.fsum(gain(metric, rank, n) for rank in ranks) / len(ranks)
        assert metric_per_user(outcomes, metric)[0] == pytest.approx(expected, abs=1e-12)
        best = max(gain(metric, rank, n) for rank in ranks)
        worst = min(gain(metric, rank, n) for rank in ranks)
        assert metric_per_user(outcomes, metric, ties="optimistic")[0] == pytest.approx(best)
        assert metric_per_user(outcomes, metric, ties="pessimistic")[0] == pytest.approx(worst)


@pytest.mark.parametrize("c", [2, 5, 30, 100, 1000])
def test_constant_scorer_earns_exactly_the_random_row(c):
    n = 7
    constant = rank_outcomes(np.full((n, c), 0.25, np.float32), np.arange(n) % c)
    assert metric_means(constant) == random_row(c)
    for metric in METRICS:
        assert (metric_per_user(constant, metric) == random_row(c)[metric]).all()


@pytest.mark.parametrize("c", [1, 2, 10, 30, 101])
def test_random_row_equals_the_mean_over_ranks(c):
    row = random_row(c)
    for metric in METRICS:
        if metric == "auc":
            assert row[metric] == 0.5
            continue
        mean = math.fsum(gain(metric, rank, c) for rank in range(1, c + 1)) / c
        assert row[metric] == pytest.approx(mean, abs=1e-14)


def test_random_row_of_30_candidates_is_the_published_one():
    row = random_row(30)
    expected = {"ndcg@1": 0.0333, "ndcg@3": 0.0710, "ndcg@5": 0.0983, "mrr@5": 0.0761}
    assert {m: round(row[m], 4) for m in expected} == expected
    assert row["hr@5"] == float(Fraction(5, 30))


def test_random_row_of_different_sizes_is_the_mean_over_users():
    mixed = random_row([10, 20, 20])
    for metric in METRICS:
        mean = (random_row(10)[metric] + 2 * random_row(20)[metric]) / 3
        assert mixed[metric] == pytest.approx(mean, abs=1e-15)


@pytest.mark.parametrize("bad", [0, -3, 2.5, [30, 0], [], [[30]]])
def test_random_row_refuses_impossible_sizes(bad):
    with pytest.raises(ConfigError, match="integers >= 1"):
        random_row(bad)


def test_oracle_earns_one_and_anti_oracle_zero_in_every_metric():
    n, c = 50, 30
    position = np.arange(n) % c
    values = np.random.default_rng(0).random((n, c)).astype(np.float32)
    values[np.arange(n), position] = 2.0
    assert metric_means(rank_outcomes(values, position)) == dict.fromkeys(METRICS, 1.0)
    values[np.arange(n), position] = -1.0
    assert metric_means(rank_outcomes(values, position)) == dict.fromkeys(METRICS, 0.0)


def test_a_user_without_other_candidates_has_auc_one_half():
    assert metric_per_user(outcome_of((0, 0, 1)), "auc").tolist() == [0.5]


def test_unranked_positive_gets_no_chance_hits():
    values = np.full((1, 30), np.nan, np.float32)
    values[0, :5] = [5, 4, 3, 2, 1]
    outcomes = rank_outcomes(values, np.array([17]), may_leave_unranked=True)
    for metric in METRICS[:-1]:
        assert metric_per_user(outcomes, metric).tolist() == [0.0]
    assert metric_per_user(outcomes, "auc")[0] == pytest.approx(12 / 29)


@given(st.lists(st.integers(0, 29), min_size=1, max_size=200))
@settings(max_examples=200, deadline=None)
def test_mrr_stays_inside_the_bounds_that_ndcg_sets(ahead):
    """All averages come from one rank histogram, so NDCG at 1, 3 and 5 bounds MRR@5."""
    means = metric_means(outcome_of(*((b, 0, 30) for b in ahead)))
    n1, n3, n5 = means["ndcg@1"], means["ndcg@3"], means["ndcg@5"]
    a, b = n3 - n1, n5 - n3
    log = math.log2
    low = n1 + a * (1 / 3) / (1 / log(4)) + b * (1 / 5) / (1 / log(6))
    high = n1 + a * (1 / 2) / (1 / log(3)) + b * (1 / 4) / (1 / log(5))
    assert low - 1e-12 <= means["mrr@5"] <= high + 1e-12
    assert n1 <= n3 <= n5
    assert means["mrr@5"] <= n5 + 1e-12
    assert (means["hr@1"] * len(ahead)) == pytest.approx(round(means["hr@1"] * len(ahead)))


@given(
    st.lists(
        st.tuples(st.integers(0, 40), st.integers(0, 40), st.integers(0, 5), st.booleans()),
        min_size=1,
        max_size=60,
    )
)
@settings(max_examples=150, deadline=None)
def test_means_from_the_histogram_equal_means_over_users(rows):
    better = np.array([r[0] for r in rows], np.int32)
    tied = np.array([r[1] for r in rows], np.int32)
    ranked = np.array([r[3] for r in rows])
    total = better + tied + 1 + np.where(ranked, [r[2] for r in rows], 0).astype(np.int32)
    outcomes = Outcomes(better, tied, total, ranked)
    for metric, mean in metric_means(outcomes).items():
        per_user = metric_per_user(outcomes, metric)
        assert mean == pytest.approx(float(per_user.mean()), abs=1e-13)
        assert ((per_user >= 0) & (per_user <= 1)).all()


@pytest.mark.parametrize("bad", ["ndcg", "ndcg@0", "ndcg@-1", "map@5", "NDCG@5", "mrr@5 ", "auc@5"])
def test_unknown_metrics_are_refused_with_a_suggestion(bad):
    with pytest.raises(ConfigError, match="unknown metric"):
        parse_metric(bad)


def test_unknown_policies_are_refused():
    outcomes = outcome_of((0, 0, 30))
    with pytest.raises(ConfigError, match="keep"):
        metric_per_user(outcomes, "hr@1", policy="drop")
    with pytest.raises(ConfigError, match="optimistic"):
        metric_per_user(outcomes, "hr@1", ties="random")
    with pytest.raises(ConfigError, match="no users"):
        metric_means(outcomes.take(slice(0, 0)))
