"""Resampled sums are exactly multinomial, whichever way they are drawn, and the same everywhere."""

from __future__ import annotations

import hashlib
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import stored_figures
from scipy import stats

from bench.evaluation import bootstrap_interval
from bench.evaluation.multinomial import _completed, _filled, _Poisson, resampled_sums, stream

WAYS = pytest.mark.parametrize("draw", [_completed, _filled])


@WAYS
@pytest.mark.parametrize("counts", [[2, 1, 1], [1, 1, 1], [4, 1], [2, 2, 1]])
def test_every_sum_occurs_as_often_as_the_multinomial_says(draw, counts):
    """All ways to draw a few users, enumerated, against 40,000 resamples."""
    users = np.repeat([1.0, 10.0, 100.0][: len(counts)], counts)
    chances: dict[float, float] = {}
    for sample in itertools.product(users, repeat=len(users)):
        chances[sum(sample)] = chances.get(sum(sample), 0.0) + len(users) ** -len(users)
    sums = draw(np.unique(users), np.array(counts), 40_000, stream(b"test", 0))
    found = [int((sums == total).sum()) for total in chances]
    assert sum(found) == 40_000
    assert stats.chisquare(found, [40_000 * p for p in chances.values()]).pvalue > 1e-3


@WAYS
@pytest.mark.parametrize("counts", [[900, 60, 30, 9, 1], [30] * 40, [400, 300, 200, 100]])
def test_sums_have_the_moments_and_the_shape_of_the_multinomial(draw, counts):
    values = np.random.default_rng(len(counts)).random(len(counts))
    counts, n = np.array(counts), sum(counts)
    sums = draw(values, counts, 20_000, stream(b"test", 1))
    mean, variance = values @ counts, values**2 @ counts - (values @ counts) ** 2 / n
    assert sums.mean() == pytest.approx(mean, abs=4 * math.sqrt(variance / 20_000))
    assert sums.var() == pytest.approx(variance, rel=4 * math.sqrt(2 / 20_000))
    numpys = np.random.default_rng(0).multinomial(n, counts / n, 20_000) @ values
    assert stats.ks_2samp(np.round(sums, 6), np.round(numpys, 6)).pvalue > 1e-3


@pytest.mark.parametrize("rate", [0.3, 1.0, 17.5, 40_000.0])
def test_poisson_counts_are_the_quantiles_of_the_distribution(rate):
    uniform = np.append(np.random.default_rng(1).random(3000), [0.0, 1e-12, 0.5, 1 - 2**-53])
    found = _Poisson(rate).draw(uniform)
    theirs = stats.poisson(rate)
    assert (theirs.cdf(found) >= uniform - 1e-9).all()
    assert (theirs.cdf(found - 1) <= uniform + 1e-9).all()
    assert found.min() >= 0


def test_a_resample_does_not_depend_on_how_many_are_drawn():
    for counts in ([50, 30, 20], [1] * 80):
        values, counts = np.sqrt(np.arange(len(counts))), np.array(counts)
        few = resampled_sums(values, counts, 10, 7)
        assert np.array_equal(resampled_sums(values, counts, 3000, 7)[:10], few)
        assert not np.array_equal(resampled_sums(values, counts, 10, 8), few)


def test_purposes_and_seeds_have_streams_of_their_own():
    drawn = {stream(purpose, seed) for purpose in (b"bootstrap", b"sign flips") for seed in (0, 1)}
    assert len(drawn) == 4


@pytest.mark.parametrize("spread", ["two values", "many values"])
def test_intervals_of_both_ways_cover_the_truth_as_often_as_they_say(spread):
    rng, hits = np.random.default_rng(11), 0
    for i in range(300):
        sample = rng.exponential(1.0, 200)
        truth = 1.0
        if spread == "two values":
            sample, truth = (sample > 1.0).astype(float), math.exp(-1)
        low, high = bootstrap_interval(sample, seed=i, n_resamples=400)
        hits += low <= truth <= high
    # 300 draws at 95 %: standard deviation 1.3 points; skew costs the second a point or two.
    assert 0.90 <= hits / 300 <= 0.985


GOLDEN = {
    "few ndcg@5 low": "0x1.f953d084576d1p-2",
    "few ndcg@5 high": "0x1.93961d1a99aa7p-1",
    "usual ndcg@5 mean": "0x1.48dceccaa2d23p-4",
    "usual ndcg@5 low": "0x1.2e3422897add2p-4",
    "usual ndcg@5 high": "0x1.63e7b0fe23540p-4",
    "usual auc low": "0x1.e1456b8e28d1bp-2",
    "auc of the catalogue high": "0x1.07290790764bap-1",
    "percentile low": "0x1.d6556540da6fcp-7",
    "flips": "0x1.26e978d4fdf3bp-7",
}


def test_figures_are_the_published_ones_bit_by_bit():
    found = stored_figures.figures()
    assert {name: found[name] for name in GOLDEN} == GOLDEN
    # SciPy's normal distribution is part of BCa.
    text = json.dumps({k: v for k, v in found.items() if not k.startswith("bca")})
    assert hashlib.sha256(text.encode()).hexdigest()[:16] == "905ffa3213e4c5b8"


# The oldest and newest NumPy that this Python has wheels of, and one between; 2.5 changed its samplers.
NUMPYS = ["1.26.4", "2.2.6"] if sys.version_info < (3, 12) else ["2.2.6", "2.5.5"]


@pytest.mark.slow
@pytest.mark.parametrize("version", NUMPYS)
def test_another_numpy_gives_the_same_bits_and_tables(version, tmp_path):
    packages = tmp_path / "packages"
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", packages),
            f"numpy=={version}",
        ],
        check=True,
    )
    root = Path(__file__).resolve().parents[2]
    env = {**os.environ, "PYTHONPATH": f"{packages}{os.pathsep}{root}"}

    def run(*command: str) -> str:
        done = subprocess.run(
            [sys.executable, *command], env=env, cwd=root, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    there = json.loads(run(stored_figures.__file__))
    assert there == {"numpy": version, "figures": stored_figures.figures()}
    tables = ["results", "tables", "leaderboards/results", "--out", "leaderboards", "--check"]
    run("-m", "bench.cli", *tables)
    run("-m", "bench.cli", "results", "verify", "leaderboards/results")
