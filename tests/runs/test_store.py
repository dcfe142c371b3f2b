from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bench.errors import MissingRunError, ResultError, RunGoneError
from bench.io import sha256_file, write_json
from bench.partial import older
from bench.runs.archive import export_runs
from bench.runs.results import export_result
from bench.runs.runner import execute
from bench.runs.store import RunStore
from bench.runs.stored import read_run, seal_of


@pytest.fixture(scope="module")
def finished(tmp_path_factory, data_root, methods_file):
    """One finished run with everything in it; tests work on copies."""
    from bench.runs.spec import RunSpec

    store = RunStore(tmp_path_factory.mktemp("finished"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("BENCH_CACHE", str(store.root / ".cache"))
        return execute(
            RunSpec(
                method=f"{methods_file}:Learner",
                target="alpha",
                data_root=data_root,
                threads=1,
                keep_model=True,
                extra_candidate_seeds=(1,),
            ),
            store,
        )


@pytest.fixture
def copied(finished, store):
    target = store.root / finished.path.parent.name / finished.path.name
    shutil.copytree(finished.path, target)
    return read_run(target)


def _edit_manifest(run, **changes):
    manifest = json.loads((run.path / "manifest.json").read_text())
    for key, value in changes.items():
        name, _, inner = key.partition("__")
        place = manifest if not inner else manifest[name]
        if value is _ABSENT:
            del place[inner or name]
        else:
            place[inner or name] = value
    # As an author would who also renews the seal.
    manifest["seal"] = seal_of(manifest)
    write_json(run.path / "manifest.json", manifest)


_ABSENT = object()


def _rewrite_users(run, change):
    """Replace per_user.parquet by a changed table whose SHA-256 the manifest does list."""
    frame = change(pl.read_parquet(run.path / "per_user.parquet"))
    buffer = io.BytesIO()
    frame.write_parquet(buffer)
    (run.path / "per_user.parquet").write_bytes(buffer.getvalue())
    digest = sha256_file(run.path / "per_user.parquet")
    _edit_manifest(run, files={**run.manifest["files"], "per_user.parquet": digest})


def _truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _edit_metrics(run, change):
    """Change ``metrics.json`` as somebody does who also corrects its SHA-256."""
    metrics = json.loads((run.path / "metrics.json").read_text())
    change(metrics)
    write_json(run.path / "metrics.json", metrics)
    digest = sha256_file(run.path / "metrics.json")
    _edit_manifest(run, files={**run.manifest["files"], "metrics.json": digest})


def _set_mean(run, value):
    _edit_metrics(run, lambda m: m["metrics"]["ndcg@5"].update(mean=value))


_READ_DAMAGE = {
    "a mean of 5": (lambda r: _set_mean(r, 5.0), "metrics.ndcg@5.mean 5.0: expected less"),
    "a mean below 0": (lambda r: _set_mean(r, -0.1), "metrics.ndcg@5.mean -0.1: expected greater"),
    "a mean in words": (lambda r: _set_mean(r, "high"), "metrics.ndcg@5.mean' is str 'high'"),
    "no interval": (
        lambda r: _edit_metrics(r, lambda m: m["metrics"]["auc"].pop("ci95")),
        "lacks the field 'metrics.auc.ci95'",
    ),
    "an interval of one end": (
        lambda r: _edit_metrics(r, lambda m: m["metrics"]["auc"].update(ci95=[0.5])),
        "metrics.auc.ci95",
    ),
    "an interval from above": (
        lambda r: _edit_metrics(r, lambda m: m["metrics"]["auc"].update(ci95=[0.9, 0.1])),
        "begins above its end",
    ),
    "a metric that is none": (
        lambda r: _edit_metrics(r, lambda m: m["metrics"].update({"\x1b[2J": {}})),
        "metrics",
    ),
    "no metrics": (lambda r: _edit_metrics(r, lambda m: m.clear()), "lacks the field 'metrics'"),
    "method with an escape": (
        lambda r: _edit_manifest(r, method__name="knn\x1b[2J"),
        "method.name 'knn.*expected letters, digits",
    ),
    "target is a path": (lambda r: _edit_manifest(r, target="../../x"), "target '../../x'"),
    "source with a bidi mark": (
        lambda r: _edit_manifest(r, sources=["alpha\u202e"]),
        "sources.0 'alpha.*expected 1 to 64",
    ),
    "an adapter without time": (
        lambda r: _edit_manifest(r, adapters=[{"adapter_id": "a"}]),
        "lacks the field 'adapters.0.kind'",
    ),
    "a duration in words": (lambda r: _edit_manifest(r, seconds={"fit": "long"}), "seconds.fit"),
    "manifest is empty": (lambda r: (r.path / "manifest.json").write_text(""), "JSON"),
    "manifest is cut": (lambda r: _truncate(r.path / "manifest.json"), "JSON"),
    "manifest is a list": (lambda r: (r.path / "manifest.json").write_text("[]"), "list"),
    "manifest is binary": (lambda r: (r.path / "manifest.json").write_bytes(b"\xff\xfe"), "JSON"),
    "no status": (lambda r: _edit_manifest(r, status=_ABSENT), "lacks the field 'status'"),
    "status is failed": (lambda r: _edit_manifest(r, status="failed"), "'failed'"),
    "no task hash": (lambda r: _edit_manifest(r, task__task_hash=_ABSENT), "'task.task_hash'"),
    "method is a text": (lambda r: _edit_manifest(r, method="learner"), "'method' is str"),
    "seed is a text": (lambda r: _edit_manifest(r, seed="0"), "'seed' is str"),
    "seed is a truth value": (lambda r: _edit_manifest(r, seed=True), "'seed' is bool"),
    "seed is negative": (lambda r: _edit_manifest(r, seed=-1), "seed -1"),
    "run id leads out": (lambda r: _edit_manifest(r, run_id="../../../x"), "16 hex digits"),
    "newer format": (lambda r: _edit_manifest(r, format=99), "Update weavebench"),
    "files lead out": (
        lambda r: _edit_manifest(r, files={**r.manifest["files"], "../x": "0" * 64}),
        "leads out of the folder",
    ),
    "files are absolute": (
        lambda r: _edit_manifest(r, files={**r.manifest["files"], "/etc/x": "0" * 64}),
        "leads out of the folder",
    ),
    "file without digest": (
        lambda r: _edit_manifest(r, files={**r.manifest["files"], "x": 3}),
        "no SHA-256",
    ),
    "sets without file": (lambda r: _edit_manifest(r, sets={"ab": {"kind": "full"}}), "no file"),
    "sets is a list": (lambda r: _edit_manifest(r, sets=[]), "'sets' is list"),
    "no metrics file": (lambda r: (r.path / "metrics.json").unlink(), "metrics.json is missing"),
    "metrics were edited": (
        lambda r: (r.path / "metrics.json").write_text('{"metrics": {"ndcg@5": {"mean": 1}}}'),
        "metrics.json was changed",
    ),
    "metrics not listed": (lambda r: _edit_manifest(r, files={}, sets={}), "does not list metrics"),
    "no outcomes": (
        lambda r: (r.path / "per_user.parquet").unlink(),
        "per_user.parquet is missing",
    ),
}


@pytest.mark.parametrize("damage", _READ_DAMAGE, ids=str)
def test_damaged_run_is_named_and_not_repaired(copied, store, damage):
    spoil, expected = _READ_DAMAGE[damage]
    spoil(copied)
    before = {p: p.read_bytes() for p in copied.path.rglob("*") if p.is_file()}
    with pytest.raises(ResultError, match=expected) as caught:
        store.list()
    assert str(copied.path) in str(caught.value)
    damaged = []
    assert store.list(damaged=damaged) == []
    assert [d.path for d in damaged] == [copied.path]
    assert {p: p.read_bytes() for p in copied.path.rglob("*") if p.is_file()} == before


_OUTCOME_DAMAGE = {
    "cut": (lambda r: _truncate(r.path / "per_user.parquet"), "was changed"),
    "not a table": (
        lambda r: (
            (r.path / "per_user.parquet").write_text("no table"),
            _edit_manifest(
                r,
                files={
                    **r.manifest["files"],
                    "per_user.parquet": sha256_file(r.path / "per_user.parquet"),
                },
            ),
        ),
        "not a readable Parquet file",
    ),
    "no user column": (lambda r: _rewrite_users(r, lambda f: f.drop("user")), "no column"),
    "a user is missing": (lambda r: _rewrite_users(r, lambda f: f[1:]), "39 rows"),
    "users are repeated": (
        lambda r: _rewrite_users(r, lambda f: f.with_columns(pl.col("user") // 2)),
        "not strictly ascending",
    ),
    "no ranks": (lambda r: _rewrite_users(r, lambda f: f.drop("n_better")), "n_better"),
    "impossible ranks": (
        lambda r: _rewrite_users(r, lambda f: f.with_columns(n_better=pl.col("n_better") + 30)),
        "impossible",
    ),
    "ranks of text": (
        lambda r: _rewrite_users(r, lambda f: f.with_columns(n_better=pl.lit("a"))),
        "n_better",
    ),
}


@pytest.mark.parametrize("damage", _OUTCOME_DAMAGE, ids=str)
def test_damaged_outcomes_are_refused(copied, store, damage):
    spoil, expected = _OUTCOME_DAMAGE[damage]
    spoil(copied)
    with pytest.raises(ResultError, match=expected):
        store.list()[0].outcomes()


def test_list_orders_filters_and_skips_hidden_and_failed(copied, store):
    for name in (".partial-x", ".work/abc", "failed/alpha/x"):
        (store.root / name).mkdir(parents=True)
        (store.root / name / "manifest.json").write_text("{}")
    assert [r.run_id for r in store.list()] == [copied.run_id]
    assert store.list(target="beta") == []
    assert store.list(method="learner", target="alpha", task_hash=copied.task_hash)
    assert store.list(task_hash="0") == []


def test_store_that_does_not_exist_is_empty(tmp_path):
    store = RunStore(tmp_path / "absent")
    assert store.list() == []
    with pytest.raises(ResultError, match="no run 'abc' among the 0 runs"):
        store.get("abc")
    assert not store.root.exists()


def test_get_takes_an_id_its_first_digits_or_the_folder(copied, store):
    for name in (copied.run_id, copied.run_id[:4], copied.path.name):
        assert store.get(name).run_id == copied.run_id
    with pytest.raises(ResultError, match="empty run id"):
        store.get("")
    other = copied.path.with_name("learner-s1-" + copied.run_id[:-1] + "f")
    shutil.copytree(copied.path, other)
    with pytest.raises(ResultError, match="2 runs"):
        store.locate(copied.run_id[:4])


def test_remove_takes_damaged_runs_and_leaves_no_rest(copied, store):
    (copied.path / "manifest.json").write_text("")
    assert store.remove(copied.run_id[:6]) == copied.path
    assert not copied.path.exists()
    assert [p for p in (store.root / ".work").iterdir() if p.is_dir()] == []


def test_outcomes_have_one_row_per_user_in_order(copied):
    assert copied.users.dtype == np.int32
    assert np.all(np.diff(copied.users) > 0)
    assert len(copied.users) == len(copied.outcomes()) == copied.n_users
    (digest,) = copied.sets
    assert len(copied.outcomes(digest)) == copied.n_users


def test_no_raw_ids_are_stored(copied):
    for path in copied.path.rglob("*"):
        if path.is_file():
            assert b"u17" not in path.read_bytes().replace(b"cpu17", b""), path.name


def test_reading_needs_neither_torch_nor_methods_nor_protocol(copied, store):
    code = (
        "import sys; from pathlib import Path; from bench.runs.store import RunStore;"
        f"run = RunStore(Path({str(store.root)!r})).list()[0]; run.outcomes();"
        "heavy = [m for m in ('torch', 'pandas', 'recbole', 'transformers', 'bench.methods',"
        " 'bench.protocol', 'bench.data') if m in sys.modules];"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_clean_removes_abandoned_checkpoints_only(copied, store):
    from bench.io import lock

    abandoned, running = (store.work_folder(c * 16) for c in "ab")
    for folder in (abandoned, running):
        (folder / "scratch").mkdir(parents=True)
    assert list(store.unfinished()) == [abandoned, running]
    with lock(running):
        assert list(store.clean()) == [abandoned]
    assert list(store.unfinished()) == [running]
    assert store.get(copied.run_id).run_id == copied.run_id


def test_clean_removes_what_killed_processes_left_under_construction(copied, store):
    work = store.root / ".work"
    left = [
        copied.path.parent / ".partial-bench-a",
        store.root / "failed" / "alpha" / ".partial-bench-b",
        work / ".partial-bench-c",
    ]
    earlier = [work / "import-a", work / "trash-b", copied.path.parent / ".partial-c"]
    young = work / "import-young"
    for folder in (*left, *earlier, young):
        folder.mkdir(parents=True)
        (folder / "file").touch()
    for folder in earlier:
        os.utime(folder, (1, 1))
    assert sorted(store.clean()) == sorted([*left, *earlier])
    assert not any(folder.exists() for folder in (*left, *earlier))
    assert young.is_dir()
    assert store.get(copied.run_id).run_id == copied.run_id


def test_run_whose_replacement_never_came_is_read_replaced_and_removed_by_its_name(copied, store):
    waiting = older(copied.path)
    copied.path.rename(waiting)
    (run,) = store.list()
    assert run.path == waiting and len(run.outcomes()) == copied.n_users
    assert store.find("alpha", copied.method, copied.seed, copied.run_id).path == waiting
    assert store.get(copied.path.name).run_id == copied.run_id
    assert store.clean() == [] and store.get(copied.run_id).path == copied.path
    shutil.copytree(copied.path, waiting)
    assert store.clean() == [waiting] and store.get(copied.run_id).path == copied.path
    copied.path.rename(waiting)
    assert store.remove(copied.run_id) == copied.path
    assert store.list() == [] and not waiting.exists()


def test_a_run_that_another_process_removed_is_gone_and_not_damaged(copied, store):
    held = store.get(copied.run_id)
    store.remove(copied.run_id)
    with pytest.raises(RunGoneError, match="another process removed or replaced"):
        held.outcomes()
    with pytest.raises(RunGoneError):
        export_runs([held], store.root / "out.tar.gz")
    with pytest.raises(RunGoneError):
        export_result(held, store.root / "published")
    assert list(store.root.glob("out*")) == []
    assert store.list() == [] and store.find("alpha", "x", 0, copied.run_id) is None


def test_a_damaged_run_is_not_called_gone(copied):
    (copied.path / "per_user.parquet").write_bytes(b"x")
    with pytest.raises(ResultError, match="was changed") as caught:
        read_run(copied.path).outcomes()
    assert not isinstance(caught.value, RunGoneError)


def test_unknown_run_is_wrong_use_and_gets_the_nearest_names(store, copied):
    run = copied
    typed = run.run_id[:-1] + ("0" if run.run_id[-1] != "0" else "1")
    with pytest.raises(MissingRunError, match=f"Did you mean '{run.run_id}'") as caught:
        store.get(typed)
    assert caught.value.exit_code == 2
    with pytest.raises(MissingRunError, match=f"Did you mean .*{run.path.name}"):
        store.get("Learner-s0-" + run.run_id[:12] + "zzzz")
