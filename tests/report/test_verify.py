"""The merge gate lets an honest result through and stops every kind of tampering, one at a time."""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib

import numpy as np
import polars as pl
import pytest
from report_runs import OPTIONS, random_outcomes

from bench.errors import ResultError
from bench.report.verify import verify_folder
from bench.runs.archive import reproduce_spec
from bench.runs.records import metrics_record, per_user_bytes
from bench.runs.results import export_result
from bench.runs.spec import run_id
from bench.runs.stored import read_run, seal_of


def write_result(
    root, method="knn", *, seed=0, n=300, outcomes=None, users=None, trainable=False, **task
):
    """A published result, made of the functions that ``docs/runs.md`` describes."""
    users = np.arange(n, dtype=np.int32) if users is None else np.asarray(users, np.int32)
    outcomes = (
        random_outcomes(len(users), zlib.crc32(f"{method} {seed}".encode()))
        if outcomes is None
        else outcomes
    )
    config, task_hash = {"k": 5}, task.pop("task_hash", "a" * 64)
    users_hash = task.pop("users_hash", hashlib.sha256(users.tobytes()).hexdigest())
    identity = run_id(
        task_hash=task_hash,
        users_hash=users_hash,
        method=method,
        version="1",
        plugin_sha256=None,
        config=config,
        sources=[],
        seed=seed,
        init_seed=0,
        dtype="float32",
        content={},
    )
    folder = root / "toyland" / f"{method}-s{seed}-{identity}"
    folder.mkdir(parents=True)
    (folder / "per_user.parquet").write_bytes(per_user_bytes(users, outcomes))
    (folder / "metrics.json").write_text(json.dumps(metrics_record(outcomes)))
    manifest = {
        "format": 2,
        "run_id": identity,
        "status": "done",
        "method": {
            "name": method,
            "version": "1",
            "family": "reference",
            "plugin_sha256": None,
            "trainable": trainable,
        },
        "target": "toyland",
        "sources": [],
        "profile": "cpu",
        "seed": seed,
        "init_seed": 0,
        "dtype": "float32",
        "config": config,
        "spec": {"overrides": {}},
        "task": {
            "task_hash": task_hash,
            "candidates_hash": "c" * 64,
            "guard": "none",
            "options": OPTIONS,
            "source_hashes": {},
            "n_users": n,
            "n_items": 500,
            **task,
        },
        "users": {"users_hash": users_hash, "n_users": len(users)},
        "seconds": {"fit": 1.0, "score": 0.1},
        "sets": {},
    }
    save(folder, manifest)
    return folder


def save(folder, manifest, more=()):
    """Write the manifest with the right hashes of the files beside it."""
    manifest["files"] = {
        name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
        for name in (
            "metrics.json",
            "per_user.parquet",
            *(described["file"] for described in manifest["sets"].values()),
            *more,
        )
    }
    manifest["seal"] = seal_of(manifest)
    (folder / "manifest.json").write_text(json.dumps(manifest))


def change(folder, edit, *, more=()):
    """Edit the manifest as an author would who also updates the hashes, and those of ``more`` files."""
    manifest = json.loads((folder / "manifest.json").read_text())
    edit(manifest)
    save(folder, manifest, more)


def change_metrics(folder, edit):
    path = folder / "metrics.json"
    metrics = json.loads(path.read_text())
    edit(metrics)
    path.write_text(json.dumps(metrics))
    change(folder, lambda manifest: None)


def checks(root):
    return {
        (problem.path.name.split("-")[0], problem.check) for problem in verify_folder(root).problems
    }


def test_honest_results_pass(tmp_path):
    write_result(tmp_path, "knn")
    for seed in (0, 1, 2):
        write_result(tmp_path, "net", seed=seed, trainable=True)
    write_result(tmp_path, "llm", users=np.arange(0, 300, 3))
    found = verify_folder(tmp_path)
    assert found.problems == ()
    assert (found.n_runs, found.n_users) == (5, 1300)


@pytest.mark.parametrize("metric", ["ndcg@5", "hr@1", "mrr@10", "auc"])
def test_a_raised_mean_is_caught_although_the_hashes_fit(tmp_path, metric):
    folder = write_result(tmp_path)
    change_metrics(
        folder, lambda m: m["metrics"][metric].update(mean=m["metrics"][metric]["mean"] + 1e-6)
    )
    assert ("knn", "metrics") in checks(tmp_path)


