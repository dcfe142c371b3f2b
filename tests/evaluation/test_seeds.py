"""Comparisons over users and seeds, corrections and stars, against independent values."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bench.errors import ConfigError, ResultError
from bench.evaluation import adjust, beats_reference, compare_seeds, star_family

p_lists = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=40)


@given(p_lists, st.sampled_from([("holm", "holm"), ("bh", "fdr_bh")]))
@settings(max_examples=200, deadline=None)
def test_adjusted_p_values_equal_statsmodels(p_values, names):
    ours, theirs = names
    expected = multipletests(p_values, method=theirs)[1]
    assert adjust(p_values, ours) == pytest.approx(expected, rel=1e-10, abs=1e-300)


def test_holm_by_hand():
    assert adjust([0.01, 0.04, 0.03]).tolist() == pytest.approx([0.03, 0.06, 0.06])
    assert adjust([0.01, 0.04, 0.03], "bh").tolist() == pytest.approx([0.03, 0.04, 0.04])
    assert adjust([0.2, 0.1], "none").tolist() == [0.2, 0.1]
    assert adjust([]).tolist() == []


def test_bad_families_are_refused():
    with pytest.raises(ConfigError, match="holm"):
        adjust([0.1], "homl")
    with pytest.raises(ResultError, match="1 of 2"):
        adjust([0.1, math.nan])
    with pytest.raises(ConfigError, match="vector"):
        adjust([[0.1]])


@given(
    st.lists(
        st.tuples(st.sampled_from([0.0, 0.5, 1.0]), st.sampled_from([0.0, 0.2, 1.0])),
        min_size=2,
        max_size=40,
    )
)
@settings(max_examples=100, deadline=None)
def test_methods_with_one_seed_get_the_paired_t_test(pairs):
    a, b = np.array(pairs).T
    ours = compare_seeds(a[None], b[None], trainable_a=False, trainable_b=False)
    d = a - b
    assert (ours.wins, ours.losses, ours.ties) == ((d > 0).sum(), (d < 0).sum(), (d == 0).sum())
    assert not ours.this_checkpoint
    if d.min() == d.max():
        assert ours.p == (1.0 if d[0] == 0 else 0.0)
        assert ours.ci95 == pytest.approx((d[0], d[0]), abs=1e-15)
        return
    theirs = stats.ttest_rel(a, b)
    interval = theirs.confidence_interval()
    assert ours.p == ours.p_users == pytest.approx(theirs.pvalue, rel=1e-10, abs=1e-12)
    assert ours.ci95 == pytest.approx((interval.low, interval.high), abs=1e-12)
    assert ours.d_z == pytest.approx(d.mean() / d.std(ddof=1), abs=1e-12)


def test_the_error_is_that_of_users_and_seeds():
    """Against the two-way layout computed cell by cell, and Satterthwaite's formula."""
    rng = np.random.default_rng(3)
    a = rng.random((3, 50)) + rng.normal(0, 0.2, (3, 1))
    b = rng.random((4, 50)) + rng.normal(0, 0.2, (4, 1))
    ours = compare_seeds(a, b)
    d = a.mean(axis=0) - b.mean(axis=0)
    squares, weights = [(d.var(ddof=1) / 50, 49)], d.var(ddof=1) / 50
    for values in (a, b):
        n_seeds = len(values)
        rows, columns = values.mean(axis=1), values.mean(axis=0)
        cells = [
            (values[s, u] - rows[s] - columns[u] + values.mean()) ** 2
            for s in range(n_seeds)
            for u in range(50)
        ]
        residual = sum(cells) / ((n_seeds - 1) * 49)
        between = rows.var(ddof=1) / n_seeds
        part = between - residual / (50 * n_seeds)
        assert part > 0
        squares.append((between, n_seeds - 1))
        weights += part
    df = weights**2 / sum(square**2 / free for square, free in squares)
    assert ours.error == pytest.approx(math.sqrt(weights), rel=1e-12)
    assert ours.df == pytest.approx(df, rel=1e-12)
    assert ours.p == pytest.approx(2 * stats.t.sf(abs(d.mean()) / math.sqrt(weights), df))
    assert ours.p_users == pytest.approx(stats.ttest_1samp(d, 0).pvalue, rel=1e-10)
    assert ours.p > ours.p_users
    # t at the minimum detectable difference exceeds its critical value in 80 % of cases, with the
    # error free of the bias of a root: E sqrt(chi2_df / df).
    unbiased = ours.error / (stats.chi(df).mean() / math.sqrt(df))
    ratio = ours.minimum_detectable / unbiased
    assert stats.nct.sf(stats.t.ppf(0.975, df), df, ratio) == pytest.approx(0.8, abs=1e-6)


