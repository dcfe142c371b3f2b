"""Full ranking and other draws of the candidates, on runs written by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest
from report_runs import random_outcomes, scored_on
from scipy import stats

from bench.errors import ResultError
from bench.evaluation import metric_per_user
from bench.report.robustness import kendall_tau, robustness, robustness_record

N = 200


@pytest.fixture
def study(write_run):
    """Three methods with full ranking and two further draws, and the outcomes by kind."""
    runs, known = [], {}
    for i, (method, skill, lift) in enumerate((("a", 2.0, 0.5), ("b", 1.0, 2.0), ("c", 0.0, 0.0))):
        own = random_outcomes(N, i, skill=skill)
        full = random_outcomes(N, 10 + i, skill=lift, c=200)
        draws = {s: random_outcomes(N, 20 + 10 * s + i, skill=skill) for s in (1, 2)}
        known[method] = (own, full, draws)
        runs.append(scored_on(write_run(method, own), full=full, draws=draws))
    return runs, known


def mean(outcomes, metric):
    return float(np.mean(metric_per_user(outcomes, metric)))


def test_the_companion_table_and_its_order(study):
    runs, known = study
    report = robustness(runs, "toyland")
    assert [row.label for row in report.full] == ["b", "a", "c"]
    for row in report.full:
        own, full, _ = known[row.label]
        assert row.sampled == pytest.approx(mean(own, "ndcg@5"), abs=1e-12)
        assert row.full == {
            m: pytest.approx(mean(full, m), abs=1e-12) for m in ("hr@10", "ndcg@10")
        }
    # One of three pairs is in another order: tau = (2 - 1) / 3.
    assert report.tau_full == pytest.approx(1 / 3)


def test_the_spread_over_candidate_seeds(study):
    runs, known = study
    report = robustness(runs, "toyland", metric="hr@1")
    assert report.candidate_seeds == (0, 1, 2)
    assert [row.label for row in report.spread] == ["a", "b", "c"]
    table = {}
    for row in report.spread:
        own, _, draws = known[row.label]
        table[row.label] = [mean(own, "hr@1"), mean(draws[1], "hr@1"), mean(draws[2], "hr@1")]
        assert list(row.means.values()) == pytest.approx(table[row.label], abs=1e-12)
        assert row.sd == pytest.approx(np.std(table[row.label], ddof=1), abs=1e-12)
        assert row.span == pytest.approx(max(table[row.label]) - min(table[row.label]))
    pairs = [("a", "b"), ("a", "c"), ("b", "c")]
    spread = [np.std(np.subtract(table[x], table[y]), ddof=1) for x, y in pairs]
    assert report.difference_sd == pytest.approx(max(spread), abs=1e-12)
    assert report.tau_seeds == 1.0
    record = json.loads(json.dumps(robustness_record(report), allow_nan=False))
    assert set(record["spread"][0]["means"]) == {"0", "1", "2"}


def test_tau_is_scipys_and_undefined_without_an_order():
    a, b = [0.3, 0.2, 0.2, 0.1], [0.1, 0.4, 0.2, 0.0]
    assert kendall_tau(a, b) == pytest.approx(stats.kendalltau(a, b).statistic)
    assert kendall_tau([0.1, 0.1], [0.2, 0.3]) is None
    assert kendall_tau([0.1], [0.2]) is None


def test_methods_without_the_sets_are_named(study, write_run):
    runs, _ = study
    report = robustness([*runs, write_run("plain", random_outcomes(N, 77))], "toyland")
    assert {row.label for row in report.full} == {"a", "b", "c"}
    assert [note for note in report.notes if "plain" in note] == [
        "Without full ranking and the other candidate seeds: plain; `bench run --method plain "
        "--target toyland --candidate-seed 0,1,2 --also-full` adds it."
    ]


def test_seeds_are_averaged_and_only_common_draws_count(write_run):
    first = write_run("m", random_outcomes(N, 0), seed=0)
    second = write_run("m", random_outcomes(N, 1), seed=1)
    other = write_run("k", random_outcomes(N, 2))
    draws = [random_outcomes(N, 30 + i) for i in range(4)]
    runs = [
        scored_on(first, draws={1: draws[0], 2: draws[1]}),
        scored_on(second, draws={1: draws[2], 2: draws[1]}),
        scored_on(other, draws={1: draws[3]}),
    ]
    report = robustness(runs, "toyland")
    assert report.candidate_seeds == (0, 1)
    row = next(row for row in report.spread if row.label == "m")
    assert row.seeds == (0, 1)
    assert row.means[1] == pytest.approx((mean(draws[0], "ndcg@5") + mean(draws[2], "ndcg@5")) / 2)
    assert report.full == ()
    assert report.tau_full is None


def test_runs_without_further_sets_are_refused_with_the_command(write_run):
    run = write_run("a", random_outcomes(N, 0))
    with pytest.raises(ResultError, match=r"--candidate-seed 0,1,2 --also-full` adds it"):
        robustness([run], "toyland")
