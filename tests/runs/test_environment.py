from __future__ import annotations

import json
import socket
import subprocess
import sys

import numpy as np
import pytest

from bench.errors import MethodError
from bench.methods import Capabilities, Scores, resolve
from bench.runs.environment import (
    MemoryMeter,
    available_threads,
    git_revision,
    hardware,
    limit_threads,
    package_versions,
    run_threads,
)
from bench.runs.privacy import without_paths
from bench.runs.records import jsonable
from bench.runs.runner import execute
from bench.runs.scoring import merge_diagnostics
from bench.validation import chunk_rows


def test_peak_memory_belongs_to_the_run():
    meter = MemoryMeter()
    if meter.kind != "run":
        pytest.skip("the kernel does not allow the peak to be reset here")
    block = np.ones(25_000_000)
    peak = meter.peak_mb()
    assert peak >= meter.start_mb + 150
    del block
    assert meter.peak_mb() >= peak - 1
    assert MemoryMeter().peak_mb() < peak - 100, "an earlier run's peak is not counted"
    assert set(meter.as_dict()) >= {"mb", "mb_at_start", "kind"}


def test_hardware_names_neither_host_nor_user():
    text = json.dumps(hardware("cpu"))
    assert socket.gethostname() not in text
    assert hardware("cpu")["cpus"] >= available_threads() >= 1


def test_versions_are_those_that_are_installed():
    versions = package_versions()
    assert versions["numpy"] == np.__version__
    assert versions["python"] == ".".join(map(str, sys.version_info[:3]))


def test_revision_is_a_commit_or_nothing():
    revision = git_revision()
    assert revision is None or len(revision.removesuffix("+changes")) == 40


def test_threads_are_limited_and_restored_without_importing_torch():
    code = (
        "import os, sys\n"
        "from bench.runs.environment import available_threads, limit_threads\n"
        "for name in ('OMP_NUM_THREADS', 'OMP_WAIT_POLICY'):\n"
        "    os.environ.pop(name, None)\n"
        "with limit_threads(1) as apply:\n"
        "    apply()\n"
        "    assert 'torch' not in sys.modules\n"
        "    assert os.environ['OMP_WAIT_POLICY'] == 'PASSIVE'\n"
        "    import torch\n"
        "    assert torch.get_num_threads() == 1, 'imported inside the block'\n"
        "    torch.set_num_threads(3)\n"
        "    apply()\n"
        "    assert torch.get_num_threads() == 1, 'changed by the method'\n"
        "assert 'OMP_NUM_THREADS' not in os.environ\n"
        "assert torch.get_num_threads() == available_threads()\n"
        "torch.set_num_threads(3)\n"
        "with limit_threads(2):\n"
        "    assert torch.get_num_threads() == 2\n"
        "assert torch.get_num_threads() == 3\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_threads_are_restored_after_an_error():
    with pytest.raises(ValueError, match="planted"), limit_threads(1):
        raise ValueError("planted")


def test_threads_are_what_is_asked_for_else_what_helps_within_what_is_allowed(
    make_spec, monkeypatch
):
    monkeypatch.setattr("bench.runs.environment.available_threads", lambda: 4)
    free = make_spec("random").model_copy(update={"threads": None})
    asked = free.model_copy(update={"threads": 6})
    small, large = resolve("sasrec"), resolve("target-only")
    assert [run_threads(free, cls) for cls in (small, large)] == [1, 4]
    assert [run_threads(asked, cls) for cls in (small, large)] == [6, 6], "a number wins"
    monkeypatch.setattr("bench.runs.environment.available_threads", lambda: 1)
    assert run_threads(free, large) == 1


def test_the_manifest_names_the_threads_that_were_used(store, make_spec, monkeypatch):
    monkeypatch.setattr("bench.runs.environment.available_threads", lambda: 3)
    stored = execute(make_spec("Statistic").model_copy(update={"threads": None}), store)
    assert stored.manifest["threads"] == 1 and stored.manifest["spec"]["threads"] is None


@pytest.mark.parametrize(
    ("width", "rows"), [(1, 2048), (30, 2048), (1000, 2048), (8000, 1000), (10**8, 1)]
)
def test_chunks_are_bounded_in_rows_and_cells(width, rows):
    assert chunk_rows(width) == rows


def test_counters_of_chunks_are_added_and_other_values_kept():
    total: dict = {}
    chunks = [
        {"n": 1, "share": 0.5, "deep": {"a": 1}, "engine": "x", "flag": True, "cut": np.int64(2)},
        {"n": 2, "share": 0.25, "deep": {"a": 2, "b": 1}, "engine": "x", "flag": True, "cut": 3},
        {"n": 3, "engine": "y", "flag": True},
        {"engine": "y"},
    ]
    for chunk in chunks:
        merge_diagnostics(total, chunk)
    assert total == {
        "n": 6,
        "share": 0.75,
        "deep": {"a": 3, "b": 1},
        "engine": ["x", "y"],
        "flag": True,
        "cut": 5,
    }
    assert chunks[0]["deep"] == {"a": 1}, "the method's own objects are not changed"


def test_slots_must_fit_the_requests():
    from bench.data.domain import Sequences
    from bench.protocol import Requests
    from bench.validation import check_scores

    requests = Requests(
        "d",
        np.arange(2, dtype=np.int32),
        Sequences(np.zeros(3, dtype=np.int64), np.zeros(0, dtype=np.int32)),
        np.zeros((2, 4), dtype=np.int32),
    )
    values = np.zeros((2, 4), dtype=np.float32)
    lists = Capabilities(may_leave_unranked=True)
    check_scores(Scores(values, np.zeros((2, 3), dtype=np.int16)), requests, lists, "m")
    for slots, expected in (
        (np.zeros((2, 3), dtype=np.int64), "int64"),
        (np.zeros(6, dtype=np.int16), "expected int16 of shape"),
        (np.zeros((1, 3), dtype=np.int16), "1 rows for 2 requests"),
        ([[0]], "list"),
    ):
        with pytest.raises(MethodError, match=expected):
            check_scores(Scores(values, slots), requests, lists, "m")
    with pytest.raises(MethodError, match="list"):
        check_scores(Scores(values.tolist()), requests, lists, "m")


def test_json_values_are_plain_and_finite():
    value = {1: np.float32(0.5), "a": (np.arange(2), None), "b": [np.bool_(True)]}
    assert jsonable(value) == {"1": 0.5, "a": [[0, 1], None], "b": [True]}
    for bad in (float("nan"), object(), {"x": [float("inf")]}):
        with pytest.raises((TypeError, ValueError)):
            jsonable(bad)


def test_paths_are_cut_to_their_last_part_and_nothing_else_is_changed():
    value = {
        "a": "/home/me/file.py:Class",
        "b": ["C:\\data\\x", "~/y", "a/b", "https://x/y", "2026/01/31", "a/b/c"],
        "n": {"me/x.csv": 1, "you/x.csv": 2},
    }
    assert without_paths(value) == {
        "a": "file.py:Class",
        "b": ["x", "y", "a/b", "https://x/y", "2026/01/31", "c"],
        "n": {"x.csv": 1, "x.csv (2)": 2},
    }