def test_seeds_that_agree_add_nothing_and_one_trained_seed_is_a_checkpoint():
    rng = np.random.default_rng(4)
    a, b = rng.random((1, 80)), rng.random((1, 80))
    copies = compare_seeds(np.repeat(a, 3, axis=0), np.repeat(b, 2, axis=0))
    assert copies.p == pytest.approx(stats.ttest_rel(a[0], b[0]).pvalue, rel=1e-10)
    assert not copies.this_checkpoint
    assert compare_seeds(a, b).this_checkpoint
    assert compare_seeds(a, b, trainable_a=False).this_checkpoint
    mixed = compare_seeds(np.vstack([a, a + 0.5]), b)
    assert mixed.this_checkpoint
    assert mixed.p == mixed.p_users


def test_sign_must_hold_for_every_pair_of_seeds():
    users = np.linspace(0, 1, 20)
    low, high, middle = users, users + 0.2, users + 0.1
    assert compare_seeds(np.array([high, high]), np.array([low, middle])).same_sign
    crossed = compare_seeds(np.array([high, low]), np.array([middle, middle]))
    assert not crossed.same_sign
    assert crossed.seed_range == pytest.approx((-0.1, 0.1))
    assert not compare_seeds(np.array([low]), np.array([low])).same_sign


def test_degenerate_comparisons_have_defined_answers():
    same = np.random.default_rng(0).random((3, 30))
    identical = compare_seeds(same, same[[2, 0, 1]])
    assert (identical.difference, identical.p_users, identical.d_z) == (0.0, 1.0, 0.0)
    assert identical.p == 1.0
    assert identical.ties == 30
    one_user = compare_seeds(np.array([[1.0], [0.9]]), np.array([[0.0], [0.1]]))
    assert (one_user.p, one_user.ci95) == (1.0, (-math.inf, math.inf))
    assert one_user.minimum_detectable == math.inf
    assert not one_user.equivalent
    shifted = compare_seeds(np.full((2, 5), 0.3), np.full((2, 5), 0.1))
    assert (shifted.p, shifted.d_z) == (0.0, math.inf)
    assert shifted.relative == pytest.approx(2.0)
    zero = compare_seeds(np.full((2, 5), 0.3), np.zeros((2, 5)))
    assert zero.relative is None
    only_seeds = compare_seeds(
        np.array([[0.2] * 5, [0.4] * 5]), np.zeros((1, 5)), trainable_b=False
    )
    assert only_seeds.df == 1.0
    assert only_seeds.p == pytest.approx(stats.ttest_1samp([0.2, 0.4], 0).pvalue, rel=1e-10)


@pytest.mark.parametrize(
    ("a", "b", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "3 and 4 users"),
        (np.zeros(3), np.zeros((2, 3)), r"first method has shape \(3,\)"),
        (np.zeros((2, 3)), np.zeros((0, 3)), "second method has shape"),
        (np.array([[0.0, np.nan]]), np.zeros((1, 2)), "1 values that are not finite"),
    ],
)
def test_matrices_that_do_not_fit_are_refused(a, b, message):
    with pytest.raises(ResultError, match=message):
        compare_seeds(a, b)


def test_equivalence_needs_the_whole_interval_inside_the_bound():
    rng = np.random.default_rng(1)
    base = rng.random((1, 2000))
    near = base + rng.normal(0, 0.02, base.shape)
    far = base + rng.normal(0, 0.5, base.shape)
    fixed = {"trainable_a": False, "trainable_b": False}
    assert compare_seeds(near, base, **fixed).equivalent
    vague = compare_seeds(far, base, **fixed)
    assert vague.p > 0.05
    assert not vague.equivalent


def test_wilcoxon_is_secondary_and_equals_scipy():
    rng = np.random.default_rng(2)
    a, b = rng.random((1, 60)), rng.random((1, 60))
    assert compare_seeds(a, b).wilcoxon_p is None
    ours = compare_seeds(a, b, wilcoxon=True).wilcoxon_p
    assert ours == pytest.approx(stats.wilcoxon(a[0], b[0]).pvalue, rel=1e-10)
    assert compare_seeds(a, a, wilcoxon=True).wilcoxon_p == 1.0


