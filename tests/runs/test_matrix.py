from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.errors import ConfigError, DataError, InUseError, MethodError
from bench.methods import QuietProgress
from bench.runs.matrix import MatrixInterrupted, expand, run_matrix
from bench.runs.runner import execute, prepare
from bench.runs.store import RunStore
from bench.waiting import patience

SCRIPT = """
import json, sys
from pathlib import Path
from bench.runs.matrix import MatrixInterrupted, run_matrix
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore
specs = [RunSpec.model_validate(values) for values in json.loads(sys.argv[1])]
try:
    results = run_matrix(specs, RunStore(Path(sys.argv[2])), checkpoint_seconds=0.0)
except MatrixInterrupted as error:
    print(json.dumps({"finished": [r.status for r in error.results]}))
    sys.exit(130)
print(json.dumps([r.status for r in results]))
"""


def _start(specs, root: Path) -> subprocess.Popen[str]:
    values = json.dumps([spec.model_dump(mode="json") for spec in specs])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT, values, str(root)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_expand_takes_targets_first_and_deterministic_methods_once(methods_file, data_root):
    methods = [f"{methods_file}:Learner", f"{methods_file}:Statistic"]
    specs = expand(methods, ["alpha", "beta"], (0, 1), data_root=data_root, threads=1)
    assert [(s.target, s.method.rpartition(":")[2], s.seed) for s in specs] == [
        ("alpha", "Learner", 0),
        ("alpha", "Learner", 1),
        ("alpha", "Statistic", 0),
        ("beta", "Learner", 0),
        ("beta", "Learner", 1),
        ("beta", "Statistic", 0),
    ]
    with pytest.raises(ConfigError, match="Did you mean 'alpha'"):
        expand(methods, ["alpha", "alphabet"], (0,), data_root=data_root)


def test_default_sources_are_the_rest_of_the_study_group_where_needed(methods_file, data_root):
    learner = f"{methods_file}:Learner"
    (spec,) = expand([learner], ["amazon-beauty"], overrides={"needs_sources": True})
    assert spec.sources == ("amazon-sports", "amazon-clothing", "amazon-food")
    (spec,) = expand([learner], ["amazon-beauty"])
    assert spec.sources == ()


def test_a_method_of_one_source_has_one_run_for_each(methods_file, data_root):
    settings = {"needs_sources": True, "single_source": True}
    one = [f"{methods_file}:Learner"]
    specs = expand(one, ["amazon-beauty"], (0, 1), overrides=settings)
    assert [(s.sources, s.seed) for s in specs] == [
        ((source,), seed)
        for seed in (0, 1)
        for source in ("amazon-sports", "amazon-clothing", "amazon-food")
    ]
    (spec,) = expand(one, ["alpha"], sources=("beta",), overrides=settings, data_root=data_root)
    named = expand(one, ["alpha"], sources=("beta",), overrides={"needs_sources": True},
                   data_root=data_root)  # fmt: skip
    assert spec.sources == named[0].sources == ("beta",)


def test_matrix_records_failures_goes_on_and_skips_what_is_stored(store, make_spec):
    bad = make_spec(overrides={"fault": "fit"})
    specs = [make_spec("Statistic"), bad, make_spec(), make_spec(target="beta")]
    seen = []
    results = run_matrix(specs, store, on_result=seen.append)
    assert [r.status for r in results] == ["done", "failed", "done", "done"]
    assert seen == results
    assert isinstance(results[1].error, MethodError)
    record = json.loads((results[1].record / "manifest.json").read_text())
    assert record["status"] == "failed" and record["error"] == "MethodError"
    assert "planted failure in fit" in record["traceback"]
    assert [f["spec"]["overrides"] for f in store.failures()] == [{"fault": "fit"}]
    assert len(store.list()) == 3
    again = run_matrix(specs, store)
    assert [r.status for r in again] == ["stored", "failed", "stored", "stored"]
    assert len(store.failures()) == 1
    assert [r.status for r in run_matrix(specs[:1], store, force=True)] == ["done"]


def test_record_of_a_failure_goes_when_the_run_succeeds(store, make_spec, monkeypatch):
    monkeypatch.setattr("bench.runs.runner._BYTES_AT_LEAST", 1 << 62)
    assert run_matrix([make_spec()], store)[0].status == "failed"
    assert len(store.failures()) == 1
    monkeypatch.undo()
    monkeypatch.setenv("BENCH_CACHE", str(store.root / ".cache"))
    assert run_matrix([make_spec()], store)[0].status == "done"
    assert store.failures() == []


