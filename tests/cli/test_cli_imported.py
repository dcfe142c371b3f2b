"""Scores of another program: ranked as their file says, marked wherever they stand, replaced only if asked."""

from __future__ import annotations

import csv
import io
import json
import math
import random

import pytest


@pytest.fixture
def requests(cli, tiny, tmp_path):
    file = tmp_path / "requests.jsonl"
    cli("export-requests", "--target", tiny, "--out", file)
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture
def scores(requests, tmp_path):
    """Writes a file of scores: the last item's neighbours on the circle of items first, and noise."""

    def write(name: str, seed: int = 0, noise: float = 1.0, form=repr) -> str:
        draw = random.Random(seed)
        lines = ["user_id,item_id,score"]
        for row in requests:
            last = int(row["history"][-1][1:])
            for item in row["candidates"]:
                near = 2.0 * ((int(item[1:]) - last) % 45 == 1)
                lines.append(f"{row['user_id']},{item},{form(near + noise * draw.random())}")
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n")
        return str(path)

    return write


@pytest.fixture
def import_(cli, tiny):
    def call(file, *words, code=0):
        return cli("import-scores", file, "--name", "circle", "--target", tiny, *words, code=code)

    return call


def as_json(result) -> dict:
    return json.loads(result.stdout)


def test_tiny_probabilities_rank_as_their_logarithms(import_, scores):
    logs = as_json(import_(scores("log.csv"), "--json"))
    tiny = scores("p.csv", form=lambda x: repr(math.exp(-115 + x)))
    probabilities = as_json(import_(tiny, "--version", "2", "--json"))
    assert probabilities["metrics"] == logs["metrics"]
    large = scores("n.csv", form=lambda x: str(10**17 + round(1e9 * x)))
    integers = as_json(import_(large, "--version", "3", "--json"))
    assert integers["metrics"]["auc"] == logs["metrics"]["auc"]


def test_scores_that_tie_are_named(import_, scores):
    assert "warning" not in import_(scores("a.csv")).stdout
    saturated = scores("s.csv", form=lambda x: repr(1 / (1 + math.exp(-(x + 40)))))
    said = import_(saturated, "--version", "2").stdout
    assert "warning: for 100.0 % of the users another candidate has the very score" in said


def test_requests_of_other_data_say_what_agrees(cli, tiny, tmp_path, import_, scores):
    file, titles = scores("a.csv"), tmp_path / "titles.csv"
    with (tmp_path / "tiny.csv").open() as stream:
        items = sorted({row["item_id"] for row in csv.DictReader(stream)})
    titles.write_text("item_id,title\n" + "".join(f"{item},New {item}\n" for item in items))
    cli("data", "import", tiny, tmp_path / "tiny.csv", "--items", titles, "--replace")
    refused = import_(file, "--requests", tmp_path / "requests.jsonl", code=1).stderr
    assert "task_hash is" in refused and "Users and candidates agree" in refused
    cli("data", "import", "other", tmp_path / "tiny.csv")
    words = ("--name", "x", "--target", "other", "--requests", tmp_path / "requests.jsonl")
    refused = cli("import-scores", file, *words, code=1).stderr
    assert f"target is {tiny}, this task's is other. Give the protocol options" in refused


@pytest.mark.parametrize("option", ["--seed", "--candidate-seed"])
def test_a_seed_that_no_manifest_holds_is_refused(cli, import_, scores, option):
    assert option in import_(scores("a.csv"), option, "1" * 30, code=2).stderr
    assert json.loads(cli("runs", "list", "--json").stdout) == []


def test_imported_rows_are_marked_wherever_they_stand(cli, tiny, tmp_path, import_, scores):
    shown = import_(scores("a.csv")).stdout
    assert "circle (imported), profile cpu, seed 0, fitted in -" in shown
    run = as_json(import_(scores("a.csv"), "--json"))
    assert run["imported"]["file"] == "a.csv" and run["imported"]["trained"] is True
    assert "circle (imported)" in cli("runs", "list").stdout
    assert "imported: scores sha256" in cli("runs", "show", run["run_id"]).stdout
    beside = cli("run", "--method", "markov,popularity", "--target", tiny).stdout
    assert "circle (imported) (" in beside, "the best rival"
    assert "circle (imported)" in cli("compare", "--target", tiny).stdout
    pairs = as_json(cli("compare", "--target", tiny, "--json"))
    marks = {one["method"]: one["imported"] for one in pairs["contenders"]}
    assert marks == {"circle": True, "markov": False, "popularity": False}
    table = ("leaderboard", "--target", tiny, "--format")
    for format_ in ("markdown", "latex", "csv", "json"):
        assert "circle (imported)" in cli(*table, format_).stdout
    lines = csv.DictReader(io.StringIO(cli(*table, "csv").stdout))
    assert {line["method"]: line["flags"] for line in lines if line["flags"]}[
        "circle"
    ] == "imported"
    assert (
        "Imported: circle (imported). Scores of another program" in cli(*table, "markdown").stdout
    )
    cli(*table, "html", "--out", tmp_path / "site")
    assert "circle (imported)" in (tmp_path / "site" / "index.html").read_text()
    assert "imported, as declared" in (tmp_path / "site" / "methods" / "circle.html").read_text()


