"""`bench compare` like a user: run ids, a target, JSON, wrong use."""

from __future__ import annotations

import inspect
import json

import pytest
from scipy.stats import ttest_rel

from bench.cli.compare import compare
from bench.evaluation import EQUIVALENCE_BOUND, metric_per_user
from bench.runs.store import RunStore


@pytest.fixture
def three(cli, tiny, tmp_path):
    """Stored runs of three methods on the imported domain, by method."""
    cli("run", "--method", "random,markov,popularity", "--target", tiny, "--quiet")
    return {run.method: run for run in RunStore(tmp_path / "runs").list()}


def test_runs_are_compared_by_their_stored_outcomes(cli, three):
    out = cli("compare", three["random"].run_id, three["markov"].run_id[:8]).stdout
    a, b = (metric_per_user(three[m].outcomes(), "ndcg@5") for m in ("markov", "random"))
    better, worse = ("markov", "random") if a.mean() > b.mean() else ("random", "markov")
    line = next(row for row in out.splitlines() if row.startswith(f"{better} - {worse}"))
    assert f"{abs((a - b).mean()):+.4f} [" in line
    p = ttest_rel(a, b).pvalue
    assert ("< 0.0001" if p < 1e-4 else f"{p:.4f}") in line
    assert "Holm over 1 comparison," in out


def test_a_target_gives_all_pairs_of_its_methods(cli, tiny, three):
    out = cli("compare", "--target", tiny, "--also", "flips,mcnemar", "--metric", "hr@5").stdout
    assert "HR@5 of 60 users" in out
    assert "Holm over 3 comparisons" in out
    assert "p (flips)" in out
    words = ("compare", "--target", tiny, "--methods", "markov,random", "--json")
    found = json.loads(cli(*words, "--reference", "random", "--correction", "bh").stdout)
    assert (found["reference"], found["correction"], found["family_size"]) == ("random", "bh", 1)
    assert {c["run_ids"][0] for c in found["contenders"]} == {
        three["markov"].run_id,
        three["random"].run_id,
    }


def test_runs_of_other_tasks_are_refused_with_the_option(cli, tiny, three, tmp_path):
    cli("run", "--method", "random", "--target", tiny, "--n-negatives", 9, "--quiet")
    other = next(
        run
        for run in RunStore(tmp_path / "runs").list()
        if run.task_hash != three["random"].task_hash
    )
    found = cli("compare", three["markov"].run_id, other.run_id, code=1)
    assert "n_negatives is 29 and 9" in found.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ((), "expected run ids or --target"),
        (("--target", "tiny", "--methods", "marcov"), "Did you mean 'markov'"),
        (("--target", "tiny", "--metric", "ndgc@5"), "ndgc@5"),
        (("--target", "tiny", "--also", "flip"), "unknown test 'flip'"),
        (("--target", "tiny", "--reference", "ease"), "unknown reference 'ease'"),
    ],
)
def test_wrong_use_is_one_clean_message(cli, tiny, three, words, message):
    assert message in cli("compare", *words, code=2).stderr


def test_robustness_needs_and_reads_the_further_request_sets(cli, tiny, three):
    missing = cli("compare", "--target", tiny, "--report", "robustness", code=1)
    assert "--also-full" in missing.stderr
    sets = ("--candidate-seed", "0,1,2", "--also-full", "--quiet")
    cli("run", "--method", "markov,popularity", "--target", tiny, *sets)
    out = cli("compare", "--target", tiny, "--report", "robustness").stdout
    assert "Full ranking" in out
    assert "seed 0    seed 1    seed 2" in out
    assert "Without full ranking and the other candidate seeds: random" in out
    found = json.loads(cli("compare", "--target", tiny, "--report", "robustness", "--json").stdout)
    assert {row["label"] for row in found["full"]} == {"markov", "popularity"}


def test_transfer_without_methods_that_use_sources_says_so(cli, tiny, three):
    found = cli("compare", "--target", tiny, "--report", "transfer", code=1)
    assert "expected runs of a method with sources" in found.stderr
    refused = cli("compare", "--report", "transfer", "--methods", "markov", code=2)
    assert "--methods with --report transfer" in refused.stderr


def test_the_bound_is_the_evaluators_unless_it_is_given():
    assert inspect.signature(compare).parameters["bound"].default == EQUIVALENCE_BOUND
