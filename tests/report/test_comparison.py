"""Two runs side by side."""

from __future__ import annotations

import json

import numpy as np
import pytest
from report_runs import OPTIONS, random_outcomes
from scipy import stats
from statsmodels.stats.multitest import multipletests

from bench.errors import ConfigError, ResultError
from bench.evaluation import compare_seeds, metric_per_user
from bench.report.comparison import compare, compare_all, pairwise_record
from bench.report.contenders import contenders_of_runs, contenders_of_target
from bench.report.leaderboard import build_table


def test_the_test_is_scipys(write_run):
    outcomes = {name: random_outcomes(500, i, skill=i / 2) for i, name in enumerate("ab")}
    found = compare(*(write_run(name, o) for name, o in outcomes.items()))
    x, y = (metric_per_user(outcomes[name], "ndcg@5") for name in "ab")
    theirs = stats.ttest_rel(x, y)
    assert (found.mean, found.rival_mean) == pytest.approx((x.mean(), y.mean()), abs=1e-12)
    assert found.test.p == pytest.approx(theirs.pvalue, rel=1e-10)
    assert found.test.ci95 == pytest.approx(tuple(theirs.confidence_interval()), abs=1e-12)
    error = (x - y).std(ddof=1) / 500**0.5
    shift = found.test.minimum_detectable / error
    assert stats.nct.sf(stats.t.ppf(0.975, 499), 499, shift) == pytest.approx(0.8, abs=1e-3)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"target": "moon"}, "target"),
        ({"task": "b" * 64}, "task"),
        ({"candidates": "b" * 64}, "candidates"),
        ({"users": np.arange(1, 21)}, "users"),
    ],
)
def test_runs_that_differ_in_what_was_asked_are_refused(write_run, change, name):
    a = write_run("a", random_outcomes(20, 0))
    b = write_run("b", random_outcomes(20, 1), **change)
    with pytest.raises(ResultError, match=f"not comparable: their {name} differ"):
        compare(a, b)


def values_of(outcomes, metric="ndcg@5"):
    return metric_per_user(outcomes, metric)


def write_seeds(write_run, method, seeds, skill, n=300, **more):
    """Runs of one trained method, one per seed, and their outcomes."""
    outcomes = [random_outcomes(n, 100 * len(method) + seed, skill=skill) for seed in seeds]
    runs = [
        write_run(method, one, seed=seed, trainable=True, **more)
        for seed, one in zip(seeds, outcomes, strict=True)
    ]
    return runs, outcomes


def test_seeds_of_a_method_are_joined_and_every_pair_is_tested(write_run):
    many, ours = write_seeds(write_run, "sasrec", (0, 1, 2), 1.5)
    few, theirs = write_seeds(write_run, "gru", (0, 1), 1.2)
    fixed = write_run("knn", random_outcomes(300, 9, skill=0.0))
    contenders, notes = contenders_of_runs([fixed, *few, *many])
    assert [c.label for c in contenders] == ["sasrec", "gru", "knn"]
    assert [c.values.shape for c in contenders] == [(3, 300), (2, 300), (1, 300)]
    assert notes == []
    found = compare_all(contenders, "ndcg@5", secondary=("flips", "bootstrap", "mcnemar"))
    assert [(p.a, p.b) for p in found.pairs] == [
        ("sasrec", "gru"),
        ("sasrec", "knn"),
        ("gru", "knn"),
    ]
    expected = compare_seeds(
        np.stack([values_of(o) for o in ours]), np.stack([values_of(o) for o in theirs])
    )
    assert found.pairs[0].test == expected
    raw = [pair.test.p for pair in found.pairs]
    assert [p.adjusted_p for p in found.pairs] == pytest.approx(
        multipletests(raw, method="holm")[1].tolist(), rel=1e-10
    )
    assert set(found.pairs[0].secondary) == {"flips", "bootstrap", "mcnemar"}
    assert found.pairs[0].secondary["mcnemar"] is None
    record = json.loads(json.dumps(pairwise_record(found), allow_nan=False))
    assert record["family_size"] == 3
    assert record["pairs"][0]["seeds"] == [3, 2]