def test_costs_are_as_declared_and_never_those_of_reading_the_file(cli, tiny, import_, scores):
    file = scores("a.csv")
    run = as_json(import_(file, "--json"))
    assert run["seconds"] == {"fit": None, "score": None, "total_with_adapters": None}
    assert run["peak_memory_mb"] is None
    costs = ("--fit-seconds", 90, "--score-seconds", 10, "--peak-memory-mb", 512)
    words = (*costs, "--hardware", "one A100", "--family", "llm", "--replace", "--json")
    declared = as_json(import_(file, *words))
    assert declared["seconds"] == {"fit": 90, "score": 10, "total_with_adapters": 100}
    table = cli("leaderboard", "--target", tiny, "--cost", "--format", "json").stdout
    rows = {row["method"]: row for row in json.loads(table)["blocks"][0]["rows"]}
    assert rows["circle"]["family"] == declared["family"] == "llm"
    assert "--family" in import_(file, "--family", "big", code=2).stderr
    assert rows["circle"]["cost"] == {"own": 100, "total": 100, "memory_mb": 512}
    assert "one A100" in cli("runs", "show", declared["run_id"]).stdout
    assert "--fit-seconds" in import_(file, "--fit-seconds", "inf", code=2).stderr
    assert "--hardware" in import_(file, "--hardware", "\x1b[2J", code=2).stderr


def test_seeds_are_one_row_and_one_trained_seed_earns_no_star(cli, tiny, import_, scores):
    cli("run", "--method", "popularity", "--target", tiny, "--json")
    import_(scores("s0.csv", 0), "--seed", 0)
    table = ("leaderboard", "--target", tiny, "--format", "json")
    significance = as_json(cli(*table))["significance"]
    assert not significance["starred"] and "one training seed" in significance["reason"]
    refused = import_(scores("again.csv", 0), "--seed", 1, code=1).stderr
    assert "imported as seed 0 already" in refused
    import_(scores("s1.csv", 1), "--seed", 1)
    found = as_json(cli(*table))
    (row,) = [row for row in found["blocks"][0]["rows"] if row["method"] == "circle"]
    assert row["seeds"] == [0, 1]
    assert found["significance"]["starred"]


def test_untrained_scores_are_tested_like_those_of_a_method_without_training(
    cli, tiny, import_, scores
):
    cli("run", "--method", "popularity", "--target", tiny, "--json")
    import_(scores("a.csv"), "--untrained")
    assert as_json(cli("leaderboard", "--target", tiny, "--format", "json"))["significance"][
        "starred"
    ]
    assert "no training seed" in import_(scores("a.csv"), "--untrained", "--seed", 1, code=2).stderr


def test_a_second_import_never_replaces_the_first_silently(cli, import_, scores):
    first = as_json(import_(scores("a.csv"), "--json"))
    assert as_json(import_(scores("a.csv"), "--json"))["run_id"] == first["run_id"]
    other = scores("b.csv", seed=5)
    refused = import_(other, code=1).stderr
    assert "file is a.csv, given b.csv; scores_sha256 is" in refused
    assert "--replace" in refused
    same_id = import_(scores("a.csv"), "--untrained", code=1).stderr
    assert "trained is True, given False" in same_id
    listed = json.loads(cli("runs", "list", "--json").stdout)
    assert [run["run_id"] for run in listed if run["method"]["name"] == "circle"] == [
        first["run_id"]
    ]
    second = as_json(import_(other, "--replace", "--json"))
    listed = json.loads(cli("runs", "list", "--json").stdout)
    kept = [run["run_id"] for run in listed if run["method"]["name"] == "circle"]
    assert kept == [second["run_id"]] != [first["run_id"]]
    third = as_json(import_(other, "--replace", "--untrained", "--json"))
    assert third["run_id"] == second["run_id"] and third["imported"]["trained"] is False


def test_a_replacement_that_was_killed_is_completed_by_the_same_command(
    cli, tiny, import_, scores, monkeypatch
):
    from bench.runs.store import RunStore

    import_(scores("a.csv"))
    other = scores("b.csv", seed=5)
    with monkeypatch.context() as patched:

        def killed(self, name):
            raise KeyboardInterrupt

        patched.setattr(RunStore, "remove", killed)
        patched.setattr("bench.runs.manifest.utc_now", lambda: "2099-01-01T00:00:00Z")
        import_(other, "--replace", code=130)
    table = ("leaderboard", "--target", tiny, "--format", "json")
    (row,) = [r for r in as_json(cli(*table))["blocks"][0]["rows"] if r["method"] == "circle"]
    again = as_json(import_(other, "--replace", "--json"))
    assert row["run_ids"] == [again["run_id"]], "the newer one counts meanwhile"
    listed = json.loads(cli("runs", "list", "--json").stdout)
    assert [run["run_id"] for run in listed] == [again["run_id"]]


def test_reproduce_and_verify_say_what_they_cannot_redo(cli, tmp_path, import_, scores):
    run = as_json(import_(scores("a.csv"), "--json"))
    refused = cli("runs", "reproduce", run["run_id"], code=2).stderr
    assert "bench import-scores FILE --name circle" in refused
    assert run["imported"]["scores_sha256"] in refused
    published = tmp_path / "results"
    cli("runs", "export", run["run_id"], "--out", published, "--publish")
    verified = cli("results", "verify", published)
    assert "all checks passed" in verified.stdout
    assert "1 of them imported" in verified.stdout
    assert as_json(cli("results", "verify", published, "--json"))["imported"] == [run["run_id"]]
    assert "all checks passed" in cli("results", "verify", published, "--with-data").stdout


@pytest.mark.parametrize("name", ["", " ", "a\x1b[31m"])
def test_names_can_be_printed(cli, tiny, scores, name):
    file = scores("a.csv")
    refused = cli("import-scores", file, "--name", name, "--target", tiny, code=2).stderr
    assert "--name" in refused and "\x1b" not in refused
