"""The lines that end a run."""

from __future__ import annotations

import numpy as np
import pytest
from report_runs import outcomes_with_ranks, random_outcomes
from scipy import stats

from bench.errors import ResultError
from bench.evaluation import metric_per_user
from bench.report.comparison import compare, comparison_lines


def test_the_best_rival_is_tested_and_the_figures_are_scipys(write_run):
    outcomes = {name: random_outcomes(500, i, skill=i / 2) for i, name in enumerate("abc")}
    runs = {name: write_run(name, o) for name, o in outcomes.items()}
    lines = comparison_lines(runs["a"], [runs["b"], runs["c"]])
    x, y = (metric_per_user(outcomes[name], "ndcg@5") for name in "ac")
    theirs = stats.ttest_rel(x, y)
    interval = theirs.confidence_interval()
    assert "best stored rival c " in lines[0] and runs["c"].run_id[:8] in lines[0]
    assert f"{x.mean():.4f}" in lines[0] and f"{y.mean():.4f}" in lines[0]
    assert f"difference {x.mean() - y.mean():+.4f}" in lines[1]
    assert f"[{interval.low:+.4f}, {interval.high:+.4f}]" in lines[1]
    assert "p < 0.0001" in lines[1] and theirs.pvalue < 1e-4
    detectable = 2.8016 * (x - y).std(ddof=1) / 500**0.5
    assert "significantly worse" in lines[2] and f"{detectable:.4f}" in lines[2]


def test_not_significant_is_never_called_equal(write_run):
    a = write_run("a", random_outcomes(200, 0))
    b = write_run("b", random_outcomes(200, 1))
    found = compare(a, b)
    assert found.test.p > 0.05
    text = "\n".join(comparison_lines(a, [b]))
    assert f"p = {found.test.p:.4f}" in text
    assert "no significant difference" in text and "80 % power" in text


def test_better_is_called_better(write_run):
    a = write_run("a", random_outcomes(400, 0, skill=2))
    b = write_run("b", random_outcomes(400, 1, skill=0))
    assert "significantly better" in comparison_lines(a, [b])[2]


def test_one_user_and_no_rival_are_said_plainly(write_run):
    a = write_run("a", outcomes_with_ranks([1]))
    b = write_run("b", outcomes_with_ranks([4]))
    text = "\n".join(comparison_lines(a, [b]))
    assert "unbounded" in text and "one user decides nothing" in text
    assert len(comparison_lines(a, [])) == 1


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