def test_a_reference_makes_the_family_its_comparisons(write_run):
    runs = [write_run(name, random_outcomes(200, i, skill=i)) for i, name in enumerate("abc")]
    contenders, _ = contenders_of_runs(runs, "ndcg@1")
    found = compare_all(contenders, "ndcg@1", reference="b", secondary=("mcnemar", "wilcoxon"))
    assert [(p.a, p.b) for p in found.pairs] == [("c", "b"), ("a", "b")]
    assert found.ranks == {}
    binary = {run.method: values_of(run.outcomes(), "ndcg@1") for run in runs}
    only_c = int(((binary["c"] == 1) & (binary["b"] == 0)).sum())
    only_b = int(((binary["c"] == 0) & (binary["b"] == 1)).sum())
    expected = stats.binomtest(only_c, only_c + only_b).pvalue
    assert found.pairs[0].secondary["mcnemar"] == pytest.approx(expected, rel=1e-10)
    with pytest.raises(ConfigError, match="unknown reference 'd'"):
        compare_all(contenders, "ndcg@1", reference="d")


def test_verdicts_never_say_equal_without_the_bound(write_run):
    n = 4000
    base = random_outcomes(n, 0)
    close = write_run("close", base)
    same = write_run("same", base)
    vague = write_run("vague", random_outcomes(n, 1))
    fixed = {"seed": 0, "trainable": True}
    better = write_run("better", random_outcomes(n, 2, skill=3.0), **fixed)
    contenders, _ = contenders_of_runs([close, same, vague, better])
    verdicts = {frozenset((p.a, p.b)): p.verdict for p in compare_all(contenders, "ndcg@5").pairs}
    assert verdicts[frozenset(("close", "same"))] == "equivalent, within 0.005"
    assert verdicts[frozenset(("close", "vague"))] == "not separated"
    assert verdicts[frozenset(("better", "vague"))] == "better better (this checkpoint)"


def test_seeds_of_one_method_are_compared_as_checkpoints(write_run):
    runs, _ = write_seeds(write_run, "sasrec", (0, 1), 1.0)
    contenders, notes = contenders_of_runs(runs)
    assert sorted(c.label for c in contenders) == ["sasrec (seed 0)", "sasrec (seed 1)"]
    assert "checkpoints" in notes[0]


def test_configurations_are_told_apart_by_what_differs(write_run):
    a = write_run("m", random_outcomes(50, 0), config={"k": 1, "w": 2})
    b = write_run("m", random_outcomes(50, 1), config={"k": 3, "w": 2})
    contenders, _ = contenders_of_runs([a, b])
    assert sorted(c.label for c in contenders) == ["m (k=1)", "m (k=3)"]


def test_nested_users_are_compared_over_the_smaller_set(write_run):
    whole, part = random_outcomes(60, 0), random_outcomes(20, 1)
    chosen = np.arange(5, 45, 2)
    a = write_run("a", whole)
    b = write_run("b", part, users=chosen, n_total=60)
    contenders, notes = contenders_of_runs([a, b])
    assert "20 users" in notes[0]
    by_name = {c.label: c.values[0] for c in contenders}
    assert np.array_equal(by_name["a"], values_of(whole)[chosen])
    apart = write_run("c", part, users=np.arange(4, 44, 2), n_total=60)
    with pytest.raises(ResultError, match="neither set contains"):
        contenders_of_runs([apart, b])


def test_refusal_names_the_option_that_differs(write_run):
    a = write_run("a", random_outcomes(20, 0))
    b = write_run(
        "b",
        random_outcomes(20, 1),
        task="b" * 64,
        options={**OPTIONS, "n_negatives": 99, "train_on": "train+valid"},
    )
    for call in (lambda: contenders_of_runs([a, b]), lambda: compare(a, b)):
        with pytest.raises(ResultError, match=r"n_negatives is 29 and 99, train_on is train and"):
            call()
    guard = write_run("c", random_outcomes(20, 1), task="d" * 64, guard="partial")
    with pytest.raises(ResultError, match="guard is full and partial"):
        contenders_of_runs([a, guard])
    data = write_run("d", random_outcomes(20, 1), task="e" * 64)
    with pytest.raises(ResultError, match="prepared data differ"):
        contenders_of_runs([a, data])


