"""The adapter store: once and whole, costs, kills, lineage, names."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from adapter_makers import SPORTS, Maker, parents, recipe, write
from safetensors.numpy import load_file

from bench.errors import MethodError, MissingAdapterError, ResultError
from bench.llm.adapter_files import CONFIG, METADATA, WEIGHTS
from bench.llm.adapters import AdapterStore, MergedSpec, adapters_of
from bench.testing import make_context

WORKER = Path(__file__).with_name("adapter_worker.py")


# --- once and whole -------------------------------------------------------------------------------


def test_an_adapter_is_made_once_and_found_by_every_later_store(store):
    make = Maker(3.0, {"tokens": np.int64(120), "loss": (2.5, np.float32(1.5))}, seconds=0.1)
    assert not store.has(recipe().adapter_id)
    assert store.find(recipe().adapter_id) is None
    made = store.obtain(recipe(), make)
    again = AdapterStore(store.root)
    found = again.obtain(recipe(), make)
    assert make.calls == 1
    assert found.folder == made.folder == store.root / recipe().adapter_id
    assert load_file(found.folder / WEIGHTS)["w"].tolist() == [[3.0] * 3] * 2
    assert sorted(p.name for p in found.folder.iterdir()) == sorted([CONFIG, WEIGHTS, METADATA])
    assert found.metadata["report"] == {"tokens": 120, "loss": [2.5, 1.5]}
    assert found.seconds >= 0.1
    assert (store.used[0].trained_now, again.used[0].trained_now) == (True, False)
    assert again.used[0].seconds == found.seconds
    assert [a.adapter_id for a in again.list()] == [made.adapter_id]
    assert not store.unfinished()
    assert sorted(p.name for p in store.root.iterdir()) == [".work", recipe().adapter_id]
    assert list((store.root / ".work").iterdir()) == []


def test_looking_whether_it_is_there_is_no_use(store):
    store.obtain(recipe(), Maker())
    other = AdapterStore(store.root)
    assert other.has(recipe().adapter_id)
    assert other.used == ()
    assert other.find(recipe().adapter_id) is not None
    assert [use.adapter_id for use in other.used] == [recipe().adapter_id]


def test_watchers_hear_of_every_use_and_of_time_that_was_spent_in_vain(store):
    heard = []
    store.watch(lambda *told: heard.append(told))
    with pytest.raises(KeyboardInterrupt):
        store.obtain(recipe(), _interrupted(0.2))
    store.obtain(recipe(), Maker())
    store.obtain(recipe(), Maker())
    (none, wasted, _), ((made,), spent, cpu), ((found,), idle, idle_cpu) = heard
    assert none == ()
    assert wasted >= 0.2
    assert made.trained_now
    assert spent > 0
    assert cpu >= 0
    assert found == made, "what this run trained stays trained by it"
    assert (idle, idle_cpu) == (0.0, 0.0)


def _interrupted(seconds: float = 0.0, error: BaseException | None = None):
    def make(out: Path, checkpoints: Path):
        time.sleep(seconds)
        (checkpoints / "step-1").write_text("so far")
        write(out)
        raise KeyboardInterrupt if error is None else error

    return make


class OutOfMemoryError(RuntimeError):
    """Has the name of torch's exception for a full accelerator."""


