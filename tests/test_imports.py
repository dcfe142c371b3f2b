"""Import is cheap: neither the package nor `bench --help` loads a heavy library."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

HEAVY = ("torch", "transformers", "recbole", "pandas", "polars", "scipy", "peft", "vllm", "numpy")

PROGRAM = """
import json, sys
sys.argv = ["bench", *json.loads(sys.argv[1])]
from bench.cli import main
code = None
try:
    main()
except SystemExit as stop:
    code = stop.code
print(json.dumps({"code": code, "loaded": sorted({m.split(".")[0] for m in sys.modules})}))
"""


def loaded_after(arguments: list[str]) -> tuple[int, set[str], str]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    *printed, last = done.stdout.splitlines()
    report = json.loads(last)
    return report["code"], set(report["loaded"]), "\n".join(printed)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--help"],
        ["run", "--help"],
        ["data", "--help"],
        ["leaderboard", "--help"],
        ["adapters", "--help"],
        ["--version"],
    ],
    ids=" ".join,
)
def test_help_loads_nothing_heavy(arguments):
    code, loaded, printed = loaded_after(arguments)
    assert code == 0
    assert printed
    assert "bench" in loaded  # the probe sees what is loaded
    assert not loaded & set(HEAVY)


def test_help_lists_every_verb_of_this_release_and_no_other():
    _, _, printed = loaded_after(["--help"])
    verbs = {
        line.split()[0]
        for line in printed.split("Commands:\n")[1].split("\n\n")[0].splitlines()
        if line.startswith("  ") and not line.startswith("   ")
    }
    assert verbs == {
        "run", "methods", "domains", "leaderboard", "runs", "data", "assets", "candidates",
        "compare", "export-requests", "import-scores", "check", "new", "doctor",
        "lint", "plot", "results", "adapters", "cache", "merge",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["data", "list"], "amazon-beauty"),
        (["methods"], "weaverec"),
        (["methods", "item-knn"], "history_decay"),
    ],
)
def test_lists_load_no_torch(arguments, word):
    code, loaded, printed = loaded_after(arguments)
    assert code == 0
    assert word in printed
    assert not loaded & {"torch", "recbole", "pandas", "transformers", "safetensors"}


def test_a_method_that_counts_runs_without_torch(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("BENCH_STORE", str(tmp_path / "runs"))
    events = (
        f"{user},i{(3 * user + step) % 40},{step}\n" for user in range(60) for step in range(6)
    )
    (tmp_path / "tiny.csv").write_text("user_id,item_id,timestamp\n" + "".join(events))
    assert loaded_after(["data", "import", "tiny", "tiny.csv"])[0] == 0
    code, loaded, printed = loaded_after(["run", "--method", "item-knn", "--target", "tiny"])
    assert code == 0
    assert "NDCG@5" in printed
    assert "scipy" in loaded
    assert not loaded & {"torch", "recbole", "pandas", "transformers", "safetensors"}


def test_public_door_is_sorted_and_complete():
    import bench

    assert bench.__all__ == sorted(bench.__all__)
    assert all(hasattr(bench, name) for name in bench.__all__)
    assert set(bench.__all__) <= set(dir(bench))


def test_importing_the_door_loads_nothing_heavy_and_reading_runs_no_torch(tmp_path):
    program = (
        "import json, sys, bench\n"
        "at_once = sorted(sys.modules)\n"
        "assert len(bench.load_runs(sys.argv[1])) == 0 and bench.table and bench.compare\n"
        "print(json.dumps([at_once, sorted(sys.modules)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    at_once, later = json.loads(done.stdout)
    assert not set(at_once) & {*HEAVY, "pydantic", "typer"}
    assert "bench.api.tables" in later and "bench.methods" not in later
    assert not set(later) & {"torch", "transformers", "pandas", "recbole"}
