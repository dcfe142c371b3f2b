"""`bench run` like a user: figures, stored runs, rivals, JSON, plans, wrong use, failures, Ctrl-C."""

from __future__ import annotations

import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

PLUGIN = '''
from bench.methods import Family, Method, Scores
import numpy as np

class Broken(Method):
    """Raises while it fits."""

    name, version, family = "broken", "1", Family.REFERENCE

    def fit(self, view, context):
        raise ValueError("planted failure")

    def score(self, requests, context):
        return Scores(np.zeros(requests.candidates.shape, np.float32))


class Slow(Method):
    """Waits for a signal while it fits."""

    name, version, family = "slow", "1", Family.REFERENCE

    def fit(self, view, context):
        import time
        print("fitting", flush=True)
        time.sleep(60)

    def score(self, requests, context):
        return Scores(np.zeros(requests.candidates.shape, np.float32))
'''


def json_lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_json_is_the_documented_object_and_nothing_else(cli, tiny):
    result = cli("run", "--method", "random,markov", "--target", tiny, "--json")
    first, second = json_lines(result.stdout)
    assert set(first) == {
        "run_id", "method", "family", "target", "sources", "profile", "seed", "task_hash",
        "candidates_hash", "users_hash", "n_users", "metrics", "seconds", "peak_memory_mb",
        "diagnostics", "path", "status",
    }  # fmt: skip
    assert set(first["seconds"]) == {"fit", "score", "total_with_adapters"}
    assert (first["method"], second["method"]) == ("random", "markov")
    assert first["task_hash"] == second["task_hash"]
    # A constant scorer over 30 candidates: 1/30, and the mean discount over ranks 1 to 5.
    assert first["metrics"]["ndcg@1"]["mean"] == pytest.approx(1 / 30, abs=1e-12)
    expected = sum(1 / math.log2(rank + 1) for rank in range(1, 6)) / 30
    assert first["metrics"]["ndcg@5"]["mean"] == pytest.approx(expected, abs=1e-12)
    # The planted next-item pattern is found.
    low, high = second["metrics"]["ndcg@5"]["ci95"]
    assert expected < low < second["metrics"]["ndcg@5"]["mean"] < high
    assert Path(first["path"]).is_dir()


NOISY = '''
print("import")

from bench.methods import Capabilities, Family, Method, Scores
import numpy as np

class Noisy(Method):
    """Prints wherever its code runs."""

    name, version, family = "noisy", "1", Family.REFERENCE

    @classmethod
    def capabilities(cls, config):
        print("capabilities")
        return Capabilities()

    def __init__(self, config=None):
        super().__init__(config)
        print("init")

    def plan(self, spec):
        print("plan")
        return super().plan(spec)

    def fit(self, view, context):
        print("fit")
        context.validate(self)

    def score(self, requests, context):
        print("score")
        return Scores(np.zeros(requests.candidates.shape, np.float32))

    def save(self, folder):
        print("save")

    def load(self, folder):
        print("load")
'''


