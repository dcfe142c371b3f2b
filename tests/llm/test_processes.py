"""One command in two processes: whole runs to their end, and what happens when one process fails."""

from __future__ import annotations

import json
import math
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from llm_trainings import arrays

from bench.llm import processes
from bench.process import launched

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "lora-training.md"


def documented() -> list[str]:
    """The command that the page shows for two GPUs, one word after the other."""
    (line,) = re.findall(r"^python (-m torch\.distributed\.run .*)$", PAGE.read_text(), flags=re.M)
    return line.split()


TWO = documented()[: documented().index("-m", 1)]
"""What starts two processes, for any script or module."""


@pytest.fixture(scope="module")
def data_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rng = np.random.default_rng(0)
    root = tmp_path_factory.mktemp("two-data")
    for name in ("hats", "gloves"):
        folder = root / name
        folder.mkdir()
        events = ["user_id:token\titem_id:token\ttimestamp:float"]
        for user in range(24):
            start = int(rng.integers(0, 40))
            events += [f"u{user}\ti{(start + step) % 40}\t{step}" for step in range(7)]
        (folder / f"{name}.inter").write_text("\n".join(events) + "\n")
        titles = [f"i{item}\tGreen {name} number {item}" for item in range(40)]
        (folder / f"{name}.item").write_text(
            "\n".join(["item_id:token\ttitle:token_seq", *titles]) + "\n"
        )
    return root


@pytest.fixture
def command(tiny_llama: Path, data_root: Path):
    """The page's command without what starts it, on the tiny model and data, on the processor."""
    settings = {
        "backbone": tiny_llama,
        "train_examples": 16,
        "max_history": 4,
        "lora.r": 2,
        "prior_share": 0,
        "training.batch_sequences": 5,
        "training.learning_rate": 0.001,
    }
    changes = {"ml100k-drama": "hats", "cuda": "cpu"}
    words = documented()
    options = [changes.get(word, word) for word in words[words.index("bench") + 1 :]]
    assert set(changes.values()) < set(options), "the page's command has changed"
    options += ["--data-root", str(data_root)]
    for key, value in settings.items():
        options += ["--set", f"{key}={value}"]
    return [*options, "--dtype", "float32"]


