from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.runs.runner import execute
from bench.runs.store import RunStore

SCRIPT = Path(__file__).with_name("kill_at_write.py")


def _kill_everywhere(
    make_spec, tmp_path, *, first: int, step: int, force: bool, timeout: int, swap: bool = True
):
    spec = make_spec(keep_model=True, extra_candidate_seeds=(1,))
    whole = execute(spec, RunStore(tmp_path / "reference"), checkpoint_seconds=0.0)
    options = {
        "root": str(tmp_path),
        "spec": spec.model_dump(mode="json"),
        "per_user_sha256": whole.manifest["files"]["per_user.parquet"],
        "first": first,
        "step": step,
        "force": force,
        "swap": swap,
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=timeout,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout
    report = json.loads(done.stdout)
    # A run that wrote less than this would mean that the writes are not counted.
    assert report["writes"] > 40, report
    assert report["last"] > report["writes"] >= report["last"] - step


@pytest.mark.parametrize("force", [False, True], ids=["new", "replacing"])
def test_kill_at_some_writes_then_the_store_reads_and_the_run_completes(make_spec, tmp_path, force):
    first, step = (26, 33) if force else (5, 23)
    _kill_everywhere(make_spec, tmp_path, first=first, step=step, force=force, timeout=600)


@pytest.mark.slow
@pytest.mark.parametrize("force", [False, True], ids=["new", "replacing"])
def test_kill_at_every_write_then_the_store_reads_and_the_run_completes(make_spec, tmp_path, force):
    _kill_everywhere(make_spec, tmp_path, first=1, step=1, force=force, timeout=1700)


@pytest.mark.slow
def test_kill_at_every_write_of_a_replacement_where_names_cannot_be_swapped(make_spec, tmp_path):
    _kill_everywhere(make_spec, tmp_path, first=1, step=1, force=True, timeout=1700, swap=False)
