"""Tables, pages, comparisons and checks where no deep-learning library is installed."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from report_runs import random_outcomes, scored_on

from bench.runs.stored import read_run

# As in an environment without them: every import fails, wherever it stands.
PROGRAM = """
import json, sys

ABSENT = {"torch", "transformers", "peft", "accelerate", "safetensors", "recbole", "pandas", "gguf"}

class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ABSENT:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
try:
    import torch
except ModuleNotFoundError:
    pass
else:
    raise SystemExit("torch was imported")
from bench.cli import main

for words in json.loads(sys.argv[1]):
    sys.argv = ["bench", *words]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            raise SystemExit(f"{' '.join(words)}: exit code {stop.code}")
"""


@pytest.fixture
def results(write_run):
    for seed in range(2):
        net = random_outcomes(300, seed, skill=2)
        write_run("net", net, seed=seed, family="single-domain", sources=["a", "b"])
    alone = random_outcomes(300, 5)
    write_run("target-only", alone, family="ablation")
    knn = write_run("knn", random_outcomes(300, 6), trainable=False)
    scored_on(knn, full=random_outcomes(300, 7, c=200), draws={1: random_outcomes(300, 8)})
    assert read_run(knn.path).sets
    return write_run.root


def test_reports_need_no_deep_learning_library(results, tmp_path):
    store = ["--store", str(results)]
    table = ["leaderboard", "--target", "toyland", *store]
    commands = [
        *([*table, "--format", kind, "--ci", "--cost", "--ranks", "--out", str(tmp_path / kind)]
          for kind in ("markdown", "latex", "csv", "json", "html")),
        ["compare", "--target", "toyland", "--also", "flips,bootstrap,mcnemar,wilcoxon", *store],
        ["compare", "--report", "transfer", *store],
        ["compare", "--report", "robustness", "--target", "toyland", *store],
        ["lint", str(tmp_path / "markdown")],
        ["results", "tables", str(results), "--out", str(tmp_path / "tables")],
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(commands)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "html/index.html").is_file()
    assert (tmp_path / "tables/robustness.md").is_file()
    assert "| net " in (tmp_path / "markdown").read_text()
    assert "net" in done.stdout and "target-only" in done.stdout
