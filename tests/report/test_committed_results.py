"""The results in leaderboards/results: every method is above counting, or says where it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from scipy.stats import ttest_rel

from bench.methods import resolve
from bench.report.contenders import contenders_of_target
from bench.runs.store import RunStore
from bench.runs.stored import StoredRun

RESULTS = Path(__file__).resolve().parents[2] / "leaderboards" / "results"
TARGETS = sorted(folder.name for folder in RESULTS.iterdir() if folder.is_dir())


@pytest.fixture(scope="module")
def runs() -> list[StoredRun]:
    return [run for run in RunStore(RESULTS).list() if isinstance(run, StoredRun)]


@pytest.mark.parametrize("target", TARGETS)
def test_is_above_popularity_on_all_users(runs: list[StoredRun], target: str) -> None:
    found, _ = contenders_of_target(runs, target)
    (popularity,) = (one for one in found if one.method == "popularity")
    below = {}
    for one in found:
        excuses = resolve(one.method).known_below_popularity
        if one.method == "popularity" or target in excuses or "*" in excuses:
            continue
        test = ttest_rel(one.values.mean(axis=0), popularity.values[0])
        if test.statistic <= 0 or test.pvalue >= 0.05:
            below[one.label] = (one.mean, popularity.mean, test.pvalue)
    assert not below
