"""`bench adapters` and what `bench run` says of methods with adapters."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench.llm.adapters import AdapterStore

FILE = Path(__file__).parents[1] / "runs" / "adapter_methods.py"
ALONE = f"{FILE}:Alone"
ADAPTED = f"{FILE}:Adapted"


@pytest.fixture
def other(cli, tiny, tmp_path) -> str:
    """A second domain."""
    path = tmp_path / "other.csv"
    path.write_text((tmp_path / "tiny.csv").read_text().replace("u0", "v0"))
    cli("data", "import", "other", path, "--items", tmp_path / "tiny-items.csv")
    return "other"


@pytest.fixture
def trained(cli, tiny) -> str:
    """Id of an adapter that a run has trained."""
    cli("run", "--method", ALONE, "--target", tiny, "--json")
    (adapter,) = AdapterStore().list()
    return adapter.adapter_id


# --- bench run ------------------------------------------------------------------------------------


def test_run_says_at_once_what_it_trains_scores_and_how_long_it_takes(cli, tiny):
    result = cli("run", "--method", ALONE, "--target", tiny)
    said = result.stderr.splitlines()
    assert said[0].endswith(
        "scores 20 of 60 users (the method's default; --limit-users all scores all) in bfloat16; "
        "about 1 min 40 s"
    )
    (adapter,) = AdapterStore().list()
    assert said[1] == (
        f"  adapter {adapter.adapter_id[:8]}: train on tiny, next, 3 examples (to do, about "
        "1 min 30 s)"
    )
    assert said[2] == "  score: score (to do, about 10 s)"
    # Said before the work begins.
    assert result.stderr.index("  score: score") < result.stderr.index("] ")


def test_rivals_beside_a_limited_run_are_scored_on_the_same_users(cli, tiny):
    result = cli("run", "--method", ALONE, "--target", tiny)
    assert "running popularity and item-knn beside it" in result.stderr
    assert "tiny: 20 of 60 users" in result.stdout
    runs = json.loads(cli("runs", "list", "--json").stdout)
    assert {run["method"]["name"]: run["users"]["n_users"] for run in runs} == {
        "adapted-alone": 20, "popularity": 20, "item-knn": 20,
    }  # fmt: skip
    assert {run["method"]["name"]: run["dtype"] for run in runs} == {
        "adapted-alone": "bfloat16", "popularity": "float32", "item-knn": "float32",
    }  # fmt: skip
    assert "Paired t-test" in result.stdout


def test_what_the_user_gives_wins_over_the_default_of_the_method(cli, tiny):
    words = ("run", "--method", ALONE, "--target", tiny, "--json", "--limit-users")
    all_users = json.loads(cli(*words, "all", "--dtype", "float32").stdout)
    few = json.loads(cli(*words, 7).stdout)
    assert (all_users["n_users"], few["n_users"]) == (60, 7)
    shown = json.loads(cli("runs", "show", all_users["run_id"], "--json").stdout)["manifest"]
    assert (shown["dtype"], shown["users"]["limit"]) == ("float32", None)
    noted = cli("run", "--method", ALONE, "--target", tiny, "--limit-users", 9).stderr
    assert "scores 9 of 60 users in bfloat16" in noted
    assert "(stored)" in noted, "the adapter of the runs before, in the same format"


def test_nothing_is_announced_in_json_in_quiet_for_stored_runs_and_for_other_methods(cli, tiny):
    words = ("run", "--method", ALONE, "--target", tiny)
    assert cli(*words, "--json").stderr == ""
    assert cli(*words, "--quiet").stderr == ""
    assert "scores" not in cli(*words).stderr
    assert "scores" not in cli("run", "--method", "markov", "--target", tiny).stderr
    again = cli(*words, "--force").stderr
    assert "scores 20 of 60 users" in again
    assert "train on tiny, next, 3 examples (stored)" in again


def test_plan_shows_adapters_with_estimates_and_trains_nothing(cli, tiny, other):
    for name in (tiny, other):
        one = cli("run", "--method", ADAPTED, "--target", name, "--sources",
                  other if name == tiny else tiny, "--plan", "--json").stdout  # fmt: skip
        first, second = (json.loads(line) for line in one.splitlines())
        assert (first["job"], second["job"]) == ("adapter", "score")
        assert (first["seconds"], first["tokens"], first["memory_mb"]) == (90.0, 1_234_567, 2048)
        assert second["seconds"] == 10.0
        assert (second["n_users"], second["dtype"]) == (20, "bfloat16")
        assert re.fullmatch("[0-9a-f]{16}", first["key"])
    table = cli("run", "--method", ADAPTED, "--target", tiny, "--sources", other, "--plan").stdout
    head = re.split(r"\s{2,}", table.splitlines()[0])
    assert head == ["run", "seed", "job", "what", "users", "state", "about", "tokens", "memory"]
    assert "1 min 30 s" in table
    assert "1,234,567" in table
    assert "2,048 MB" in table
    assert table.endswith("To do: about 1 min 40 s in all.\n")
    assert AdapterStore().list() == []


ABSENT = """
from pathlib import Path
from bench.errors import MissingExtraError
from bench.methods import Family, Job, Method, Scores


