"""Lock files: they go with what they guarded, and never let two processes in at once."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

import pytest

from bench.errors import ResultError
from bench.io import lock
from bench.runs.runner import execute
from bench.runs.store import sweep_locks


def test_stale_locks_are_removed_when_a_run_completes_and_held_ones_stay(store, make_spec):
    work = store.root / ".work"
    work.mkdir(parents=True)
    stale, held = work / ("a" * 16), work / ("b" * 16)
    stale.with_suffix(".lock").touch()
    with lock(held):
        execute(make_spec("Statistic"), store)
        assert sorted(p.name for p in work.iterdir()) == [f"{held.name}.lock"]
    assert list(work.iterdir()) == []


def test_lock_of_an_interrupted_run_stays_with_its_checkpoints(store, make_spec):
    with pytest.raises(KeyboardInterrupt):
        execute(make_spec(overrides={"fault": "interrupt"}), store)
    (folder,) = store.unfinished()
    sweep_locks(folder.parent)
    assert folder.with_name(f"{folder.name}.lock").is_file()
    assert list(store.clean()) == [folder]
    assert list(folder.parent.iterdir()) == []


def test_removed_lock_is_taken_by_nobody_else_meanwhile(tmp_path):
    path = tmp_path / "run"
    with lock(path), pytest.raises(ResultError, match="in use"), lock(path, timeout=0):
        pass
    assert list(tmp_path.iterdir()) == []


def _enter(path: Path, inside: Path, times: int) -> None:
    """Hold the lock again and again; two holders at once fail on the folder ``inside``."""
    for _ in range(times):
        with lock(path):
            inside.mkdir()
            time.sleep(0.002)
            inside.rmdir()


def test_processes_that_wait_for_a_lock_being_removed_never_hold_it_together(tmp_path):
    work = tmp_path / "work"
    work.mkdir()
    context = multiprocessing.get_context("spawn")
    processes = [
        context.Process(target=_enter, args=(work / "run", tmp_path / "inside", 40))
        for _ in range(3)
    ]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0, 0]
    assert list(work.iterdir()) == []
