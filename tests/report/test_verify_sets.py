"""The gate recomputes everything that a result holds: any metric, and every further request set."""

from __future__ import annotations

import json

import numpy as np
import pytest
from report_runs import random_outcomes
from test_verify import change, change_metrics, checks, write_result

from bench.evaluation import METRICS, Outcomes
from bench.report.verify import verify_folder
from bench.runs.records import metrics_record, per_user_bytes

FULL, DRAW = "f" * 64, "d" * 64


def add_set(folder, key, outcomes, *, users=None, metrics=METRICS, **described):
    """A further request set, as a run stores it."""
    name = f"sets/{key[:16]}.parquet"
    users = np.arange(len(outcomes), dtype=np.int32) if users is None else users
    (folder / "sets").mkdir(exist_ok=True)
    (folder / name).write_bytes(per_user_bytes(users, outcomes))
    figures = metrics_record(outcomes, metrics)
    change_metrics(folder, lambda m: m.setdefault("sets", {}).update({key: figures}))
    change(folder, lambda m: m["sets"].update({key: {"file": name, **described}}))


@pytest.fixture
def folder(tmp_path):
    made = write_result(tmp_path)
    add_set(made, DRAW, random_outcomes(300, 3), kind="candidates", candidate_seed=1)
    add_set(made, FULL, random_outcomes(300, 4, c=200), kind="full", candidate_seed=None)
    return made


def test_honest_sets_pass(folder, tmp_path):
    assert verify_folder(tmp_path).problems == ()


@pytest.mark.parametrize("key", [DRAW, FULL])
@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["metrics"]["ndcg@5"].update(mean=0.99),
        lambda m: m["metrics"]["ndcg@5"].update(ci95=[0.98, 0.99]),
        lambda m: m["metrics"].pop("hr@10"),
        lambda m: m["ties"].update(share_tied=0.25),
        lambda m: m["ties"]["metrics"]["auc"].update(pessimistic=0.9),
        lambda m: m.update(n_users=299),
        lambda m: m.update(best=1.0),
    ],
)
def test_a_forged_figure_of_a_set_is_caught(folder, tmp_path, key, edit):
    change_metrics(folder, lambda m: edit(m["sets"][key]))
    found = verify_folder(tmp_path).problems
    assert found and {p.check for p in found} <= {"metrics", "bounds"}
    assert all(f"set {key[:12]}" in p.message for p in found)


def test_better_outcomes_of_a_set_under_the_old_figures_are_caught(folder, tmp_path):
    path = folder / f"sets/{DRAW[:16]}.parquet"
    path.write_bytes(
        per_user_bytes(np.arange(300, dtype=np.int32), random_outcomes(300, 3, skill=4))
    )
    change(folder, lambda manifest: None)
    assert checks(tmp_path) == {("knn", "metrics")}


def _lost_but_alone(outcomes):
    """Positives that are not ranked although nothing shares the bottom with them."""
    zeros = np.zeros_like(outcomes.n_better)
    return Outcomes(zeros, zeros, outcomes.n_candidates, np.zeros(len(outcomes), bool))


def _listed_elsewhere(outcomes):
    """A slot that the number of better answers contradicts."""
    ones = np.ones(len(outcomes), np.int16)
    return Outcomes(
        np.full_like(outcomes.n_better, 4), np.zeros_like(outcomes.n_tied),
        outcomes.n_candidates, np.ones(len(outcomes), bool), ones, ones,
    )  # fmt: skip


@pytest.mark.parametrize("impossible", [_lost_but_alone, _listed_elsewhere])
def test_impossible_outcomes_are_caught_although_all_figures_fit(folder, tmp_path, impossible):
    outcomes = impossible(random_outcomes(300, 3))
    add_set(folder, DRAW, outcomes, kind="candidates", candidate_seed=1)
    assert ("knn", "outcomes") in checks(tmp_path)


def test_counts_that_contradict_each_other_are_caught(folder, tmp_path):
    right = random_outcomes(300, 3)
    wrong = Outcomes(right.n_better + 30, right.n_tied, right.n_candidates, right.ranked)
    add_set(folder, DRAW, wrong, kind="candidates", candidate_seed=1)
    assert checks(tmp_path) == {("knn", "readable")}
    assert "is impossible" in str(verify_folder(tmp_path).problems[0])