def test_sources_that_a_method_does_not_use_are_noted(cli, tiny, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text((tmp_path / "tiny.csv").read_text())
    cli("data", "import", "other", other)
    words = ("run", "--method", "random,markov", "--target", tiny, "--sources", "other")
    noted = cli(*words, "--json")
    assert noted.stderr == (
        "note: random, markov learn from the target alone; --sources other is not used for them.\n"
    )
    assert [run["sources"] for run in json_lines(noted.stdout)] == [[], []]
    assert cli(*words, "--quiet").stderr == ""
    assert "note" not in cli("run", "--method", "random", "--target", tiny).stderr


def test_prints_of_a_method_do_not_break_json(cli, tiny, tmp_path):
    plugin = tmp_path / "noisy.py"
    plugin.write_text(NOISY)
    words = ("run", "--method", f"{plugin}:Noisy", "--target", tiny, "--json")
    kept = cli(*words, "--keep-model")
    (run,) = json_lines(kept.stdout)
    assert run["method"] == "noisy"
    noise = set(kept.stderr.split())
    # Scoring another request set loads the stored model.
    more = cli(*words, "--also-full")
    json_lines(more.stdout)
    plan = cli(*words, "--plan")
    assert {row["job"] for row in json_lines(plan.stdout)} == {"fit", "score"}
    noise |= {*more.stderr.split(), *plan.stderr.split()}
    assert noise >= {"import", "capabilities", "init", "plan", "fit", "score", "save", "load"}


def test_lonely_run_gets_the_reference_rows_beside_it(cli, tiny):
    result = cli("run", "--method", "markov", "--target", tiny)
    assert "No stored rival" in result.stderr
    assert {"popularity", "item-knn"} <= set(re.findall(r"^([a-z-]+) ", result.stdout, re.M))
    assert "Paired t-test on NDCG@5" in result.stdout
    # The second time they are the stored rivals, and the one run is shown with all metrics.
    again = cli("run", "--method", "markov", "--target", tiny)
    assert "No stored rival" not in again.stderr
    assert "stored before" in again.stdout
    for metric in ("NDCG@1", "NDCG@10", "MRR@5", "HR@10", "AUC"):
        assert re.search(
            rf"^{metric} +0\.\d{{4}} \[0\.\d{{4}}, [01]\.\d{{4}}\]$", again.stdout, re.M
        )


def test_stored_random_run_does_not_keep_the_reference_rows_away(cli, tiny):
    cli("run", "--method", "random", "--target", tiny, "--json")
    result = cli("run", "--method", "markov", "--target", tiny)
    assert "running popularity and item-knn beside it" in result.stderr
    assert re.search(r"^markov +(popularity|item-knn) ", result.stdout, re.M)


def test_the_printed_test_is_the_paired_t_test_of_the_stored_outcomes(cli, tiny, tmp_path):
    from scipy.stats import ttest_rel

    from bench.evaluation import metric_per_user
    from bench.runs.store import RunStore

    out = cli("run", "--method", "random,markov", "--target", tiny).stdout
    runs = {run.method: run for run in RunStore(tmp_path / "runs").list()}
    a, b = (metric_per_user(runs[m].outcomes(), "ndcg@5") for m in ("random", "markov"))
    line = next(row for row in out.splitlines() if re.match(r"random +markov", row))
    assert f"{(a - b).mean():+.4f}" in line
    p = ttest_rel(a, b).pvalue
    assert ("< 0.0001" if p < 1e-4 else f"{p:.4f}") in line


def test_finished_runs_are_not_repeated_unless_forced(cli, tiny):
    command = ("run", "--method", "random", "--target", tiny, "--json")
    manifest = Path(json_lines(cli(*command).stdout)[0]["path"]) / "manifest.json"
    before = manifest.stat().st_mtime_ns
    cli(*command)
    assert manifest.stat().st_mtime_ns == before
    cli(*command, "--force")
    assert manifest.stat().st_mtime_ns > before


def test_options_of_the_protocol_change_the_task(cli, tiny):
    def task(*options):
        out = cli("run", "--method", "random", "--target", tiny, "--json", *options).stdout
        return json_lines(out)[0]

    base = task()
    hashes = {base["task_hash"]}
    for options in (
        ("--candidate-seed", 1),
        ("--n-negatives", 9),
        ("--negatives", "popularity", "--n-negatives", 9),
        ("--negatives", "full"),
        ("--train-on", "train+valid"),
    ):
        found = task(*options)
        assert found["task_hash"] not in hashes
        hashes.add(found["task_hash"])
    # Scoring fewer users is the same task for a nested subset of users.
    fewer = task("--limit-users", 10)
    assert fewer["task_hash"] == base["task_hash"]
    assert (fewer["n_users"], base["n_users"]) == (10, 60)
    assert fewer["users_hash"] != base["users_hash"]


def test_n_negatives_reach_the_candidates(cli, tiny):
    out = cli("run", "--method", "random", "--target", tiny, "--json", "--n-negatives", 9).stdout
    assert json_lines(out)[0]["metrics"]["ndcg@1"]["mean"] == pytest.approx(0.1, abs=1e-12)


def test_config_file_and_set_reach_the_method_and_set_wins(cli, tiny, tmp_path):
    file = tmp_path / "knn.yaml"
    file.write_text("shrinkage: 3\nhistory_decay: 0.5\n")
    words = ("run", "--method", "item-knn", "--target", tiny, "--json", "--config", file)
    run = json_lines(cli(*words, "--set", "history_decay=0.25").stdout)[0]
    shown = json.loads(cli("runs", "show", run["run_id"], "--json").stdout)
    assert shown["manifest"]["config"]["shrinkage"] == 3
    assert shown["manifest"]["config"]["history_decay"] == 0.25


def test_plan_runs_nothing_and_knows_what_is_stored(cli, tiny, tmp_path):
    words = ("run", "--method", "random,markov", "--target", tiny)
    plan = cli(*words, "--plan").stdout
    assert plan.count("to do") == 4
    assert not (tmp_path / "runs").exists()
    cli("run", "--method", "random", "--target", tiny, "--json")
    rows = json_lines(cli(*words, "--plan", "--json").stdout)
    assert [(row["method"], row["job"], row["stored"]) for row in rows] == [
        ("random", "fit", True),
        ("random", "score", True),
        ("markov", "fit", False),
        ("markov", "score", False),
    ]


def test_quiet_and_json_keep_standard_error_clean(cli, tiny):
    assert cli("run", "--method", "random,markov", "--target", tiny, "--quiet").stderr == ""
    assert cli("run", "--method", "popularity", "--target", tiny, "--json").stderr == ""


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--method", "markv"), ("unknown method 'markv'", "Did you mean 'markov'", "Known:")),
        (("--method", ","), ("--method", "expected one name")),
        (("--target", "tini"), ("unknown domain 'tini'", "'tiny'")),
        (("--method", "Markov"), ("unknown method 'Markov'", "Did you mean 'markov'")),
        (("--method", "recbole:narm"), ("'narm'", "Did you mean 'NARM'")),
        (("--target", "ml-1m"), ("not on this machine: ml-1m", "bench data download ml-1m")),
        (("--sources", "tini"), ("unknown domain 'tini'", "'tiny'")),
        (("--sources", "tiny"), ("tiny is both the target and a source",)),
        (("--seed", "0,x"), ("--seed", "'x'", "0,1,2")),
        (("--seed", "-1"), ("--seed", "integer >= 0")),
        (("--limit-users", "0"), ("--limit-users", "'all'")),
        (("--limit-users", "many"), ("--limit-users", "'all'")),
        (("--set", "decay"), ("--set 'decay'", "key=value")),
        (
            ("--method", "item-knn", "--set", "shrinkag=1"),
            ("'shrinkag'", "Did you mean 'shrinkage'"),
        ),
        (("--profile", "papr"), ("no profile 'papr'", "Did you mean 'paper'")),
        (("--config", "absent.yaml"), ("absent.yaml", "cannot read")),
        (("--device", "gpu"), ("--device 'gpu'", "expected cpu, cuda")),
        (("--candidates", "c.csv", "--negatives", "full"), ("c.csv", "one of the two")),
        (("--method", "no_file.py:Mine"), ("no_file.py",)),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_wrong_use_is_one_clean_message_and_exit_code_2(cli, tiny, words, parts):
    given = {"--method": "markov", "--target": tiny}
    given |= {words[i]: words[i + 1] for i in range(0, len(words), 2)}
    result = cli("run", *(word for pair in given.items() for word in pair), code=2)
    assert result.stdout == ""
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    for part in parts:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("run", "--method", "random"), "--target"),
        (("run", "--method", "random", "--target", "x", "--sed", "1"), "--seed"),
        (("run", "--method", "random", "--target", "x", "--negatives", "unifrom"), "uniform"),
        (("run", "--method", "random", "--target", "x", "--n-negatives", "0"), "equal to 1"),
        (("rnu",), "run"),
        (("runs", "shwo"), "show"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else str(value),
)
def test_usage_errors_name_the_nearest_and_exit_with_2(cli, words, part):
    result = cli(*words, code=2)
    assert part in result.stderr