def test_a_narrowed_interval_is_caught(tmp_path):
    def narrow(metrics):
        low, high = metrics["metrics"]["ndcg@5"]["ci95"]
        metrics["metrics"]["ndcg@5"]["ci95"] = [low + (high - low) / 3, high]

    change_metrics(write_result(tmp_path), narrow)
    assert checks(tmp_path) == {("knn", "metrics")}


def test_figures_that_no_ranking_has_are_named(tmp_path):
    change_metrics(write_result(tmp_path), lambda m: m["metrics"]["mrr@5"].update(mean=0.9))
    assert checks(tmp_path) == {("knn", "metrics"), ("knn", "bounds")}


def test_a_missing_metric_and_a_changed_tie_count_are_caught(tmp_path):
    change_metrics(write_result(tmp_path, "knn"), lambda m: m["metrics"].pop("auc"))
    change_metrics(write_result(tmp_path, "ease"), lambda m: m["ties"].update(share_tied=0.5))
    assert checks(tmp_path) == {("knn", "metrics"), ("ease", "metrics")}


def test_a_file_changed_after_the_run_is_caught(tmp_path):
    folder = write_result(tmp_path)
    users = np.arange(300, dtype=np.int32)
    (folder / "per_user.parquet").write_bytes(per_user_bytes(users, random_outcomes(300, 1)))
    assert checks(tmp_path) == {("knn", "files")}


def test_better_outcomes_under_the_old_metrics_are_caught(tmp_path):
    folder = write_result(tmp_path)
    users = np.arange(300, dtype=np.int32)
    better = random_outcomes(300, 1, skill=4)
    (folder / "per_user.parquet").write_bytes(per_user_bytes(users, better))
    change(folder, lambda manifest: None)
    assert checks(tmp_path) == {("knn", "metrics")}


@pytest.mark.parametrize(
    "edit",
    [
        lambda m: m["config"].update(k=6),
        lambda m: m["method"].update(version="2"),
        lambda m: m.update(dtype="bfloat16"),
        lambda m: m["task"].update(task_hash="b" * 64),
        lambda m: m["users"].update(users_hash="b" * 64),
    ],
)
def test_a_changed_identity_is_caught(tmp_path, edit):
    change(write_result(tmp_path), edit)
    assert checks(tmp_path) == {("knn", "identity")}


def test_a_renamed_folder_is_caught(tmp_path):
    folder = write_result(tmp_path)
    folder.rename(folder.with_name(folder.name.replace("knn", "new")))
    assert checks(tmp_path) == {("new", "identity")}


def test_reviewer_ids_paths_and_addresses_are_caught(tmp_path):
    for method, text in (
        ("amazon", "A3SBTW3WS4IQSN"),
        ("path", "/home/someone/data"),
        ("windows", "C:\\Users\\x"),
        ("mail", "someone@example.org"),
    ):
        change(write_result(tmp_path, method), lambda m, text=text: m.update(note=text))
    found = verify_folder(tmp_path).problems
    assert {p.check for p in found} == {"privacy"} and len(found) == 4
    assert all(p.message.startswith("manifest.json") for p in found)
    assert all("note holds" in p.message for p in found)


def test_raw_user_ids_beside_the_outcomes_are_caught(tmp_path):
    folder = write_result(tmp_path)
    path = folder / "per_user.parquet"
    frame = pl.read_parquet(path)
    frame.with_columns(pl.Series("reviewer", ["x"] * len(frame))).write_parquet(path)
    change(folder, lambda manifest: None)
    assert checks(tmp_path) == {("knn", "privacy")}


def test_further_files_are_caught_in_and_beside_a_result(tmp_path):
    folder = write_result(tmp_path)
    (folder / "log.txt").write_text("x")
    (tmp_path / "notes.txt").write_text("x")
    found = verify_folder(tmp_path).problems
    assert {(p.path.name, p.check) for p in found} == {
        (folder.name, "files"),
        ("notes.txt", "files"),
    }


