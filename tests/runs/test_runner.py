from __future__ import annotations

import errno
import gc
import json
import logging
import os
import sys
import types
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from bench.errors import BenchError, ConfigError, DataError, MethodError, ResultError
from bench.evaluation import metric_per_user
from bench.partial import older
from bench.protocol import ProtocolOptions, RequestSet, Task
from bench.runs.context import RunContext
from bench.runs.results import run_json
from bench.runs.runner import execute, prepare
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore
from bench.runs.stored import read_run
from bench.runs.tasks import load_task


def test_run_is_stored_whole_and_its_figures_follow_from_its_outcomes(store, make_spec):
    run = execute(make_spec(), store)
    names = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*")}
    assert names == {"manifest.json", "metrics.json", "per_user.parquet", "log.txt"}
    assert list((store.root / ".work").iterdir()) == [], "neither checkpoints nor locks stay"
    outcomes = run.outcomes()
    assert len(outcomes) == run.n_users == 40
    for name, figure in run.metrics["metrics"].items():
        per_user = metric_per_user(outcomes, name)
        assert figure["mean"] == pytest.approx(per_user.mean(), abs=1e-12)
        assert figure["ci95"][0] <= figure["mean"] <= figure["ci95"][1]


def test_outcomes_equal_brute_force_over_the_tasks_requests(store, make_spec):
    spec = make_spec("Statistic")
    run = execute(spec, store)
    task = load_task(spec.model_copy(update={"sources": ()})).task
    counts = np.bincount(
        task.train_view(with_sources=False).target.sequences.items, minlength=task.n_items
    )
    (requests, labels), *rest = task.test(run.users).chunks(1000)
    assert not rest
    for row in range(len(requests)):
        scores = counts[requests.candidates[row]]
        positive = scores[labels.position[row]]
        assert run.outcomes().n_better[row] == (scores > positive).sum()
        assert run.outcomes().n_tied[row] == (scores == positive).sum() - 1


def test_manifest_has_identity_environment_costs_and_no_path_of_this_machine(
    store, make_spec, data_root
):
    run = execute(make_spec(), store)
    manifest = run.manifest
    assert manifest["status"] == "done"
    assert manifest["method"]["version"] == "1"
    assert len(manifest["method"]["plugin_sha256"]) == 64
    assert manifest["config"]["epochs"] == 2
    assert manifest["packages"]["numpy"] == np.__version__
    assert manifest["hardware"]["cpus"] == os.cpu_count()
    assert manifest["peak_memory"]["mb"] > 10
    assert manifest["task"]["guard"] == "none"
    assert manifest["data"]["alpha"]["role"] == "target"
    assert manifest["started"].endswith("Z") and manifest["started"] <= manifest["finished"]
    assert manifest["diagnostics"]["scored"] == run.n_users
    assert manifest["tokens"] == {"prompt": 2 * run.n_users}
    assert len(manifest["validations"]) == 2
    seconds = manifest["seconds"]
    assert seconds["fit"] + seconds["score"] <= seconds["total"] <= seconds["total_with_adapters"]
    without_method = {**manifest, "method": {}, "spec": {}}
    assert str(data_root) not in json.dumps(without_method)


def test_json_has_exactly_the_agreed_keys(store, make_spec):
    record = run_json(execute(make_spec(), store))
    assert list(record) == [
        "run_id",
        "method",
        "family",
        "target",
        "sources",
        "profile",
        "seed",
        "task_hash",
        "candidates_hash",
        "users_hash",
        "n_users",
        "metrics",
        "seconds",
        "peak_memory_mb",
        "diagnostics",
        "path",
        "status",
    ]
    assert list(record["seconds"]) == ["fit", "score", "total_with_adapters"]
    assert set(record["metrics"]["ndcg@1"]) == {"mean", "ci95"}
    json.dumps(record, allow_nan=False)


def test_equal_runs_have_equal_outcome_bytes_and_ids(tmp_path, make_spec):
    runs = [execute(make_spec(), RunStore(tmp_path / name)) for name in ("one", "two")]
    assert runs[0].run_id == runs[1].run_id
    assert (runs[0].path / "per_user.parquet").read_bytes() == (
        runs[1].path / "per_user.parquet"
    ).read_bytes()
    assert runs[0].metrics == runs[1].metrics


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"init_seed": 1},
        {"overrides": {"epochs": 3}},
        {"limit_users": 20},
        {"target": "beta"},
        {"dtype": "bfloat16"},
        {"protocol": ProtocolOptions(candidate_seed=1)},
        {"protocol": ProtocolOptions(n_negatives=9)},
        {"protocol": ProtocolOptions(train_on="train+valid")},
        {"overrides": {"needs_sources": True}, "sources": ("beta",)},
    ],
    ids=lambda change: str(next(iter(change))) + str(next(iter(change.values())))[:20],
)
def test_identity_changes_with_everything_that_changes_scores(make_spec, change):
    assert prepare(make_spec()).run_id != prepare(make_spec(**change)).run_id