def test_wrong_use_stops_a_matrix_before_its_first_run(store, make_spec):
    with pytest.raises(ConfigError):
        run_matrix([make_spec(), make_spec(overrides={"epochz": 1})], store)
    with pytest.raises(DataError, match=r"amazon-beauty.*amazon-toys"):
        run_matrix(
            [make_spec(), make_spec(target="amazon-beauty"), make_spec(target="amazon-toys")], store
        )
    assert store.list() == []


def test_interrupt_keeps_finished_runs_and_names_the_current_one(store, make_spec):
    specs = [make_spec("Statistic"), make_spec(overrides={"fault": "interrupt"}), make_spec()]
    with pytest.raises(MatrixInterrupted) as caught:
        run_matrix(specs, store)
    assert [r.status for r in caught.value.results] == ["done"]
    assert caught.value.current == specs[1]
    assert [r.method for r in store.list()] == ["statistic"]


def test_ctrl_c_leaves_nothing_half_written_and_the_matrix_resumes(store, make_spec, tmp_path):
    journal = tmp_path / "journal"
    slow = make_spec(overrides={"journal": str(journal), "pause": 0.4, "epochs": 6})
    specs = [make_spec("Statistic"), slow]
    process = _start(specs, store.root)
    deadline = time.monotonic() + 240
    while not (journal.exists() and "epoch 2" in journal.read_text()):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 130, err
    assert json.loads(out) == {"finished": ["done"]}
    assert [r.method for r in store.list()] == ["statistic"]
    assert [r.status for r in run_matrix(specs, store)] == ["stored", "done"]
    epochs = [line for line in journal.read_text().splitlines() if line.startswith("epoch 1 ")]
    assert len(epochs) == 1, "the second attempt goes on from the checkpoint"
    assert store.list(method="learner")[0].manifest["attempts"] == 2


def test_two_processes_share_a_matrix_and_train_each_run_once(store, make_spec, tmp_path):
    journal = tmp_path / "journal"
    overrides = {"journal": str(journal), "pause": 0.2, "epochs": 3}
    specs = [make_spec(overrides=overrides, seed=seed) for seed in (0, 1)]
    processes = [_start(specs, store.root) for _ in range(2)]
    outputs = [process.communicate(timeout=400) for process in processes]
    assert [p.returncode for p in processes] == [0, 0], outputs
    fits = [line for line in journal.read_text().splitlines() if line.startswith("fit")]
    assert sorted(fits) == ["fit seed 0 sources []", "fit seed 1 sources []"]
    assert len(store.list()) == 2
    statuses = sorted(status for out, _ in outputs for status in json.loads(out))
    assert statuses == ["done", "done", "stored", "stored"]


def test_run_in_use_is_not_waited_for_unless_asked(store, make_spec):
    from bench.io import lock

    spec = make_spec()
    with (
        lock(store.work_folder(prepare(spec).run_id)),
        pytest.raises(InUseError, match="another process"),
    ):
        execute(spec, store, wait=False)
    assert execute(spec, RunStore(store.root), wait=False).run_id


def test_a_run_that_stays_in_use_is_named_as_not_done_and_the_others_are_done(store, make_spec):
    from bench.io import lock

    held, free = make_spec(), make_spec("Statistic")
    told: list[str] = []

    class Told(QuietProgress):
        def status(self, text: str) -> None:
            told.append(text)

        def line(self, text: str) -> None:
            told.append(text)

    with lock(store.work_folder(prepare(held).run_id)), patience(0.3):
        results = run_matrix([held, free], store, progress=Told())
    assert [r.status for r in results] == ["in use", "done"]
    assert isinstance(results[0].error, InUseError) and results[0].run is None
    assert store.failures() == [], "it did not fail"
    (left,) = [text for text in told if "left for the end" in text]
    (waits,) = [text for text in told if text.startswith("waiting for")]
    assert f"({os.getpid()}: " in waits and "at most 0 s" in waits and held.label in left
    assert [r.status for r in run_matrix([held, free], store)] == ["done", "stored"]
