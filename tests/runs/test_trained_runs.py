"""A real model through the runner: killed in training, resumed, equal to the undisturbed run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from bench.io import read_json
from bench.runs.runner import execute, prepare
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore

SCRIPT = """
import sys
from pathlib import Path
from bench.io import read_json
from bench.runs.runner import execute
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore
execute(RunSpec.model_validate_json(sys.argv[1]), RunStore(Path(sys.argv[2])))
"""


@pytest.mark.slow
def test_training_killed_after_an_epoch_resumes_and_ends_with_equal_outcomes(tmp_path, data_root):
    pytest.importorskip("recbole", reason="needs the asset recbole (bench assets pull recbole)")
    spec = RunSpec(
        method="sasrec",
        target="alpha",
        overrides={"epochs": 12, "patience": 12, "validation_users": 40},
        threads=1,
        data_root=data_root,
    )
    whole = execute(spec, RunStore(tmp_path / "whole"))
    assert whole.manifest["training"]["history"]
    store = RunStore(tmp_path / "killed")
    state = store.work_folder(prepare(spec).run_id) / "state.json"
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, spec.model_dump_json(), str(store.root)],
        stderr=subprocess.PIPE,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    deadline = time.monotonic() + 300
    # The third validation comes after the second epoch's checkpoint.
    while not (state.is_file() and len(read_json(state)["validations"]) >= 3):
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert store.list() == []
    run = execute(spec, store)
    assert run.manifest["attempts"] == 2
    assert "resuming after epoch" in (run.path / "log.txt").read_text()
    for name, column in whole.outcomes().to_columns().items():
        np.testing.assert_array_equal(run.outcomes().to_columns()[name], column)
    losses = [[h["loss"] for h in r.manifest["training"]["history"]] for r in (whole, run)]
    assert losses[0] == losses[1]