@pytest.mark.parametrize(
    "change",
    [
        {"threads": 2},
        {"keep_model": True},
        {"extra_candidate_seeds": (1,)},
        {"full_ranking": True},
        {"sources": ("beta",)},
        {"limit_users": 40},
    ],
    ids=lambda change: next(iter(change)),
)
def test_identity_does_not_change_with_what_leaves_scores_alone(make_spec, change):
    assert prepare(make_spec()).run_id == prepare(make_spec(**change)).run_id


def test_runs_of_one_task_share_its_hash_whatever_the_sources(make_spec):
    alone = prepare(make_spec())
    crossed = prepare(make_spec(overrides={"needs_sources": True}, sources=("beta",)))
    assert alone.loaded.task.task_hash == crossed.loaded.task.task_hash


def test_seed_of_methods_without_training_is_always_zero(make_spec):
    assert prepare(make_spec("Statistic", seed=5)).spec.seed == 0
    assert prepare(make_spec("Statistic", seed=5)).run_id == prepare(make_spec("Statistic")).run_id


def test_editing_a_plugin_changes_the_identity(tmp_path, make_spec, data_root, methods_file):
    copy = tmp_path / "edited.py"
    copy.write_text(methods_file.read_text() + "\n# edited\n")
    edited = RunSpec(method=f"{copy}:Learner", target="alpha", data_root=data_root, threads=1)
    assert prepare(edited).run_id != prepare(make_spec()).run_id


def test_stored_run_is_returned_without_running_again(store, make_spec, tmp_path):
    spec = make_spec(overrides={"journal": str(tmp_path / "journal")})
    first = execute(spec, store)
    lines = (tmp_path / "journal").read_text()
    second = execute(spec, store)
    assert (tmp_path / "journal").read_text() == lines
    assert second.manifest == first.manifest
    third = execute(spec, store, force=True)
    assert (tmp_path / "journal").read_text() == lines * 2
    assert third.run_id == first.run_id
    assert len(store.list()) == 1