def start(folder: Path, *arguments: str, launcher: Sequence[str] = TWO) -> subprocess.Popen[str]:
    environment = {
        **os.environ,
        "BENCH_CACHE": str(folder / "cache"),
        "BENCH_STORE": str(folder / "runs"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),
    }
    return subprocess.Popen(
        [sys.executable, *launcher, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=folder,
    )


def finish(process: subprocess.Popen[str]) -> tuple[str, str]:
    try:
        return process.communicate(timeout=900)
    except subprocess.TimeoutExpired:
        process.kill()
        raise AssertionError(f"no end: {process.communicate()}") from None


def factors(folder: Path) -> dict[str, np.ndarray]:
    (found,) = (
        file.parent
        for file in (folder / "cache" / "adapters").glob("*/bench_adapter.json")
        if json.loads(file.read_text())["kind"] == "trained"
    )
    return arrays(found)


def test_two_processes_end_with_the_figures_of_one(command, tmp_path: Path):
    one, two = tmp_path / "one", tmp_path / "two"
    runs = []
    for folder, launcher in ((one, ()), (two, TWO)):
        folder.mkdir()
        process = start(folder, "-m", "bench", *command, "--json", launcher=launcher)
        out, err = finish(process)
        assert process.returncode == 0, err
        runs.append(json.loads(out))  # one object: the second process prints nothing
    assert runs[0]["run_id"] == runs[1]["run_id"]
    for name, figure in runs[0]["metrics"].items():
        assert runs[1]["metrics"][name]["mean"] == pytest.approx(figure["mean"], abs=0.02), name
    (log,) = (two / "runs").glob("hats/*/log.txt")
    assert "2 process(es)" in log.read_text()
    mine, theirs = factors(one), factors(two)
    (begun,) = (
        arrays(file.parent)
        for file in (one / "cache" / "adapters").glob("*/bench_adapter.json")
        if json.loads(file.read_text())["kind"] == "init"
    )
    moved = math.sqrt(sum(float(((mine[k] - begun[k]) ** 2).sum()) for k in mine))
    apart = math.sqrt(sum(float(((mine[k] - theirs[k]) ** 2).sum()) for k in mine))
    assert apart < 1e-2 * moved


FAILING = """
import os, sys
from bench.llm import training
if os.environ["RANK"] == "1":
    def fail(*arguments, **options):
        raise OSError("planted: no room for the base")
    training._frozen = fail
from bench.cli import main
main()
"""
DYING = """
import os, signal
from bench.llm import training
if os.environ["RANK"] == "1":
    training._gradient = lambda *arguments: os.kill(os.getpid(), signal.SIGKILL)
from bench.cli import main
main()
"""


@pytest.mark.slow
def test_what_fails_in_one_process_fails_in_all_with_one_message(command, tmp_path: Path):
    script = tmp_path / "failing.py"
    script.write_text(FAILING)
    process = start(tmp_path, str(script), *command)
    out, err = finish(process)
    assert process.returncode == 1
    assert err.count("failed: target-only on hats, seed 0: ") == 1
    assert "process 1 of 2: OSError('planted: no room for the base')" in err
    assert err.count("planted") == 1, err
    assert out == ""


@pytest.mark.slow
def test_a_process_that_dies_ends_the_others(command, tmp_path: Path):
    script = tmp_path / "dying.py"
    script.write_text(DYING)
    process = start(tmp_path, str(script), *command)
    _, err = finish(process)
    assert process.returncode == 1
    # Whichever is first, the launcher or process 0, tells it: nobody else says anything.
    assert err.count("error: ") <= 1
    assert not list((tmp_path / "runs").glob("hats/*"))
    # Nothing is held any more: the same command, alone, runs to its end.
    again = start(tmp_path, "-m", "bench", *command, "--quiet", "--wait", "0", launcher=())
    out, err = finish(again)
    assert again.returncode == 0, err
    assert re.search(r"NDCG@5", out)


class SilentStore:
    """Words that never come, from a process 0 that gave a sign of life ``alive`` times."""

    def __init__(self, alive: int) -> None:
        self.alive = alive
        self.said: dict[str, bytes] = {}

    def check(self, keys: list[str]) -> bool:
        return all(key in self.said for key in keys)

    def add(self, _key: str, _amount: int) -> int:
        self.alive -= 1
        if self.alive == 0:
            self.said["word-0"] = b"end"
        return self.alive

    def get(self, key: str) -> bytes:
        return self.said[key]


def test_nobody_waits_for_a_process_that_gives_no_sign_of_life(monkeypatch):
    monkeypatch.setattr(processes, "_SILENCE", 0.05)
    monkeypatch.setattr(processes, "_POLL", 0.02)

    class Dead(SilentStore):
        def add(self, key: str, amount: int) -> int:
            return 0

    with pytest.raises(SystemExit, match="process 1 of 2: no sign of life of process 0"):
        processes._heard(Dead(0), "word-0", processes.Processes(1, 2))
    # As long as there are signs it is waited for, however long it takes.
    assert processes._heard(SilentStore(20), "word-0", processes.Processes(1, 2)) == "end"


def test_alone_work_for_all_is_work_for_one():
    def work(*, shared: int, own: int = 0) -> int:
        return shared + own

    assert processes.everywhere(work, {"own": 2}, shared=1) == 3
    alone = processes.Processes()
    with pytest.raises(ValueError, match="planted"), alone.jointly():
        raise ValueError("planted")
    assert alone.leads and alone.from_leader("x") == "x"


def test_only_a_launcher_makes_several_processes_of_one():
    place = {"MASTER_ADDR": "localhost", "MASTER_PORT": "1"}
    assert launched({"RANK": "0", "WORLD_SIZE": "2", **place})
    assert not launched({"RANK": "0", "WORLD_SIZE": "1", **place})
    assert not launched({"RANK": "0", "WORLD_SIZE": "2"})
    assert not launched({})
