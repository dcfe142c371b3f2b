"""Tests by resampling against exact enumeration, scipy and statsmodels; rank intervals."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.contingency_tables import mcnemar as statsmodels_mcnemar

from bench.errors import ConfigError, ResultError
from bench.evaluation import (
    compare_seeds,
    mcnemar,
    paired_bootstrap,
    rank_intervals,
    sign_flip_pairs,
    sign_flip_test,
)
from bench.evaluation.multinomial import stream
from bench.mixing import words

grades = st.sampled_from([-1.0, -0.5, 0.0, 0.25, 0.5, 1.0])


@given(st.lists(grades, min_size=1, max_size=10))
@settings(max_examples=60, deadline=None)
def test_small_samples_are_exact_and_equal_scipy(d):
    ours = sign_flip_test(np.array(d))
    assert ours.exact
    assert ours.n_flips == 2 ** len(d)
    hits = sum(
        abs(sum(s * x for s, x in zip(signs, d, strict=True))) >= abs(sum(d)) - 1e-12
        for signs in itertools.product((1, -1), repeat=len(d))
    )
    assert ours.p == hits / 2 ** len(d)
    if len(d) > 1:
        theirs = stats.permutation_test(
            (np.array(d),), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert ours.p == pytest.approx(theirs.pvalue, abs=1e-10)


def test_random_flips_count_the_observed_assignment():
    d = np.full(100, 0.3)
    test = sign_flip_test(d, 999)
    assert (test.hits, test.p, test.exact) == (0, 1 / 1000, False)
    assert sign_flip_test(np.zeros(50), 200).p == 1.0


def test_random_flips_approach_the_t_test_and_repeat_with_their_seed():
    d = np.random.default_rng(0).normal(0.06, 1.0, 1000)
    test = sign_flip_test(d, 20_000, seed=4)
    assert test == sign_flip_test(d, 20_000, seed=4)
    assert test.hits != sign_flip_test(d, 20_000, seed=5).hits
    assert test.p == pytest.approx(stats.ttest_1samp(d, 0).pvalue, abs=4 * math.sqrt(0.05 / 20_000))


@pytest.mark.parametrize("n", [13, 64, 1001])
def test_all_pairs_equal_the_single_tests(n):
    values = np.random.default_rng(n).choice([0.0, 0.5, 1.0], (4, n))
    values[3] = values[0]
    p = sign_flip_pairs(values, 500, seed=2)
    assert np.array_equal(p, p.T)
    assert (np.diag(p) == 1.0).all()
    assert p[0, 3] == 1.0
    # The signs are the bits of the words, whole words per assignment, most significant bit first.
    row = -(-n // 64)
    drawn = words(stream(b"sign flips", 2), np.arange(500 * row)).tolist()
    bits = np.array([[int(bit) for bit in f"{word:064b}"] for word in drawn]).reshape(500, -1)
    signs = 1 - 2 * bits[:, :n]
    for i, j in itertools.combinations(range(4), 2):
        doubled = np.rint(2 * (values[i] - values[j])).astype(int)
        hits = (np.abs(signs @ doubled) >= abs(doubled.sum())).sum()
        assert p[i, j] == (hits + 1) / 501
        if n > 13:
            assert p[i, j] == sign_flip_test(values[i] - values[j], 500, seed=2).p


def test_blocks_do_not_change_the_result(monkeypatch):
    values = np.random.default_rng(1).random((3, 300))
    whole = sign_flip_pairs(values, 400)
    monkeypatch.setattr("bench.evaluation.resampling._BLOCK_BYTES", 8 * 300 * 7)
    assert np.array_equal(sign_flip_pairs(values, 400), whole)


def test_one_method_has_no_pairs():
    assert sign_flip_pairs(np.ones((1, 5))).tolist() == [[1.0]]


def test_bootstrap_below_500_users_is_scipys_bca():
    d = np.random.default_rng(3).exponential(1.0, 60) - 0.8
    ours = paired_bootstrap(d, 40_000)
    theirs = stats.bootstrap(
        (d,), np.mean, n_resamples=40_000, method="BCa", vectorized=True
    ).confidence_interval
    assert ours.method == "bca"
    # Both are random: within a twentieth of the interval's width.
    width = theirs.high - theirs.low
    assert ours.ci95 == pytest.approx((theirs.low, theirs.high), abs=0.05 * width)


def test_bootstrap_of_many_users_agrees_with_the_t_test():
    d = np.random.default_rng(5).choice([-1.0, 0.0, 0.37, 1.0], 4000, p=[0.1, 0.7, 0.1, 0.1])
    ours, t = paired_bootstrap(d, 20_000, seed=1), compare_seeds(d[None], np.zeros((1, 4000)))
    assert ours.method == "percentile"
    assert ours.difference == pytest.approx(t.difference)
    assert ours.ci95 == pytest.approx(t.ci95, abs=0.04 * (t.ci95[1] - t.ci95[0]))
    assert ours.p == pytest.approx(t.p, abs=1e-3)
    assert paired_bootstrap(d, 500) == paired_bootstrap(d, 500)


def test_bootstrap_of_degenerate_differences_is_defined():
    assert paired_bootstrap(np.zeros(9)).ci95 == (0.0, 0.0)
    assert paired_bootstrap(np.zeros(9)).p == 1.0
    constant = paired_bootstrap(np.full(9, 0.5), 99)
    assert (constant.ci95, constant.p) == ((0.5, 0.5), 0.01)
    one = paired_bootstrap(np.array([0.5]))
    assert (one.p, one.ci95) == (1.0, (-math.inf, math.inf))
    skewed = paired_bootstrap(np.array([0.0] * 30 + [1.0]), 200)
    assert 0.0 <= skewed.ci95[0] <= skewed.ci95[1] <= 1.0


@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
@settings(max_examples=60, deadline=None)
def test_mcnemar_equals_statsmodels(pairs):
    a, b = np.array(pairs, dtype=float).T
    ours = mcnemar(a, b)
    table = [[np.sum((a == i) & (b == j)) for j in (1, 0)] for i in (1, 0)]
    assert (ours.only_a, ours.only_b) == (table[0][1], table[1][0])
    assert ours.p == pytest.approx(statsmodels_mcnemar(table, exact=True).pvalue, abs=1e-10)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: sign_flip_test(np.array([])), ResultError, "non-empty"),
        (lambda: sign_flip_test(np.array([np.nan])), ResultError, "finite"),
        (lambda: sign_flip_test(np.ones(3), 0), ConfigError, "n_flips=0"),
        (lambda: sign_flip_pairs(np.ones(3)), ResultError, r"\(3,\)"),
        (lambda: sign_flip_pairs(np.ones((2, 3)), seed=-1), ConfigError, "seed=-1"),
        (lambda: paired_bootstrap(np.ones(3), 0), ConfigError, "n_resamples=0"),
        (lambda: paired_bootstrap(np.ones((3, 1))), ResultError, r"\(3, 1\)"),
        (lambda: mcnemar(np.array([0.5]), np.array([0.0])), ResultError, "1 values other than"),
        (lambda: mcnemar(np.ones(2), np.ones(3)), ResultError, "2 and 3 users"),
    ],
)
def test_bad_inputs_are_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def _three(seeds=2):
    rng = np.random.default_rng(0)
    users = rng.random(800)
    return {
        name: users + mean + rng.normal(0, 0.05, (seeds, 800))
        for name, mean in (("a", 0.5), ("b", 0.0), ("c", 0.0))
    }


def test_rank_intervals_follow_the_significant_differences():
    found = rank_intervals(_three(), dict.fromkeys("abc", True))
    assert str(found["a"]) == "1"
    assert str(found["b"]) == str(found["c"]) == "2-3"
    assert found["a"].worse == ("b", "c")
    assert found["c"].better == ("a",)
    only = rank_intervals({"a": _three()["a"]}, {"a": True})
    assert str(only["a"]) == "1"


def test_one_seed_leaves_ranks_open_unless_checkpoints_are_meant():
    values, trainable = _three(seeds=1), dict.fromkeys("abc", True)
    assert {str(r) for r in rank_intervals(values, trainable).values()} == {"1-3"}
    assert str(rank_intervals(values, trainable, checkpoints=True)["a"]) == "1"
    assert str(rank_intervals(values, dict.fromkeys("abc", False))["a"]) == "1"
    with pytest.raises(ConfigError, match="unknown method 'a'"):
        rank_intervals(values, {})