def test_method_gets_only_the_sources_it_needs(store, make_spec, tmp_path):
    journal = tmp_path / "journal"
    spec = make_spec(overrides={"journal": str(journal), "needs_sources": True}, sources=("beta",))
    run = execute(spec, store)
    assert run.sources == ("beta",)
    assert "sources ['beta']" in journal.read_text()
    assert set(run.manifest["task"]["source_hashes"]) == {"beta"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"target": "alphabet"}, "Did you mean 'alpha'"),
        ({"overrides": {"epochz": 1}}, "epochs"),
        ({"profile": "gpu"}, "profile"),
        ({"overrides": {"needs_sources": True}}, "--sources"),
        ({"overrides": {"needs_sources": True}, "sources": ("alpha",)}, "both the target"),
        ({"overrides": {"needs_sources": True}, "sources": ("beta", "beta")}, "twice"),
        ({"overrides": {"needs_sources": True}, "sources": ("gamma",)}, "unknown domain"),
        ({"sources": ("gamma",)}, "unknown domain 'gamma'"),
        ({"sources": ("alpha",)}, "both the target and a source"),
        ({"sources": ("beta", "beta")}, "twice"),
        ({"protocol": ProtocolOptions(negatives="imported")}, "candidate file"),
        (
            {"protocol": ProtocolOptions(negatives="full"), "extra_candidate_seeds": (1,)},
            "not drawn",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_wrong_use_is_found_before_anything_is_written(store, make_spec, fields, expected):
    with pytest.raises(ConfigError, match=expected):
        execute(make_spec(**fields), store)
    assert not store.root.exists()


def test_missing_domains_are_named_with_the_ways_to_get_them(store, make_spec):
    spec = make_spec(target="amazon-beauty")
    with pytest.raises(DataError, match=r"amazon-beauty.*bench data download"):
        execute(spec, store)


@pytest.mark.parametrize(
    ("fault", "kind", "expected"),
    [
        ("fit", MethodError, r"fit\(\) failed with ValueError: planted failure in fit"),
        ("score", MethodError, r"score\(\) failed with ValueError"),
        (
            "shape",
            MethodError,
            r"shape \(40, 29\), expected float32 or float64 of shape \(40, 30\)",
        ),
        ("dtype", MethodError, "float16 .*expected float32 or float64"),
        ("nan", MethodError, "learner"),
        ("inf", MethodError, "learner"),
        ("type", MethodError, "returned ndarray"),
        ("slots", MethodError, "may_leave_unranked"),
        ("diagnostics", MethodError, "not JSON"),
        ("disk", ResultError, "disk is full"),
        ("memory", MethodError, "out of memory"),
        ("exit", MethodError, "SystemExit"),
        ("own-error", MethodError, "the message of the method itself"),
    ],
)
def test_broken_methods_fail_clearly_and_leave_no_result(store, make_spec, fault, kind, expected):
    spec = make_spec(overrides={"fault": fault, "validation_users": 40})
    with pytest.raises(kind, match=expected):
        execute(spec, store)
    assert store.list() == []
    (log,) = (store.root / ".work").glob("*/log.txt")
    assert "Traceback" in log.read_text()


def test_failed_checkpoints_are_dropped_but_those_of_a_full_disk_are_kept(store, make_spec):
    for fault, kept in (("score", False), ("disk", True)):
        with pytest.raises(BenchError):
            execute(make_spec(overrides={"fault": fault}), store)
        folder = store.work_folder(prepare(make_spec(overrides={"fault": fault})).run_id)
        assert (folder / "scratch").exists() is kept


def test_interrupt_passes_through_and_the_next_attempt_goes_on(store, make_spec, tmp_path):
    journal = tmp_path / "journal"
    spec = make_spec(overrides={"fault": "interrupt-score", "journal": str(journal), "epochs": 4})
    prepared = prepare(spec)
    # The first validation comes before the first checkpoint; the second one is interrupted.
    with pytest.raises(KeyboardInterrupt):
        execute(spec, store)
    assert store.list() == []
    state = json.loads((store.work_folder(prepared.run_id) / "state.json").read_text())
    assert state["attempts"] == 1
    with pytest.raises(KeyboardInterrupt):
        execute(spec, store)
    assert journal.read_text().count("epoch 1 ") == 1
    assert journal.read_text().count("fit seed") == 2


def test_too_many_candidates_for_a_method_are_refused(store, make_spec):
    with pytest.raises(MethodError, match="at most 10 candidates"):
        execute(make_spec("Narrow"), store)
    run = execute(make_spec("Narrow", protocol=ProtocolOptions(n_negatives=9)), store)
    assert set(run.outcomes().n_candidates.tolist()) == {10}


def test_lists_are_ranked_by_their_slots_and_stored_under_both_policies(store, make_spec):
    run = execute(make_spec("Lister"), store)
    outcomes = run.outcomes()
    assert outcomes.has_slots
    assert set(outcomes.rank_keep.tolist()) <= {0, 1, 2}
    assert run.manifest["diagnostics"] == {"invalid": 40}
    assert read_run(run.path).outcomes().rank_close is not None


def test_further_request_sets_equal_runs_of_their_own(store, make_spec):
    run = execute(make_spec(extra_candidate_seeds=(1, 2), full_ranking=True), store)
    kinds = {(s["kind"], s["candidate_seed"]): h for h, s in run.sets.items()}
    assert set(kinds) == {("candidates", 1), ("candidates", 2), ("full", None)}
    alone = execute(make_spec(protocol=ProtocolOptions(candidate_seed=1)), store)
    assert alone.candidates_hash == kinds["candidates", 1]
    extra = run.outcomes(kinds["candidates", 1])
    for name, column in alone.outcomes().to_columns().items():
        np.testing.assert_array_equal(column, extra.to_columns()[name])
    full = run.outcomes(kinds["full", None])
    assert int(full.n_candidates.max()) > 30
    with pytest.raises(ResultError, match="no request set"):
        run.outcomes("f" * 64)


def test_stored_run_is_completed_with_the_sets_it_lacks_and_loses_none(store, make_spec, tmp_path):
    journal = tmp_path / "journal"
    overrides = {"journal": str(journal)}
    first = execute(make_spec(overrides=overrides, keep_model=True, full_ranking=True), store)
    assert first.manifest["model"] == "stored"
    more = execute(make_spec(overrides=overrides, extra_candidate_seeds=(3,)), store)
    assert journal.read_text().count("fit seed") == 1, "the stored model saves the fit"
    assert {s["kind"] for s in more.sets.values()} == {"full", "candidates"}
    assert (more.path / "model" / "weights.npy").is_file()
    assert more.manifest["seconds"]["fit"] == first.manifest["seconds"]["fit"]
    assert (more.path / "per_user.parquet").is_file()
    np.testing.assert_array_equal(more.outcomes().n_better, first.outcomes().n_better)


def test_forced_run_keeps_the_sets_and_the_model_of_the_one_it_replaces(store, make_spec):
    execute(make_spec(keep_model=True, full_ranking=True), store)
    again = execute(make_spec(extra_candidate_seeds=(1,)), store, force=True)
    assert {s["kind"] for s in again.sets.values()} == {"full", "candidates"}
    assert again.manifest["model"] == "stored"
    assert again.manifest["attempts"] == 1
    spec = again.manifest["spec"]
    assert spec["full_ranking"] and spec["keep_model"] and spec["extra_candidate_seeds"] == [1]


def test_damaged_run_is_replaced_only_when_forced(store, make_spec):
    run = execute(make_spec(), store)
    (run.path / "metrics.json").write_text("{}")
    with pytest.raises(ResultError, match="bench runs rm"):
        execute(make_spec(), store)
    assert execute(make_spec(), store, force=True).metrics == run.metrics


@pytest.mark.parametrize("force", [False, True], ids=["new", "replacing"])
def test_full_disk_at_any_write_leaves_nothing_half_written(
    store, make_spec, tmp_path, monkeypatch, force
):
    spec = make_spec(keep_model=True, extra_candidate_seeds=(1,))
    reference = execute(spec, RunStore(tmp_path / "reference"))
    if force:
        execute(spec, store)
    sync, calls, failing_at = os.fsync, [0], 0

    def full(handle: int) -> None:
        calls[0] += 1
        if calls[0] >= failing_at:
            raise OSError(errno.ENOSPC, "No space left on device")
        sync(handle)

    while True:
        failing_at, calls[0] = failing_at + 1, 0
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            try:
                execute(spec, store, force=force, checkpoint_seconds=0.0)
            except ResultError as error:
                assert "disk is full" in str(error)
            else:
                break
        assert len(store.list()) == int(force)
        assert not [p for p in store.root.rglob(".partial-*") if p.is_file()]
        store.clean()  # so that every attempt makes all of its writes
    assert failing_at > 10, "the writes of a run are counted"
    run = store.get(reference.run_id)
    assert (
        run.manifest["files"]["per_user.parquet"]
        == (reference.manifest["files"]["per_user.parquet"])
    )


def test_model_of_a_method_that_cannot_be_saved_is_no_reason_to_repeat_it(store, make_spec):
    run = execute(make_spec("Statistic", keep_model=True), store)
    assert run.manifest["model"] == "not supported"
    again = execute(make_spec("Statistic", keep_model=True), store)
    assert again.manifest["finished"] == run.manifest["finished"]
    assert again.manifest["attempts"] == 1


def test_killed_scoring_goes_on_from_the_saved_model_and_chunk(
    store, make_spec, tmp_path, monkeypatch
):
    journal = tmp_path / "journal"
    spec = make_spec(overrides={"journal": str(journal)})
    whole = execute(spec, RunStore(tmp_path / "reference"))
    journal.unlink()
    monkeypatch.setattr("bench.runs.attempt.chunk_rows", lambda width: 7)
    seen = []
    original = RequestSet.chunks

    def breaking(self, size):
        for number, chunk in enumerate(original(self, size)):
            if number == 3 and not seen:
                seen.append(number)
                raise KeyboardInterrupt
            yield chunk

    monkeypatch.setattr(RequestSet, "chunks", breaking)
    with pytest.raises(KeyboardInterrupt):
        execute(spec, store, checkpoint_seconds=0.0)
    folder = store.work_folder(whole.run_id)
    assert (folder / "model" / "weights.npy").is_file()
    run = execute(spec, store, checkpoint_seconds=0.0)
    assert journal.read_text().count("fit seed") == 1
    assert run.manifest["attempts"] == 2
    assert run.manifest["diagnostics"] == whole.manifest["diagnostics"]
    assert pl.read_parquet(run.path / "per_user.parquet").equals(
        pl.read_parquet(whole.path / "per_user.parquet")
    )


def test_result_whose_replacement_never_arrived_is_still_the_result(store, make_spec):
    run = execute(make_spec(), store)
    run.path.rename(older(run.path))
    assert execute(make_spec(), store).manifest == run.manifest
    again = execute(make_spec(), store, force=True)
    assert again.path == run.path
    assert [path.name for path in run.path.parent.iterdir()] == [run.path.name]


def test_validation_uses_whole_histories_and_the_configured_number_of_users(
    store, make_spec, monkeypatch
):
    seen = []
    original = RunContext.validate

    def watched(self, method):
        seen.append(self.validator.requests)
        return original(self, method)

    monkeypatch.setattr(RunContext, "validate", watched)
    spec = make_spec(limit_users=5, overrides={"validation_users": 12})
    execute(spec, store)
    assert {len(requests) for requests in seen} == {12}
    task = load_task(spec.model_copy(update={"sources": ()})).task
    expected, _ = task.validation(task.subset(12))
    np.testing.assert_array_equal(seen[0].history.items, expected.history.items)


def test_validation_loss_is_the_softmax_cross_entropy(store, make_spec, monkeypatch):
    spec = make_spec()
    task = load_task(spec.model_copy(update={"sources": ()})).task
    requests, labels = task.validation(task.subset(10))
    losses = []
    original = RunContext.validate

    def both(self, method):
        weights = method.weights.astype(np.float64)
        rows = weights[requests.candidates]
        picked = rows[np.arange(len(rows)), labels.position]
        expected = np.mean(np.log(np.exp(rows).sum(axis=1)) - picked)
        losses.append((self.validation_loss(method), expected))
        return original(self, method)

    monkeypatch.setattr(RunContext, "validate", both)
    execute(spec, store)
    assert losses
    for found, expected in losses:
        assert found == pytest.approx(expected, abs=1e-9)


def test_nothing_reachable_from_the_context_leads_to_the_task(store, make_spec, monkeypatch):
    """Follow every reference from the context, through closures and bound methods."""
    checked = []
    original = RunContext.validate

    def walk(self, method):
        checked.append(_reachable(self))
        return original(self, method)

    monkeypatch.setattr(RunContext, "validate", walk)
    execute(make_spec(), store)
    assert checked
    for objects in checked:
        assert not [o for o in objects if isinstance(o, (Task, RequestSet))]
        names = {type(o).__name__ for o in objects}
        assert "Requests" in names, "the walk reaches the validation requests at least"
        assert not names & {"PreparedRun", "LoadedTask", "DomainPart", "Domain", "TaskCache"}


def _reachable(root: object) -> list[object]:
    skipped = (type, types.ModuleType, types.FrameType, logging.Manager)
    seen: dict[int, object] = {}
    waiting = [root]
    while waiting:
        current = waiting.pop()
        if id(current) in seen or isinstance(current, skipped):
            continue
        seen[id(current)] = current
        if isinstance(current, types.FunctionType):
            # A function's globals reach every module; its closure and defaults are what it carries.
            waiting += [cell.cell_contents for cell in current.__closure__ or ()]
            waiting += list(current.__defaults__ or ())
            continue
        waiting += gc.get_referents(current)
    return list(seen.values())


def test_running_changes_no_global_state(store, make_spec):
    def state():
        return (
            np.random.get_state()[1].tolist(),  # noqa: NPY002  (the global generator is the point)
            dict(os.environ),
            Path.cwd(),
            list(sys.argv),
            set(logging.root.manager.loggerDict),
        )

    before = state()
    execute(make_spec("Statistic"), store)
    assert state() == before


def test_no_space_is_reported_before_the_fit(store, make_spec, tmp_path, monkeypatch):
    journal = tmp_path / "journal"
    monkeypatch.setattr("bench.runs.runner._BYTES_AT_LEAST", 1 << 62)
    with pytest.raises(BenchError, match="MB free"):
        execute(make_spec(overrides={"journal": str(journal)}), store)
    assert not journal.exists()


def test_log_has_utc_times_stages_and_validation_figures(store, make_spec):
    text = (execute(make_spec(), store).path / "log.txt").read_text()
    assert "validation NDCG@5" in text
    assert "fit " in text and "score " in text
    assert all(line[10] == "T" and line[19] == "Z" for line in text.splitlines())


def test_imported_candidates_rank_like_the_drawn_ones_under_a_task_of_their_own(
    store, make_spec, tmp_path
):
    from bench.protocol.candidate_files import export_candidates

    drawn = execute(make_spec(), store)
    file = tmp_path / "candidates.csv"
    export_candidates(load_task(make_spec(sources=())).task, file)
    imported = execute(
        make_spec(protocol=ProtocolOptions(negatives="imported"), candidates=file), store
    )
    np.testing.assert_array_equal(imported.outcomes().n_better, drawn.outcomes().n_better)
    assert imported.task_hash != drawn.task_hash
    assert len(imported.manifest["task"]["options"]["candidates_file"]) == 64