def _methods(gap: float, seeds: int = 3, n: int = 400) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    users = rng.random(n)
    return {
        name: users + mean + rng.normal(0, 0.1, (seeds, n))
        for name, mean in (("best", gap), ("middle", 0.0), ("last", -0.3))
    }


def test_star_goes_to_the_method_that_beats_every_rival():
    trainable = {"best": True, "middle": True, "last": True}
    verdicts = star_family({"t": _methods(0.2)}, trainable)
    assert [key for key, v in verdicts.items() if v.star] == [("t", "best")]
    best = verdicts["t", "best"]
    methods = _methods(0.2)
    p = max(compare_seeds(methods["best"], methods[m]).p for m in ("middle", "last"))
    assert best.p == p
    assert best.rival == "middle"
    assert "best" in verdicts["t", "last"].reason
    close = star_family({"t": _methods(0.001)}, trainable)
    assert not any(v.star for v in close.values())


def test_star_is_corrected_over_the_targets_of_the_table():
    trainable = dict.fromkeys(("best", "middle", "last"), True)
    alone = star_family({"t": _methods(0.2)}, trainable)["t", "best"]
    values = {"t": _methods(0.2), "u": _methods(0.0), "v": _methods(0.0)}
    family = star_family(values, trainable)["t", "best"]
    assert family.family_size == 3
    assert family.adjusted_p == pytest.approx(3 * alone.p)
    # A target whose test is missing counts in full.
    values["v"] = {name: matrix[:1] for name, matrix in values["v"].items()}
    missing = star_family(values, trainable)
    assert missing["t", "best"].adjusted_p == pytest.approx(3 * alone.p)
    leader = next(v for (t, _), v in missing.items() if t == "v" and v.rival)
    assert leader.p is None
    assert leader.p_users is not None


@pytest.mark.parametrize("lonely", ["best", "last"])
def test_one_seed_of_the_method_or_of_any_trainable_rival_forbids_the_star(lonely):
    methods = _methods(0.2)
    methods[lonely] = methods[lonely][:1]
    verdict = star_family({"t": methods}, dict.fromkeys(methods, True))["t", "best"]
    assert not verdict.star
    assert verdict.reason == f"one training seed of {lonely}"
    assert verdict.p is None
    assert verdict.p_users < 0.05
    fixed = {**dict.fromkeys(methods, True), lonely: False}
    assert star_family({"t": methods}, fixed)["t", "best"].star


def test_crossing_seeds_lonely_methods_and_equal_leaders_earn_no_star():
    users = np.random.default_rng(6).random(500)
    values = {"a": np.array([users + 0.4, users + 0.1]), "b": np.array([users + 0.2, users])}
    trainable = {"a": True, "b": True}
    crossed = star_family({"t": values}, trainable, alpha=0.999999)["t", "a"]
    assert not crossed.star
    assert "all pairs of seeds" in crossed.reason
    assert star_family({"t": {"a": values["a"]}}, trainable)["t", "a"].reason == "no rival"
    equal = star_family({"t": {"a": values["a"], "b": values["a"]}}, trainable)
    assert not any(v.star for v in equal.values())
    with pytest.raises(ConfigError, match="'b'"):
        star_family({"t": values}, {"a": True})


def test_the_reference_mark_is_corrected_over_all_its_comparisons():
    methods = _methods(0.2)
    trainable = dict.fromkeys(methods, True)
    verdicts = beats_reference({"t": methods}, trainable, "middle")
    assert set(verdicts) == {("t", "best"), ("t", "last")}
    best, last = verdicts["t", "best"], verdicts["t", "last"]
    assert best.star
    assert best.family_size == 2
    raw = [compare_seeds(methods[m], methods["middle"]).p for m in ("best", "last")]
    expected = multipletests(raw, method="holm")[1]
    assert [best.adjusted_p, last.adjusted_p] == pytest.approx(expected.tolist(), rel=1e-10)
    assert last.reason == "not above middle"
    methods["middle"] = methods["middle"][:1]
    lonely = beats_reference({"t": methods}, trainable, "middle")["t", "best"]
    assert (lonely.star, lonely.p) == (False, None)