def test_unranked_positives_of_a_method_that_ranks_all_are_caught(folder, tmp_path):
    one = random_outcomes(300, 3)
    bottom = np.full_like(one.n_better, 29)
    lost = Outcomes(np.zeros_like(bottom), bottom, one.n_candidates, np.zeros(300, bool))
    add_set(folder, DRAW, lost, kind="candidates", candidate_seed=1)
    assert verify_folder(tmp_path).problems == ()
    change(folder, lambda m: m["method"].update(may_leave_unranked=False))
    assert checks(tmp_path) == {("knn", "task")}


@pytest.mark.parametrize(
    ("edit", "check"),
    [
        (lambda s: s[DRAW].update(kind="full", candidate_seed=None), "task"),
        (lambda s: s[DRAW].update(candidate_seed=None), "task"),
        (lambda s: s[FULL].update(kind="easy"), "task"),
        (lambda s: s[FULL].update(kind="candidates", candidate_seed=5), "task"),
        (lambda s: s[DRAW].update(file=s[FULL]["file"]), "files"),
        (lambda s: s.pop(DRAW), "files"),
    ],
)
def test_a_set_that_is_not_what_the_manifest_says_is_caught(folder, tmp_path, edit, check):
    manifest = json.loads((folder / "manifest.json").read_text())
    files = [described["file"] for described in manifest["sets"].values()]
    change(folder, lambda m: edit(m["sets"]), more=files)
    assert ("knn", check) in checks(tmp_path)


def test_a_set_under_the_hash_of_the_own_candidates_is_caught(tmp_path):
    made = write_result(tmp_path)
    add_set(made, "c" * 64, random_outcomes(300, 3), kind="candidates", candidate_seed=1)
    assert ("knn", "task") in checks(tmp_path)


def test_figures_of_a_set_that_is_not_there_are_caught(folder, tmp_path):
    change_metrics(folder, lambda m: m["sets"].update({"e" * 64: m["sets"][DRAW]}))
    assert checks(tmp_path) == {("knn", "metrics")}
    change_metrics(folder, lambda m: m.pop("sets"))
    assert checks(tmp_path) == {("knn", "metrics")}


def test_a_set_over_other_users_is_caught(folder, tmp_path):
    users = np.arange(1, 301, dtype=np.int32)
    add_set(folder, DRAW, random_outcomes(300, 3), users=users, kind="candidates", candidate_seed=1)
    assert checks(tmp_path) == {("knn", "readable")}


def test_an_evaluator_with_another_metric_changes_nothing(folder, tmp_path, monkeypatch):
    """Stored results hold what was known then; the gate asks for no more."""
    more = (*METRICS, "hr@20")
    monkeypatch.setattr("bench.evaluation.metrics.METRICS", more)
    monkeypatch.setattr("bench.evaluation.METRICS", more)
    monkeypatch.setattr("bench.runs.records.METRICS", more)
    assert verify_folder(tmp_path).problems == ()


def test_a_result_with_another_metric_is_recomputed_too(tmp_path):
    made = write_result(tmp_path)
    outcomes = random_outcomes(300, 3)
    more = (*METRICS, "hr@20")
    add_set(made, DRAW, outcomes, metrics=more, kind="candidates", candidate_seed=1)
    assert verify_folder(tmp_path).problems == ()
    change_metrics(made, lambda m: m["sets"][DRAW]["metrics"]["hr@20"].update(mean=0.9))
    assert checks(tmp_path) == {("knn", "metrics")}
    change_metrics(made, lambda m: m["sets"][DRAW]["metrics"].update({"luck@5": 1}))
    assert any("no metric of this evaluator" in p.message for p in verify_folder(tmp_path).problems)


def test_a_manifest_without_seal_is_caught(tmp_path):
    made = write_result(tmp_path)
    manifest = json.loads((made / "manifest.json").read_text())
    del manifest["seal"]
    (made / "manifest.json").write_text(json.dumps(manifest | {"format": 1}))
    assert checks(tmp_path) == {("knn", "seal")}
    (made / "manifest.json").write_text(json.dumps(manifest))
    assert checks(tmp_path) == {("knn", "readable")}
