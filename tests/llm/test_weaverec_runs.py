"""``bench run --method weaverec`` from nothing: what it says, shares, survives and ends with."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from bench.cli import app
from bench.llm.adapters import AdapterStore
from bench.runs.store import RunStore
from bench.runs.stored import StoredRun

SCRIPT = Path(__file__).with_name("killed_training.py")


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains as atomic files; every user has 5 to 8 events."""
    root = tmp_path_factory.mktemp("weave-data")
    for seed, name in enumerate(("alpha", "beta", "gamma")):
        rng = np.random.default_rng(seed)
        lines = ["user_id:token\titem_id:token\ttimestamp:float"]
        for user in range(30):
            items = rng.permutation(50)[: int(rng.integers(5, 9))]
            lines += [f"u{user}\ti{item}\t{1000 * user + at}" for at, item in enumerate(items)]
        titles = [f"i{item}\tTitle {name} {item}" for item in range(50)]
        (root / name).mkdir()
        (root / name / f"{name}.inter").write_text("\n".join(lines) + "\n")
        (root / name / f"{name}.item").write_text(
            "\n".join(["item_id:token\ttitle:token_seq", *titles]) + "\n"
        )
    return root


@pytest.fixture
def words(data_root: Path, tiny_llama: Path) -> Callable[..., list[str]]:
    def make(method: str = "weaverec", sources: str | None = "beta,gamma") -> list[str]:
        settings = {
            "backbone": tiny_llama,
            "train_examples": 16,
            "max_history": 4,
            "lora.r": 2,
            "training.batch_sequences": 4,
        }
        return [
            *("run", "--method", method, "--target", "alpha", "--data-root", str(data_root)),
            *(("--sources", sources) if sources else ()),
            *("--limit-users", "10", "--threads", "1", "--dtype", "float32"),
            *(word for key, value in settings.items() for word in ("--set", f"{key}={value}")),
        ]

    return make


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """Switches to a cache and a store of their own, by name."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BENCH_DATA_ROOT", raising=False)

    def switch(name: str) -> None:
        monkeypatch.setenv("BENCH_CACHE", str(tmp_path / name / "cache"))
        monkeypatch.setenv("BENCH_STORE", str(tmp_path / name / "runs"))

    return switch


def bench(words: list[str]) -> Result:
    result = CliRunner().invoke(app, words, prog_name="bench")
    assert result.exit_code == 0, f"{result.stdout}\n{result.stderr}\n{result.exception!r}"
    return result


def stored(method: str) -> StoredRun:
    (run,) = [
        run for run in RunStore(Path(os.environ["BENCH_STORE"])).list() if run.method == method
    ]
    return run


def test_a_killed_run_trains_only_the_rest_and_ends_with_the_same_figures(
    words, environment, tmp_path
):
    environment("killed")
    killed = subprocess.run(
        [sys.executable, str(SCRIPT), *words()],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    store = AdapterStore()
    (first,) = [one for one in store.list() if one.kind == "trained"]
    assert first.domains == ("alpha",)
    assert len(store.unfinished()) == 1

    bench(words())
    made = {one.label.partition(", ")[0]: one for one in store.list() if one.kind == "trained"}
    assert sorted(made) == ["alpha", "alpha + beta", "alpha + gamma"]
    assert made["alpha"].metadata == first.metadata
    resumed = {name: one.metadata["report"]["resumed"] for name, one in made.items()}
    assert resumed == {"alpha": 0, "alpha + beta": 1, "alpha + gamma": 0}
    assert store.unfinished() == []

    digest = stored("weaverec").manifest["files"]["per_user.parquet"]
    environment("whole")
    bench(words())
    assert stored("weaverec").manifest["files"]["per_user.parquet"] == digest


def test_a_run_from_nothing_says_what_it_will_do_and_ends_with_rivals_and_the_gain(
    words, environment
):
    environment("nothing")
    done = bench(words())
    assert "scores 10 of 30 users" in done.stderr
    assert len(re.findall(r"^  adapter \w{8}: train .*\(to do, about", done.stderr, re.M)) == 3
    assert re.search(r"^  merge \w{8}: weight-average of 3 adapters", done.stderr, re.M)
    assert "No stored rival: running popularity and item-knn" in done.stderr
    for method in ("weaverec", "target-only", "popularity", "item-knn"):
        assert re.search(rf"^{method} ", done.stdout, re.M)
    # Its own first adapter, scored alone, tells whether the sources helped ...
    assert "target-only is run as well, to tell the gain" in done.stderr
    assert re.search(r"^weaverec .*target-only: target-only", done.stdout, re.M)
    uses = stored("target-only").manifest["adapters"]
    assert [use["trained_now"] for use in uses] == [False]
    # ... and it says how to get the other baseline, with the same users, budget and backbone ...
    (command,) = re.findall(r"(bench run .*)$", done.stdout, re.M)
    assert "--method source-only" in command
    assert "--set train_examples=16" in command
    assert "--limit-users 10" in command
    # ... which costs what is not trained yet ...
    for method, sources, trained in (("source-only", "beta,gamma", 2),):
        lines = bench([*words(method, sources), "--json"]).stdout.splitlines()
        paths = [Path(json.loads(line)["path"]) for line in lines]
        uses = [u for p in paths for u in json.loads((p / "manifest.json").read_text())["adapters"]]
        assert sum(use["trained_now"] for use in uses) == trained
    # ... and with them the stored run shows its gain.
    again = bench(words())
    assert "(stored before)" in again.stdout
    assert "No stored target-only run" not in again.stderr
    gains = again.stdout.split("Gain from the sources")[1]
    assert re.search(r"weaverec .*target-only: target-only", gains)
    assert re.search(r"weaverec .*best single source: source-only .*by validation", gains)
    assert "bench run" not in gains