class Huge(Method):
    \"\"\"Needs a model that is not on this machine.\"\"\"

    name, version, family = "huge", "1", Family.LLM

    @classmethod
    def require(cls, config):
        raise MissingExtraError("no such model here")

    def plan(self, spec):
        label = f"train on {spec.device} in {spec.dtype} for {spec.n_users} users"
        return [Job("adapter", label, seconds=7200.0), Job("score", "score")]

    def fit(self, view, context): ...

    def score(self, requests, context): ...
"""


def test_a_plan_for_another_machine_needs_neither_its_model_nor_its_device(cli, tiny, tmp_path):
    plugin = tmp_path / "huge.py"
    plugin.write_text(ABSENT)
    words = ("run", "--method", f"{plugin}:Huge", "--target", tiny, "--device", "cuda")
    table = cli(*words, "--plan").stdout
    assert "train on cuda in float32 for 60 users" in table
    assert "2 h 00 min" in table
    assert "in all" not in table, "one job has no estimate, so the sum would be too low"
    assert "cuda" in cli(*words, code=2).stderr
    assert "no such model here" in cli(*words[:-2], code=2).stderr
    assert "expected cpu, cuda" in cli(*words[:-1], "gpu", "--plan", code=2).stderr


def test_a_plan_of_the_paper_profile_works_offline_and_tells_gpu_hours(
    cli, tiny, other, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    words = ("run", "--method", "weaverec,target-only", "--target", tiny, "--sources", other,
             "--profile", "paper", "--plan")  # fmt: skip
    table = cli(*words).stdout
    head = re.split(r"\s{2,}", table.splitlines()[0])
    assert head[6:] == ["about, on cpu", "GPU hours", "tokens", "memory"]
    assert re.search(r"To do: about .* in all on cpu, or about \S+ GPU hours\.", table)
    assert "one 80 GB GPU" in table
    rows = [json.loads(line) for line in cli(*words, "--json").stdout.splitlines()]
    assert [(row["method"], row["job"], row["state"]) for row in rows] == [
        ("weaverec", "adapter", "not known"),
        ("weaverec", "adapter", "not known"),
        ("weaverec", "merge", "not known"),
        ("weaverec", "score", "to do"),
        ("target-only", "adapter", "shared"),
        ("target-only", "score", "to do"),
    ]
    assert {row["key"] for row in rows} == {""}
    assert all(row["gpu_seconds"] > 0 and row["memory_mb"] > 0 for row in rows)


def test_a_killed_run_goes_on_from_the_checkpoint_of_its_adapter(cli, tiny, other, tmp_path):
    log = tmp_path / "log"
    words = ["run", "--method", ADAPTED, "--target", tiny, "--sources", other, "--json",
             "--set", f"log={log}", "--set", "pause=1.0"]  # fmt: skip
    with subprocess.Popen(
        [sys.executable, "-m", "bench.cli", *words], stdout=subprocess.DEVNULL
    ) as process:
        deadline = time.monotonic() + 60
        while not log.exists():
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.02)
        process.kill()
    assert AdapterStore().list() == []
    run = json.loads(cli(*words).stdout)
    trained = [line for line in log.read_text().splitlines() if line.startswith("train")]
    assert trained == ["train other", "train tiny"]
    shown = cli("runs", "show", run["run_id"]).stdout
    (adapter,) = AdapterStore().list()
    assert re.search(rf"^{adapter.adapter_id} +trained +other \+ tiny.* yes$", shown, re.M)


def test_plan_of_other_methods_has_no_columns_of_estimates(cli, tiny, tmp_path, monkeypatch):
    # Stored runs of the method would tell how long it takes.
    monkeypatch.setenv("BENCH_PUBLISHED", str(tmp_path))
    table = cli("run", "--method", "markov", "--target", tiny, "--plan").stdout
    head = re.split(r"\s{2,}", table.splitlines()[0])
    assert head == ["run", "seed", "job", "what", "users", "state"]
    assert "To do" not in table


def test_a_run_that_cannot_be_prepared_fails_as_a_run_and_the_others_go_on(cli, tiny):
    words = ("run", "--method", f"{ALONE},random", "--target", tiny, "--n-negatives", 99)
    result = cli(*words, code=1)
    assert result.stderr.count("failed: ") == 2
    assert "99 negatives" in result.stderr


def test_wrong_limits_name_what_is_possible(cli, tiny):
    message = cli("run", "--method", "random", "--target", tiny, "--limit-users", "few", code=2)
    for part in ("'few'", "'auto'", "'all'", "number of users"):
        assert part in message.stderr


# --- bench adapters -------------------------------------------------------------------------------


def test_list_of_an_empty_store_says_how_to_begin(cli):
    result = cli("adapters", "list")
    assert "No adapters in" in result.stdout
    assert "bench run --method target-only" in result.stdout
    assert json.loads(cli("adapters", "list", "--json").stdout) == []


def test_list_shows_what_it_is_what_it_cost_and_how_large_it_is(cli, trained):
    table = cli("adapters", "list").stdout
    for part in (trained, "trained", "tiny, next, 3 examples", "1,000", "kB"):
        assert part in table
    (record,) = json.loads(cli("adapters", "list", "--json").stdout)
    assert record["adapter_id"] == trained
    assert record["recipe"]["mixture"][0]["domain"] == "tiny"
    assert record["cost"]["tokens"] == 1000
    assert record["bytes"] == sum(p.stat().st_size for p in Path(record["path"]).iterdir())


def test_list_of_one_domain(cli, tiny, other, trained):
    cli("run", "--method", ADAPTED, "--target", tiny, "--sources", other, "--json")
    every = json.loads(cli("adapters", "list", "--json").stdout)
    assert len(every) == 2
    (hybrid,) = json.loads(cli("adapters", "list", "--domain", other, "--json").stdout)
    assert hybrid["label"].startswith("other + tiny")
    assert "No adapters" in cli("adapters", "list", "--domain", "amazon-beauty").stdout
    assert "'tiny'" in cli("adapters", "list", "--domain", "tini", code=2).stderr


def test_show_tells_recipe_data_cost_and_folder(cli, trained):
    shown = cli("adapters", "show", trained[:6]).stdout
    for part in (trained, "tiny, next, 3 examples (trained)", "init seed", "lora: r", "1,000"):
        assert part in shown
    assert re.search(r"^tiny +3 +[0-9a-f]{64}$", shown, re.M)
    record = json.loads(cli("adapters", "show", trained, "--json").stdout)
    assert record["report"]["loss"] == [2.0, 1.0]


def test_damage_is_listed_and_stops_show_and_export(cli, trained, tmp_path):
    weights = AdapterStore().root / trained / "adapter_model.safetensors"
    weights.write_bytes(b"x")
    assert "was changed" in cli("adapters", "show", trained, code=1).stderr
    assert (
        "was changed" in cli("adapters", "export", trained, "--out", tmp_path / "o", code=1).stderr
    )
    (weights.parent / "bench_adapter.json").write_text("{}")
    listed = cli("adapters", "list")
    assert f"bench adapters rm {trained}" in listed.stderr
    assert trained in cli("adapters", "rm", trained).stdout
    assert cli("adapters", "list").stderr == ""


def test_rm_looks_every_name_up_before_it_deletes(cli, trained):
    assert "no adapter 'absent'" in cli("adapters", "rm", trained, "absent", code=2).stderr
    assert AdapterStore().has(trained)
    assert "nothing to delete" in cli("adapters", "rm", code=2).stderr
    assert cli("adapters", "rm", trained[:8], trained).stdout.count("removed") == 1
    assert not AdapterStore().has(trained)
    assert "among the 0" in cli("adapters", "show", trained, code=2).stderr


def test_unfinished_trainings_are_listed_and_removed(cli, tiny):
    words = ("run", "--method", ALONE, "--target", tiny, "--set", "fault=train", "--quiet")
    assert "interrupted" in cli(*words, code=130).stderr
    listed = cli("adapters", "list")
    assert listed.stderr.startswith("unfinished: ")
    assert "removed" in cli("adapters", "rm", "--unfinished").stdout
    assert "No unfinished" in cli("adapters", "rm", "--unfinished").stdout
    assert cli("adapters", "list").stderr == ""


def test_export_makes_a_peft_folder_without_paths_of_the_machine(cli, trained, tmp_path):
    out = tmp_path / "shared" / "adapter"
    assert cli("adapters", "export", trained, "--out", out).stdout == f"{out}\n"
    assert {p.name for p in out.iterdir()} == {
        "adapter_config.json", "adapter_model.safetensors", "bench_adapter.json", "README.md",
    }  # fmt: skip
    for path in out.iterdir():
        assert b"/some/where" not in path.read_bytes()
    again = cli("adapters", "export", trained, "--out", out, code=2)
    assert "no empty folder" in again.stderr