def test_one_run_is_nothing_to_compare(write_run):
    a = write_run("a", random_outcomes(20, 0))
    with pytest.raises(ResultError, match="at least two"):
        contenders_of_runs([a, a])


def test_contenders_of_a_target_are_the_rows_of_its_table(write_run):
    runs = [write_run(name, random_outcomes(40, i, skill=i)) for i, name in enumerate("abc")]
    short = write_run("d", random_outcomes(10, 5), users=np.arange(10), n_total=40)
    tuned = write_run("a", random_outcomes(40, 7), overrides={"k": 1}, config={"k": 1})
    contenders, notes = contenders_of_target([*runs, short, tuned], "toyland")
    assert [c.label for c in contenders] == ["c", "b", "a"]
    assert any("d" in note for note in notes)
    two, _ = contenders_of_target(runs, "toyland", ("a", "b"))
    assert [c.label for c in two] == ["b", "a"]
    fewer, _ = contenders_of_target([*runs, short], "toyland", users=10)
    assert {c.values.shape for c in fewer} == {(1, 10)}
    with pytest.raises(ConfigError, match="unknown method"):
        contenders_of_target(runs, "toyland", ("z",))
    only_tuned = write_run("e", random_outcomes(40, 8), overrides={"k": 1}, config={"k": 1})
    with pytest.raises(ConfigError, match="--all-configs"):
        contenders_of_target([*runs, only_tuned], "toyland", ("e",))
    with pytest.raises(ResultError, match="no run of d on toyland"):
        contenders_of_target([*runs, short], "toyland", ("a", "d"))


@pytest.mark.parametrize(
    ("options", "message"),
    [({"alpha": 1.0}, "alpha=1.0"), ({"bound": 0}, "bound=0"), ({"secondary": ("t",)}, "test 't'")],
)
def test_bad_options_are_refused(write_run, options, message):
    runs = [write_run(name, random_outcomes(40, i)) for i, name in enumerate("ab")]
    contenders, _ = contenders_of_runs(runs)
    with pytest.raises(ConfigError, match=message):
        compare_all(contenders, "ndcg@5", **options)


def test_a_comparison_calls_methods_what_the_table_calls_them(write_run):
    runs = [
        write_run("net", random_outcomes(60, 0), config={"scorer": "likelihood", "layers": 2}),
        write_run("net", random_outcomes(60, 1), profile="paper", config={"scorer": "generate"}),
        write_run("knn", random_outcomes(60, 2), trainable=False),
    ]
    found, _ = contenders_of_target(runs, "toyland")
    names = {c.label for c in found}
    assert names == {"net (likelihood)", "net (generate) [paper]", "knn"}
    assert names < {row.name for row in build_table(runs, "toyland").rows}


def test_where_defaults_changed_the_newest_are_the_default_and_others_say_what_they_had(write_run):
    """Which of two configurations without settings is the default, only the time can tell."""
    runs = [
        write_run(
            "net",
            random_outcomes(60, layers),
            config={"layers": layers, "width": 8},
            finished=f"2026-01-0{day}T00:00:00Z",
        )
        for layers, day in ((1, 2), (2, 3), (3, 1))
    ]
    rows = build_table(runs, "toyland").rows
    assert [(row.label, row.run_ids) for row in rows if row.run_ids] == [("net", (runs[1].run_id,))]
    every = build_table(runs, "toyland", all_configs=True).rows
    labels = {row.label for row in every if row.run_ids}
    assert labels == {"net", "net (layers=1)", "net (layers=3)"}
    assert len(contenders_of_target(runs, "toyland")[0]) == 1
    assert len(contenders_of_target(runs, "toyland", all_configs=True)[0]) == 3


def test_equal_settings_with_other_defaults_keep_names_of_their_own(write_run):
    runs = [
        write_run(
            "net", random_outcomes(60, n), config={"layers": n, "width": 4}, overrides={"width": 4}
        )
        for n in (1, 2)
    ]
    rows = build_table(runs, "toyland", all_configs=True).rows
    labels = {row.label for row in rows if row.run_ids}
    assert labels == {f"net (width=4) [{run.run_id[:8]}]" for run in runs}