@pytest.mark.parametrize(
    "error",
    [
        KeyboardInterrupt(),
        OSError(28, "No space left on device"),
        MemoryError(),
        OutOfMemoryError(),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_may_pass_keeps_checkpoints_and_cost(store, error):
    with pytest.raises(type(error)):
        store.obtain(recipe(), _interrupted(0.2, error))
    assert not store.has(recipe().adapter_id)
    assert [p.name for p in store.unfinished()] == [recipe().adapter_id]
    seen = []

    def make(out: Path, checkpoints: Path):
        seen.extend(p.name for p in checkpoints.iterdir())
        assert list(out.iterdir()) == [], "half-written files are gone"
        write(out)
        return {}

    cost = store.obtain(recipe(), make).metadata["cost"]
    assert seen == ["step-1"]
    assert cost["seconds"] >= 0.2
    assert cost["attempts"] == 2
    assert not store.unfinished()


def test_a_training_that_fails_by_itself_leaves_nothing(store):
    with pytest.raises(ValueError, match="planted"):
        store.obtain(recipe(), _interrupted(error=ValueError("planted")))
    assert not store.unfinished()
    assert list(store.root.rglob("*")) == [store.root / ".work"]


def test_a_report_that_knows_of_earlier_attempts_is_believed(store):
    report = {"seconds": 5000.0, "cpu_seconds": 9000.0, "tokens": 7}
    cost = store.obtain(recipe(), Maker(report=report)).metadata["cost"]
    assert (cost["seconds"], cost["cpu_seconds"], cost["tokens"]) == (5000.0, 9000.0, 7)
    low = store.obtain(recipe(SPORTS), Maker(report={"seconds": 0.0}, seconds=0.1))
    assert low.seconds >= 0.1


# --- two processes, and kills ---------------------------------------------------------------------


def worker(store: AdapterStore, log: Path, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), str(store.root), str(log), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def test_two_processes_that_ask_for_one_adapter_train_it_once(store, tmp_path):
    log = tmp_path / "log"
    both = [worker(store, log, "train", 3, 0.3) for _ in range(2)]
    answers = [process.communicate(timeout=60) for process in both]
    assert [process.returncode for process in both] == [0, 0], answers
    told = [json.loads(out) for out, _ in answers]
    assert sorted(one["trained_now"] for one in told) == [False, True]
    assert log.read_text().splitlines() == ["step 1", "step 2", "step 3"]
    waited = next(one for one in told if not one["trained_now"])
    # The one that waited says so, or came when all was done.
    assert waited["status"] in ([], ["waiting"])


def test_a_killed_training_leaves_no_adapter_and_its_checkpoints_serve_the_next(store, tmp_path):
    log = tmp_path / "log"
    process = worker(store, log, "train", 50, 0.1)
    deadline = time.monotonic() + 60
    while not (log.exists() and "step 3" in log.read_text()):
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len(log.read_text().splitlines())
    assert 3 <= done < 50
    assert store.list() == []
    (left,) = store.unfinished()
    told = json.loads(worker(store, log, "train", 50, 0.0).communicate(timeout=60)[0])
    assert told["trained_now"]
    steps = log.read_text().splitlines()
    # At most the step that was being written when the kill came is done again.
    assert len(steps) in (50, 51)
    assert steps[-1] == "step 50"
    assert not left.exists()
    assert store.list()[0].metadata["report"] == {"steps": 50}


def test_kill_at_any_write_leaves_nothing_or_all(store, tmp_path):
    """The worker is killed before its n-th change to the disk, for every n until it gets through."""
    done = subprocess.run(
        [sys.executable, str(WORKER), str(tmp_path), "-", "kill-everywhere"],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert json.loads(done.stdout)["writes"] > 15


def test_an_adapter_that_is_being_made_is_neither_cleaned_nor_listed(store, tmp_path):
    log = tmp_path / "log"
    process = worker(store, log, "train", 10, 0.2)
    deadline = time.monotonic() + 60
    while not log.exists():
        assert time.monotonic() < deadline, process.communicate()
        time.sleep(0.02)
    assert store.list() == []
    assert store.clean() == []
    assert len(store.unfinished()) == 1
    assert process.communicate(timeout=60)[0]
    assert len(store.list()) == 1


# --- lineage --------------------------------------------------------------------------------------


def test_a_merged_adapter_brings_the_costs_of_what_it_was_merged_from(store):
    ids = parents(store)
    merge = MergedSpec(method="weight-average", parents=tuple(ids), parameters={"space": "factor"})
    make = Maker(2.0)
    store.obtain(merge, make)
    later = AdapterStore(store.root)
    merged = later.obtain(merge, make)
    assert make.calls == 1
    assert merged.kind == "merged"
    assert [use.adapter_id for use in later.used] == [*ids, merged.adapter_id]
    assert sum(use.seconds for use in later.used) == pytest.approx(300.0, abs=5)
    assert sum(use.tokens for use in later.used) == 30
    # Also when they have been removed meanwhile, and when it is merged again.
    twice = later.obtain(MergedSpec(method="ties", parents=(merged.adapter_id, ids[0])), Maker())
    for one in ids:
        later.remove(one)
    last = AdapterStore(store.root)
    assert last.find(twice.adapter_id) is not None
    assert [use.adapter_id for use in last.used] == [*ids, merged.adapter_id, twice.adapter_id]


def test_a_merge_of_something_that_is_not_stored_is_refused(store):
    with pytest.raises(ResultError, match="0000000000000000 is to be merged"):
        store.obtain(MergedSpec(method="ties", parents=("0" * 16,)), Maker())
    assert not store.unfinished()


def test_hashes_that_a_merger_asks_for_are_in_the_metadata(store):
    factors = "f" * 64

    def init(out: Path) -> str:
        write(out, 0.0)
        return factors

    folder = store.init("b" * 64, recipe().lora, 0, init)
    assert store.init("b" * 64, recipe().lora, 0, init) == folder
    assert store.init("b" * 64, recipe().lora, 1, init) != folder
    trained = store.obtain(recipe(), Maker())
    other = store.obtain(recipe(SPORTS, init_seed=2), Maker())
    assert (trained.metadata["base_hash"], trained.metadata["init_hash"]) == ("b" * 64, factors)
    assert store.get(folder.name).metadata["init_hash"] == factors
    assert other.metadata["init_hash"] is None, "its initialisation is not stored"
    assert [use.kind for use in store.used] == ["trained", "trained"]

    def merge(out: Path, checkpoints: Path):
        write(out)
        own = {"init_hash": factors, "truncation": {"relative_error": 0.25}}
        (out / METADATA).write_text(json.dumps(own))
        return {}

    spec = MergedSpec(method="ties", parents=(trained.adapter_id, other.adapter_id))
    merged = store.obtain(spec, merge)
    assert merged.metadata["init_hash"] == factors
    assert merged.metadata["base_hash"] == "b" * 64
    assert merged.metadata["origin"]["truncation"] == {"relative_error": 0.25}
    assert merged.metadata["adapter_id"] == spec.adapter_id


# --- names, context, imports ----------------------------------------------------------------------


def test_names_are_ids_or_their_first_digits(store):
    ids = parents(store)
    assert store.get(ids[0][:6]).adapter_id == ids[0]
    with pytest.raises(MissingAdapterError, match="no adapter 'zzz' among the 2"):
        store.get("zzz")
    with pytest.raises(MissingAdapterError, match="no adapter ''"):
        store.get("")
    shutil.copytree(store.root / ids[0], store.root / (ids[0][:15] + "x"))
    assert len(store.folders()) == 2, "no adapter: not 16 hex digits"
    twin = ids[0][:15] + ("0" if ids[0][15] != "0" else "1")
    shutil.copytree(store.root / ids[0], store.root / twin)
    with pytest.raises(MissingAdapterError, match="means 2 adapters"):
        store.remove(ids[0][:15])
    store.remove(ids[0])
    assert not store.has(ids[0])
    assert [f for f in store.root.rglob("*") if "trash" in f.name] == []


def test_a_context_without_the_store_says_what_is_missing(store, tmp_path):
    assert adapters_of(make_context(tmp_path / "a", adapters=store)) is store
    with pytest.raises(MethodError, match=r"NoneType.*adapter_store"):
        adapters_of(make_context(tmp_path / "b"))


def test_the_standard_place_follows_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "elsewhere"))
    assert AdapterStore().root == tmp_path / "elsewhere" / "adapters"


def test_importing_the_store_loads_no_torch():
    code = (
        "import sys, bench.llm.adapters, bench.llm.adapter_export, bench.cli.adapters; "
        "print([m for m in ('torch', 'transformers', 'peft') if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