def test_one_error_lists_every_missing_domain_and_what_works_at_once(cli, tiny):
    result = cli("run", "--method", "random", "--target", f"amazon-beauty,{tiny},ml-1m", code=2)
    assert "amazon-beauty" in result.stderr
    assert "ml-1m" in result.stderr
    assert "bench data download amazon-beauty ml-1m" in result.stderr
    assert "bench assets pull ml-100k" in result.stderr
    assert "bench run --method random --target ml100k-drama" in result.stderr


def test_too_many_negatives_are_refused_with_the_feasible_number(cli, tiny):
    result = cli("run", "--method", "random", "--target", tiny, "--n-negatives", 99, code=1)
    assert "99" in result.stderr
    assert "failed: random on tiny" in result.stderr
    assert result.stderr.count("99 negatives asked for") == 1, "the message is printed once"


def test_a_failed_run_is_recorded_and_the_others_go_on(cli, tiny, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    methods = f"{plugin}:Broken,random,markov"
    result = cli("run", "--method", methods, "--target", tiny, code=1)
    assert result.stderr.count("planted failure") == 1
    listed = cli("runs", "list").stderr
    assert "fit() failed with ValueError: planted failure" in listed
    assert "failed" not in cli("runs", "list", "--method", "random").stderr
    assert re.search(r"^random ", result.stdout, re.M)
    record = re.search(r"traceback: (\S+)", result.stderr)
    assert record is not None
    assert "planted failure" in Path(record.group(1)).read_text()
    # The same through --json: one object per run, the failed one says so.
    lines = json_lines(cli("run", "--method", methods, "--target", tiny, "--json", code=1).stdout)
    assert [line["status"] for line in lines] == ["failed", "done", "done"]
    assert "planted failure" in lines[0]["error"]


def test_json_of_a_failed_run_has_every_key_of_a_finished_one_and_the_error(cli, tiny, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    words = ("run", "--method", f"{plugin}:Broken,random", "--target", tiny, "--json")
    failed, done = json_lines(cli(*words, code=1).stdout)
    assert list(failed) == [*done, "error"]
    assert (failed["method"], failed["family"]) == ("broken", "reference")
    assert (failed["target"], failed["sources"], failed["seed"]) == (tiny, [], 0)
    assert "planted failure" in failed["error"]
    unknown = {key for key, value in failed.items() if value is None}
    assert unknown == {
        "run_id", "task_hash", "candidates_hash", "users_hash", "n_users", "metrics", "seconds",
        "peak_memory_mb", "diagnostics",
    }  # fmt: skip


def test_header_names_popularity_negatives_and_the_number_of_imported_candidates(
    cli, tiny, tmp_path
):
    def header(*options) -> str:
        words = ("run", "--method", "random,markov", "--target", tiny, "--quiet", *options)
        return next(line for line in cli(*words).stdout.splitlines() if line.startswith(tiny))

    assert "users, 30 candidates each" in header()
    drawn = ("--negatives", "popularity", "--n-negatives", 9)
    assert "users, 10 candidates (popularity negatives) each" in header(*drawn)
    file = tmp_path / "sets.csv"
    cli("candidates", "export", "--target", tiny, "--n-negatives", 7, "--out", file)
    assert "users, 8 imported candidates each" in header("--candidates", file)


def test_debug_shows_the_traceback(tiny, monkeypatch):
    from typer.testing import CliRunner

    from bench.cli import app
    from bench.errors import ConfigError

    monkeypatch.setenv("BENCH_DEBUG", "1")
    result = CliRunner().invoke(app, ["run", "--method", "markv", "--target", tiny])
    assert isinstance(result.exception, ConfigError)


def test_a_full_disk_is_named(cli, tiny, monkeypatch):
    import errno

    from bench.runs import matrix

    def full(*_args, **_kwargs):
        raise OSError(errno.ENOSPC, "No space left on device", "/some/file")

    monkeypatch.setattr(matrix, "run_matrix", full)
    result = cli("run", "--method", "random", "--target", tiny, code=1)
    assert "disk is full while writing /some/file" in result.stderr


def test_ctrl_c_is_clean_and_keeps_what_is_finished(tiny, tmp_path):
    plugin = tmp_path / "plugin.py"
    plugin.write_text(PLUGIN)
    command = [sys.executable, "-m", "bench.cli", "run", "--target", tiny]
    command += ["--method", f"random,{plugin}:Slow"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ.copy(),
        cwd=tmp_path,
    )  # fmt: skip
    assert process.stderr is not None
    assert "fitting\n" in iter(process.stderr.readline, "")
    time.sleep(0.2)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=30)
    assert process.returncode == 130, out + err
    assert "interrupted" in err
    assert "Traceback" not in err

    from bench.runs.store import RunStore

    assert [run.method for run in RunStore(tmp_path / "runs").list()] == ["random"]


WITHOUT_RECBOLE = """
from importlib.machinery import PathFinder

find_spec = PathFinder.find_spec

def hidden(cls, name, path=None, target=None):
    return None if name.partition(".")[0] == "recbole" else find_spec(name, path, target)

PathFinder.find_spec = classmethod(hidden)

from bench.cli import main

main()
"""


@pytest.mark.parametrize("method", ["sasrec", "recbole:NARM"])
def test_method_without_recbole_fails_before_any_work_with_the_command_to_type(
    tiny, tmp_path, method
):
    words = ["run", "--method", f"random,{method}", "--target", tiny]
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_RECBOLE, *words], capture_output=True, text=True, check=False,
        env=os.environ.copy(), cwd=tmp_path, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2, done.stdout + done.stderr
    assert "bench assets pull recbole" in done.stderr
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1, "no stage was begun"
    assert not (tmp_path / "runs").exists(), "not even the run that could have been made"
