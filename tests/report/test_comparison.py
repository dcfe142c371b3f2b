"""Two runs side by side."""

from __future__ import annotations

import numpy as np
import pytest
from report_runs import random_outcomes
from scipy import stats

from bench.errors import ResultError
from bench.evaluation import metric_per_user
from bench.report.comparison import compare


def test_the_test_is_scipys(write_run):
    outcomes = {name: random_outcomes(500, i, skill=i / 2) for i, name in enumerate("ab")}
    found = compare(*(write_run(name, o) for name, o in outcomes.items()))
    x, y = (metric_per_user(outcomes[name], "ndcg@5") for name in "ab")
    theirs = stats.ttest_rel(x, y)
    assert (found.mean, found.rival_mean) == pytest.approx((x.mean(), y.mean()), abs=1e-12)
    assert found.test.p == pytest.approx(theirs.pvalue, rel=1e-10)
    assert found.test.ci95 == pytest.approx(tuple(theirs.confidence_interval()), abs=1e-12)
    detectable = 2.8016 * (x - y).std(ddof=1) / 500**0.5
    assert found.test.minimum_detectable == pytest.approx(detectable, rel=1e-3)


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
