"""`bench assets`, `methods`, `doctor`, `check`, `new` and `runs`."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest


def test_assets_are_listed_without_any_of_them(cli):
    listed = {row["name"]: row for row in json.loads(cli("assets", "list", "--json").stdout)}
    assert set(listed) == {"recbole", "ml-100k", "smollm2-135m", "all-minilm-l6-v2"}
    assert not listed["ml-100k"]["present"]
    assert listed["ml-100k"]["path"] is None
    assert "bench assets pull NAME" in cli("assets", "list").stdout


def test_unknown_assets_are_refused_before_any_is_fetched(cli, tmp_path):
    refused = cli("assets", "pull", "smollm2-135m", "ml-100", code=2).stderr
    assert "'ml-100k'" in refused
    assert not (tmp_path / "cache/assets").exists()


def test_verify_reports_a_damaged_asset(cli, tmp_path):
    from bench.assets import ASSETS
    from bench.io import write_json

    folder = tmp_path / "cache/assets/ml-100k"
    asset = ASSETS["ml-100k"]
    (folder / "file").parent.mkdir(parents=True)
    (folder / "file").write_text("changed")
    record = {"wheel_sha256": asset.wheel_sha256, "files": {"file": "0" * 64}}
    write_json(folder / "asset.json", record)
    result = cli("assets", "verify", "ml-100k", code=1)
    assert "content changed" in result.stderr
    assert "bench assets pull --force ml-100k" in result.stderr


def test_methods_are_listed_and_described(cli):
    listed = {row["name"]: row for row in json.loads(cli("methods", "--json").stdout)}
    wanted = {"random", "popularity", "markov", "item-knn", "ease", "gru4rec", "sasrec", "bert4rec"}
    assert wanted <= set(listed)
    table = cli("methods").stdout
    assert all(re.search(rf"^{name} ", table, re.M) for name in wanted)
    described = cli("methods", "item-knn").stdout
    assert re.search(r"^history_decay +float +0\.8 ", described, re.M)
    grouped = cli("methods", "target-only").stdout
    assert re.search(r"^lora\.dropout +float +0\.0 +0\.05 +0\.05$", grouped, re.M)
    assert re.search(r"^title_chars +int \| null +null +120 +null$", grouped, re.M)
    assert "\ntraining.epochs: passes over the examples" in grouped
    assert "Did you mean 'sasrec'" in cli("methods", "sasrek", code=2).stderr


def test_doctor_reports_folders_assets_and_domains(cli, tmp_path, monkeypatch):
    out = cli("doctor").stdout
    assert str(tmp_path / "runs") in out
    assert "absent: bench assets pull ml-100k" in out
    assert "torch device: cpu" in out or "torch device: cuda" in out
    assert "No problem found." in out
    monkeypatch.setenv("BENCH_DATA_ROOT", str(tmp_path / "nowhere"))
    assert "BENCH_DATA_ROOT" in cli("doctor", code=1).stderr


def test_doctor_tells_of_another_package_bench(cli, monkeypatch):
    owners = {"bench": ["weavebench", "frappe-bench"]}
    monkeypatch.setattr("bench.cli.doctor.packages_distributions", lambda: owners)
    told = cli("doctor", code=1).stderr
    assert "is shared with frappe-bench. Install weavebench into an environment of its own" in told
    monkeypatch.delattr("bench.__all__")
    assert "is that of frappe-bench. Install" in cli("doctor", code=1).stderr
    monkeypatch.setattr("bench.cli.doctor.packages_distributions", dict)
    assert "lacks weavebench's own __init__.py" in cli("doctor", code=1).stderr


def test_a_new_method_passes_the_check_and_runs(cli, tiny):
    out = cli("new", "method", "my-method").stdout
    assert "bench check my_method.py:MyMethod" in out
    assert Path("my_method.py").is_file()
    checked = cli("check", "my_method.py:MyMethod")
    assert "passed" in checked.stdout
    run = cli("run", "--method", "my_method.py:MyMethod", "--target", tiny, "--json").stdout
    assert json.loads(run)["method"] == "my-method"
    assert "exists already" in cli("new", "method", "my-method", code=2).stderr


@pytest.mark.parametrize("name", ["1st", "!!", "class-"])
def test_a_new_method_needs_a_usable_name(cli, name):
    result = cli("new", "method", name, code=2 if name != "class-" else 0)
    assert (result.stderr != "") == (name != "class-")


BAD_METHOD = '''
import numpy as np
from bench.methods import Family, Method, Scores

class Wrong(Method):
    """Scores by the position of the candidate, which says nothing."""

    name, version, family = "wrong", "1", Family.REFERENCE

    def fit(self, view, context):
        pass

    def score(self, requests, context):
        n, c = requests.candidates.shape
        return Scores(np.tile(np.arange(c, dtype=np.float32), (n, 1)))
'''


def test_check_says_what_is_wrong_and_exits_with_1(cli, tmp_path):
    (tmp_path / "wrong.py").write_text(BAD_METHOD)
    result = cli("check", f"{tmp_path / 'wrong.py'}:Wrong", code=1)
    assert re.search(r"candidate.order", result.stdout)
    assert "failed" in result.stdout


def test_a_method_that_cannot_be_fitted_is_not_called_checked(cli, tmp_path):
    plugin = tmp_path / "absent.py"
    source = BAD_METHOD.replace(
        "        pass", "        raise MissingExtraError('install it first')"
    )
    plugin.write_text("from bench.errors import MissingExtraError\n" + source)
    result = cli("check", f"{plugin}:Wrong", code=2)
    assert "wrong was not checked" in result.stderr
    assert "install it first" in result.stderr


class TestRuns:
    @pytest.fixture
    def run(self, cli, tiny):
        return json.loads(cli("run", "--method", "random", "--target", tiny, "--json").stdout)

    def test_list_and_show(self, cli, run):
        assert run["run_id"] in cli("runs", "list").stdout
        assert run["run_id"] not in cli("runs", "list", "--method", "markov").stdout
        listed = json.loads(cli("runs", "list", "--json").stdout)
        assert [row["run_id"] for row in listed] == [run["run_id"]]
        shown = cli("runs", "show", run["run_id"][:6]).stdout
        assert run["task_hash"] in shown
        assert re.search(r"^ndcg@1 +0\.0333 ", shown, re.M)

    def test_rm_looks_every_name_up_first(self, cli, run):
        assert "no run 'zz'" in cli("runs", "rm", run["run_id"], "zz", code=2).stderr
        assert Path(run["path"]).is_dir()
        cli("runs", "rm", run["run_id"])
        assert not Path(run["path"]).exists()
        assert "No runs in" in cli("runs", "list").stdout

    def test_a_damaged_run_is_named_and_can_be_removed(self, cli, run):
        file = Path(run["path"]) / "metrics.json"
        file.write_text(file.read_text().replace("0.0", "0.9", 1))
        listed = cli("runs", "list")
        assert "damaged" in listed.stderr
        assert "bench runs rm" in listed.stderr
        assert "changed" in cli("runs", "show", run["run_id"], code=1).stderr
        cli("runs", "rm", run["run_id"])
        assert cli("runs", "list").stderr == ""


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (("runs", "list", "--target", "tini"), "unknown domain 'tini'. Did you mean 'tiny'"),
        (("runs", "list", "--method", "markv"), "unknown method 'markv'. Did you mean 'markov'"),
        (("runs", "show", "zz"), "no run 'zz'"),
        (("runs", "reproduce", "zz"), "no run 'zz'"),
        (("runs", "export", "zz", "--out", "x.tar.gz"), "no run 'zz'"),
        (("compare", "zz", "yy"), "no run 'zz'"),
        (("candidates", "hash", "--target", "tini"), "Did you mean 'tiny'"),
        (("export-requests", "--target", "tini", "--out", "x.jsonl"), "Did you mean 'tiny'"),
        (("methods", "recbole:narm"), "Did you mean 'NARM'"),
        (("check", "EASE"), "Did you mean 'ease'"),
        (("data", "stats", "ml-1m"), "not on this machine: ml-1m"),
        (("candidates", "hash", "--target", "ml-1m"), "not on this machine: ml-1m"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_unknown_names_are_wrong_use_with_a_suggestion_in_every_verb(cli, tiny, words, hint):
    result = cli(*words, code=2)
    assert hint in result.stderr
    assert result.stdout == ""


def test_checkpoints_of_interrupted_runs_are_deleted_on_request(cli, tiny, tmp_path):
    from bench.io import lock

    plugin = tmp_path / "stop.py"
    plugin.write_text(
        "from bench.methods import Family, Method\n\n\n"
        "class Stop(Method):\n"
        '    name, version, family = "stop", "1", Family.REFERENCE\n\n'
        "    def fit(self, view, context):\n        raise KeyboardInterrupt\n\n"
        "    def score(self, requests, context): ...\n"
    )
    words = ("run", "--method", f"{plugin}:Stop", "--target", tiny)
    cli(*words, code=130)
    (folder,) = (p for p in (tmp_path / "runs" / ".work").iterdir() if p.is_dir())
    with lock(folder):
        kept = cli("runs", "rm", "--unfinished")
    assert "No unfinished runs" in kept.stdout and f"kept {folder}" in kept.stderr
    assert f"removed {folder}" in cli("runs", "rm", "--unfinished").stdout
    assert list(folder.parent.iterdir()) == []
    assert "--unfinished" in cli("runs", "rm", code=2).stderr
