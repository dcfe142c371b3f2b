"""A stored run that an import replaces is whole until the new one is, whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.runs.archive import export_runs
from bench.runs.runner import execute
from bench.runs.store import RunStore

SCRIPT = Path(__file__).with_name("import_with_faults.py")


@pytest.mark.parametrize(
    ("fault", "swap"),
    [
        ("SIGKILL", True),
        ("ENOSPC", False),
        pytest.param("SIGKILL", False, marks=pytest.mark.slow),
        pytest.param("EIO", True, marks=pytest.mark.slow),
        pytest.param("EACCES", True, marks=pytest.mark.slow),
    ],
)
def test_replaced_run_stays_until_the_imported_one_is_complete(make_spec, tmp_path, fault, swap):
    new = execute(make_spec("Statistic", full_ranking=True), RunStore(tmp_path / "new"))
    old = execute(make_spec("Statistic"), RunStore(tmp_path / "old"))
    assert old.run_id == new.run_id
    assert old.manifest["files"] != new.manifest["files"]
    (tmp_path / "faults").mkdir()
    options = {
        "root": str(tmp_path / "faults"),
        "archive": str(export_runs([new], tmp_path / "new.tar.gz")),
        "older": str(tmp_path / "old"),
        "old": dict(old.manifest["files"]),
        "new": dict(new.manifest["files"]),
        "fault": fault,
        "swap": swap,
    }
    done = subprocess.run(
        [sys.executable, str(SCRIPT), json.dumps(options)],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:] + done.stdout
    assert json.loads(done.stdout)["writes"] > 20