def test_users_that_the_task_does_not_have_are_caught(tmp_path):
    write_result(tmp_path, users=[0, 5, 300])
    assert checks(tmp_path) == {("knn", "users")}


def test_other_numbers_of_candidates_than_stated_are_caught(tmp_path):
    write_result(tmp_path, outcomes=random_outcomes(300, 0, c=20))
    assert checks(tmp_path) == {("knn", "task")}


def test_one_user_set_hash_for_two_user_sets_is_caught(tmp_path):
    write_result(tmp_path, "aaa", users=np.arange(100), users_hash="d" * 64)
    write_result(tmp_path, "bbb", users=np.arange(100, 200), users_hash="d" * 64)
    assert checks(tmp_path) == {("bbb", "users")}


def test_two_hashes_for_one_user_set_are_caught(tmp_path):
    write_result(tmp_path, "aaa", users_hash="d" * 64)
    write_result(tmp_path, "bbb", users_hash="e" * 64)
    assert checks(tmp_path) == {("bbb", "users")}


def test_one_task_with_two_meanings_is_caught(tmp_path):
    write_result(tmp_path, "aaa")
    write_result(tmp_path, "bbb", candidates_hash="f" * 64)
    write_result(tmp_path, "ccc", guard="off")
    assert checks(tmp_path) == {("bbb", "task"), ("ccc", "task")}


def test_a_run_that_is_there_twice_is_caught(tmp_path):
    folder = write_result(tmp_path)
    shutil.copytree(folder, tmp_path / "again" / folder.name)
    found = verify_folder(tmp_path).problems
    assert ("duplicate", True) in {(p.check, "the same run as" in p.message) for p in found}


@pytest.mark.parametrize(("method", "seed"), [("new", 0), ("knn", 1)])
def test_a_copied_result_under_another_name_or_seed_is_caught(tmp_path, method, seed):
    outcomes = random_outcomes(300, 8)
    write_result(tmp_path, "knn", outcomes=outcomes, trainable=True)
    write_result(tmp_path, method, seed=seed, outcomes=outcomes, trainable=True)
    found = verify_folder(tmp_path).problems
    assert [p.check for p in found] == ["duplicate"]


@pytest.mark.parametrize(("said", "checks"), [("knn", []), ("popularity", ["duplicate"])])
def test_a_sum_that_one_method_is_left_of_is_no_copy(tmp_path, said, checks):
    outcomes = random_outcomes(300, 8)
    write_result(tmp_path, "knn", outcomes=outcomes)
    folder = write_result(tmp_path, "sum", outcomes=outcomes)
    change(folder, lambda manifest: manifest.update(diagnostics={"equals": said}))
    assert [p.check for p in verify_folder(tmp_path).problems] == checks


def test_nothing_to_verify_is_an_error(tmp_path):
    with pytest.raises(ResultError, match="no result below"):
        verify_folder(tmp_path)
    with pytest.raises(ResultError, match="is no folder"):
        verify_folder(tmp_path / "absent")


def test_a_folder_that_cannot_be_read_is_a_problem_not_a_crash(tmp_path):
    write_result(tmp_path, "aaa")
    folder = write_result(tmp_path, "bbb")
    (folder / "manifest.json").write_text("{")
    assert checks(tmp_path) == {("bbb", "readable")}


def test_a_renamed_method_keeps_its_stored_runs(tmp_path):
    """The identity holds the name that a run was made under; what is shown is the new one."""
    folder = write_result(tmp_path, "molorec")
    asked = {"overrides": {}, "method": "molorec", "target": "toyland"}
    change(folder, lambda manifest: manifest.update(spec=asked))
    run = read_run(folder)
    assert (run.stored_method, run.method) == ("molorec", "all-data-average")
    assert reproduce_spec(run).method == "all-data-average"
    assert verify_folder(tmp_path).problems == ()
    again = export_result(run, tmp_path / "out")
    assert again.path.name == folder.name
    assert verify_folder(tmp_path / "out").problems == ()


def test_another_version_of_that_name_is_what_it_says(tmp_path):
    folder = write_result(tmp_path, "molorec")
    change(folder, lambda manifest: manifest["method"].update(version="2"))
    assert read_run(folder).method == "molorec"
