"""Bounds on reported averages: against histograms that exist, and the closed form for the usual columns."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.evaluation.bounds import (
    Reported,
    explain,
    feasible_range,
    grim_applies,
    grim_consistent,
    is_feasible,
    random_tolerance,
)

USUAL = ("ndcg@1", "ndcg@3", "ndcg@5", "mrr@5")


def averages(ranks, metrics) -> dict[str, float]:
    """Metrics of 1-based ranks, written from their definitions."""
    result = {}
    for metric in metrics:
        kind, _, cut = metric.partition("@")
        k = int(cut) if cut else math.inf
        gain = {"hr": lambda r: 1.0, "ndcg": lambda r: 1 / math.log2(r + 1), "mrr": lambda r: 1 / r}
        result[metric] = sum(gain[kind](r) for r in ranks if r <= k) / len(ranks)
    return result


def rounded(figures, decimals=4) -> dict[str, Reported]:
    unit = 10.0**-decimals
    return {name: Reported(round(value, decimals), unit) for name, value in figures.items()}


def closed_form(n1, n3, n5) -> tuple[float, float]:
    """MRR@5 that NDCG@1, @3 and @5 allow when the shares may sum to less than one."""
    a, b = n3 - n1, n5 - n3
    log = math.log2
    low = n1 + a * (1 / 3) / (1 / 2) + b * (1 / 5) / (1 / log(6))
    high = n1 + a * (1 / 2) / (1 / log(3)) + b * (1 / 4) / (1 / log(5))
    return low, high


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=60),
    st.lists(
        st.sampled_from(["hr@1", "hr@5", "hr@10", "ndcg@10", "mrr@10", "mrr", *USUAL]),
        min_size=1,
        unique=True,
    ),
    st.integers(2, 5),
)
def test_averages_of_real_ranks_are_never_called_impossible(ranks, metrics, decimals):
    figures = rounded(averages(ranks, metrics), decimals)
    assert is_feasible(figures)
    assert is_feasible(figures, n_candidates=30)
    assert explain(figures) is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_the_range_of_mrr_is_the_closed_form(weights):
    # Half of all users miss, so that the sum of shares does not bind.
    shares = np.array(weights) + 1e-3
    shares = shares / shares.sum() / 2
    ndcg = np.array([1 / math.log2(r + 1) for r in range(1, 6)])
    n1, n3, n5 = ndcg[0] * shares[0], ndcg[:3] @ shares[:3], ndcg @ shares[:5]
    figures = {
        "ndcg@1": Reported(float(n1)),
        "ndcg@3": Reported(float(n3)),
        "ndcg@5": Reported(float(n5)),
    }
    low, high = feasible_range("mrr@5", figures)
    assert (low, high) == pytest.approx(closed_form(n1, n3, n5), abs=2e-5)
    outside = {**figures, "mrr@5": Reported(high + 1e-3)}
    assert not is_feasible(outside)
    assert not is_feasible({**figures, "mrr@5": Reported(low - 1e-3)})
    assert is_feasible({**figures, "mrr@5": Reported((low + high) / 2)})


def test_shares_sum_to_one():
    """The closed form lets this pass: .9 at rank 1 leaves .1 of the users, who gain at most .0631."""
    figures = {"ndcg@1": Reported(0.9), "ndcg@3": Reported(0.97)}
    assert not is_feasible(figures)
    assert is_feasible({**figures, "ndcg@3": Reported(0.9 + 0.1 / math.log2(3))})


def test_one_figure_bounds_another():
    ranged = feasible_range("ndcg@5", {"hr@5": Reported(0.5)})
    assert ranged == pytest.approx((0.5 / math.log2(6), 0.5), abs=1e-5)
    assert feasible_range("mrr@5", {}) == (0.0, 1.0)
    assert feasible_range("mrr@5", {"hr@1": Reported(1.5)}) is None


def test_few_candidates_narrow_the_range():
    """Of two candidates every ranked positive is at rank 1 or 2."""
    figures = {"hr@1": Reported(0.5), "hr@5": Reported(1.0), "ndcg@5": Reported(0.5 + 0.5 / 2)}
    assert is_feasible(figures)
    assert not is_feasible(figures, n_candidates=2)


@pytest.mark.parametrize(
    ("figures", "metrics", "metric", "uncut"),
    [
        ({"ndcg@1": 0.30, "ndcg@3": 0.28, "mrr@5": 0.29}, ("ndcg@1", "ndcg@3"), "ndcg@3", False),
        ({"ndcg@5": 0.3084, "mrr@5": 0.3136}, ("ndcg@5", "mrr@5"), "mrr@5", True),
        ({"hr@1": 0.2, "ndcg@1": 0.21}, ("hr@1", "ndcg@1"), "ndcg@1", False),
        ({"hr@5": 1.2, "ndcg@5": 0.3}, ("hr@5",), "hr@5", False),
        ({"auc": -0.1}, ("auc",), "auc", False),
        # SASRec on MovieLens-1M in the reference paper: below what the ranks allow, cut or not.
        (
            {"ndcg@1": 0.2754, "ndcg@3": 0.3743, "ndcg@5": 0.4339, "mrr@5": 0.3662},
            USUAL,
            "mrr@5",
            False,
        ),
        # GRU4Rec on Sports there: above; an MRR over all ranks explains it.
        (
            {"ndcg@1": 0.1664, "ndcg@3": 0.2635, "ndcg@5": 0.3139, "mrr@5": 0.2776},
            USUAL,
            "mrr@5",
            True,
        ),
    ],
)
def test_the_smallest_conflict_is_named(figures, metrics, metric, uncut):
    conflict = explain({name: Reported(value, 1e-4) for name, value in figures.items()})
    assert conflict is not None
    assert conflict.metrics == metrics
    assert conflict.metric == metric
    assert conflict.uncut is uncut
    assert not conflict.low <= conflict.value <= conflict.high


def test_uncut_mrr_is_really_possible():
    """What an MRR over all ranks reports under the name MRR@5 is recognised as such."""
    ranks = [1] * 10 + [2] * 10 + [6] * 40
    figures = averages(ranks, ["ndcg@1", "ndcg@3", "ndcg@5"])
    figures["mrr@5"] = averages(ranks, ["mrr"])["mrr"]
    conflict = explain(rounded(figures))
    assert conflict is not None
    assert conflict.uncut


@pytest.mark.parametrize(
    ("figures", "message"),
    [
        ({"precision@5": Reported(0.1)}, "unknown metric 'precision@5'"),
        ({"ndcg@5": Reported(math.nan)}, "expected a finite value"),
        ({"ndcg@5": Reported(0.1, -1.0)}, "slack of 0 or more"),
    ],
)
def test_wrong_input_is_refused(figures, message):
    with pytest.raises(ConfigError, match=message):
        is_feasible(figures)


def test_grim_accepts_exactly_the_shares_of_whole_users():
    n = 28
    possible = {round(hits / n, 2) for hits in range(n + 1)}
    for cents in range(101):
        assert grim_consistent(cents / 100, 0.005, n) is (cents / 100 in possible)


def test_grim_applies_where_users_are_coarser_than_rounding():
    assert grim_applies(5e-5, 9_999)
    assert not grim_applies(5e-5, 10_000)
    assert not grim_applies(5e-5, 0)


def test_tolerance_of_a_random_run_covers_simulated_runs():
    rng = np.random.default_rng(5)
    n, c = 400, 30
    expected, tolerance = random_tolerance("ndcg@5", c, n)
    gain = np.array([1 / math.log2(r + 1) if r <= 5 else 0.0 for r in range(1, c + 1)])
    assert expected == pytest.approx(gain.mean(), abs=1e-12)
    means = gain[rng.integers(0, c, (2_000, n))].mean(axis=1)
    outside = np.mean(np.abs(means - expected) > tolerance)
    assert 0 < outside < 0.01  # three standard errors: about 0.3 %
    assert random_tolerance("ndcg@5", c, None, slack=1e-4) == (expected, 1e-4)
