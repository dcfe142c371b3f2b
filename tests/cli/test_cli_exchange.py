"""`bench candidates`, `export-requests`, `import-scores` and the travel of runs between stores."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from bench.methods.registry import resolve


def as_json(result) -> dict:
    return json.loads(result.stdout)


def test_hash_is_that_of_the_runs(cli, tiny):
    run = as_json(cli("run", "--method", "random", "--target", tiny, "--json"))
    found = as_json(cli("candidates", "hash", "--target", tiny, "--json"))
    assert found["task_hash"] == run["task_hash"]
    assert found["candidates_hash"] == run["candidates_hash"]
    other = as_json(cli("candidates", "hash", "--target", tiny, "--candidate-seed", 1, "--json"))
    assert other["candidates_hash"] != found["candidates_hash"]
    assert found["task_hash"] in cli("candidates", "hash", "--target", tiny).stdout


def test_exported_candidates_can_be_imported_and_ranked(cli, tiny, tmp_path):
    file = tmp_path / "candidates.csv"
    cli("candidates", "export", "--target", tiny, "--out", file)
    with file.open() as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 60 * 30 * 2
    assert "task" in cli("candidates", "import", file, "--target", tiny).stdout
    drawn = as_json(cli("run", "--method", "item-knn", "--target", tiny, "--json"))
    words = ("run", "--method", "item-knn", "--target", tiny, "--candidates", file, "--json")
    imported = as_json(cli(*words))
    # The same sets under another identity: equal figures, another task.
    assert imported["task_hash"] != drawn["task_hash"]
    for metric, value in drawn["metrics"].items():
        assert imported["metrics"][metric]["mean"] == pytest.approx(value["mean"], abs=1e-12)


def test_a_candidate_file_of_another_domain_is_refused(cli, tiny, tmp_path):
    file = tmp_path / "candidates.csv"
    file.write_text("user_id,item_id\nnobody,i001\nnobody,i002\n")
    result = cli("candidates", "import", file, "--target", tiny, code=1)
    assert "nobody" in result.stderr
    assert "expected" not in result.stdout


def scores_of(requests: Path, scores: Path, score) -> None:
    lines = ["user_id,item_id,score"]
    for line in requests.read_text().splitlines():
        row = json.loads(line)
        lines += [f"{row['user_id']},{item},{score(row, item)}" for item in row["candidates"]]
    scores.write_text("\n".join(lines) + "\n")


def test_scores_of_another_program_become_a_run(cli, tiny, tmp_path):
    requests, scores = tmp_path / "requests.jsonl", tmp_path / "scores.csv"
    cli("export-requests", "--target", tiny, "--out", requests)
    # The planted pattern: the successor of the last item on the circle of 45 items.
    scores_of(
        requests, scores, lambda row, item: int((int(row["history"][-1][1:]) + 1) % 45 == int(item[1:]))
    )  # fmt: skip
    words = ("import-scores", scores, "--target", tiny, "--requests", requests)
    run = as_json(cli(*words, "--name", "circle", "--json"))
    assert run["method"] == "circle"
    random_row = as_json(cli("run", "--method", "random", "--target", tiny, "--json"))
    assert run["task_hash"] == random_row["task_hash"]
    # Known without the harness: about 0.8 of the steps follow the circle.
    assert run["metrics"]["ndcg@1"]["mean"] > 0.5
    table = cli("leaderboard", "--target", tiny).stdout
    assert "circle" in table
    assert "circle" in cli("run", "--method", "random", "--target", tiny).stdout
    refused = cli(*words, "--name", "markov", code=2).stderr
    assert "exists" in refused


def test_scores_for_other_requests_are_refused(cli, tiny, tmp_path):
    requests, scores = tmp_path / "requests.jsonl", tmp_path / "scores.csv"
    cli("export-requests", "--target", tiny, "--out", requests, "--candidate-seed", 1)
    scores_of(requests, scores, lambda row, item: 0)
    words = ("import-scores", scores, "--target", tiny, "--name", "zero")
    assert "task_hash" in cli(*words, "--requests", requests, code=1).stderr
    assert "candidates" in cli(*words, code=1).stderr
    as_json(cli(*words, "--requests", requests, "--candidate-seed", 1, "--json"))


def test_limited_requests_and_titles(cli, tiny, tmp_path):
    requests = tmp_path / "requests.jsonl"
    cli("export-requests", "--target", tiny, "--out", requests, "--limit-users", 7, "--titles")
    rows = [json.loads(line) for line in requests.read_text().splitlines()]
    assert len(rows) == 7
    assert rows[0]["candidate_titles"][0] == f"Title {int(rows[0]['candidates'][0][1:])}"


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_training_rows_and_validation_requests_are_exported(cli, tiny, tmp_path):
    other = tmp_path / "other.csv"
    other.write_text((tmp_path / "tiny.csv").read_text().replace(",i0", ",j0"))
    cli("data", "import", "other", other)
    test, valid = tmp_path / "test.jsonl", tmp_path / "valid.jsonl"
    said = cli(
        "export-requests", "--target", tiny, "--out", test, "--with-training", "--sources", "other"
    ).stdout
    assert "A history ends with the user's validation item" in said
    cli("export-requests", "--target", tiny, "--out", valid, "--split", "valid", "--titles")
    events: dict[str, list[str]] = {}
    with (tmp_path / "tiny.csv").open() as stream:
        for row in csv.DictReader(stream):
            events.setdefault(row["user_id"], []).append(row["item_id"])
    tests = {row["user_id"]: row for row in rows_of(test)}
    assert {user: row["history"] for user, row in tests.items()} == {
        user: items[:-1] for user, items in events.items()
    }
    for row in rows_of(valid):
        assert row["history"] == events[row["user_id"]][:-2]
        assert row["candidates"].count(tests[row["user_id"]]["history"][-1]) == 1
        assert set(row) == {
            "user_id", "history", "candidates", "history_titles", "candidate_titles",
        }  # fmt: skip
    training = rows_of(tmp_path / "test.training.jsonl")
    mine = {row["user_id"]: row for row in training if row["domain"] == tiny}
    assert {u: row["history"] for u, row in mine.items()} == {u: i[:-2] for u, i in events.items()}
    assert all(len(row["timestamps"]) == len(row["history"]) for row in training)
    assert {row["domain"] for row in training} == {tiny, "other"}
    meta = json.loads((tmp_path / "test.training.jsonl.meta.json").read_text())
    assert meta["domains"][tiny]["role"] == "target"
    assert meta["domains"]["other"]["n_events"] == sum(
        len(row["history"]) for row in training if row["domain"] == "other"
    )
    for path in (test, valid):
        described = json.loads(path.with_name(path.name + ".meta.json").read_text())
        assert "validation item" in described["note"]
    # Scores are for test requests.
    refused = cli(
        "import-scores", other, "--name", "x", "--target", tiny, "--requests", valid, code=1
    )
    assert "split is valid, this task's is test" in refused.stderr
    parquet = tmp_path / "test.parquet"
    cli("export-requests", "--target", tiny, "--out", parquet, "--with-training", "--titles")
    assert (tmp_path / "test.training.parquet").is_file()
    assert (
        "--with-training"
        in cli(
            "export-requests", "--target", tiny, "--out", test, "--sources", "other", code=2
        ).stderr
    )


def test_training_events_of_the_leak_guard_are_not_exported(cli, tmp_path):
    """Two domains of one id space: what is held out in one is not trained on in the other."""
    ids = "user_id,item_id,timestamp\n"
    for name, shift in (("one", 0), ("two", 1)):
        lines = [f"u{u},i{5 * u + k + shift},{k}" for u in range(9) for k in range(6)]
        (tmp_path / f"{name}.csv").write_text(ids + "\n".join(lines) + "\n")
        words = ("--namespace", "shop", "--group", "shop")
        cli("data", "import", name, tmp_path / f"{name}.csv", *words)
    out = tmp_path / "r.jsonl"
    cli("export-requests", "--target", "one", "--out", out, "--with-training")
    training = rows_of(tmp_path / "r.training.jsonl")
    # Held out in "one" are its steps 4 and 5, which are the steps 3 and 4 of "two".
    assert {len(row["history"]) for row in training if row["domain"] == "two"} == {3}
    assert {len(row["history"]) for row in training if row["domain"] == "one"} == {4}


def test_runs_travel_between_stores(cli, tiny, tmp_path):
    run = as_json(cli("run", "--method", "markov", "--target", tiny, "--json"))
    file, other = tmp_path / "runs.tar.gz", tmp_path / "other"
    cli("runs", "export", run["run_id"], "--out", file)
    assert run["run_id"] in cli("runs", "import", file, "--store", other).stdout
    listed = json.loads(cli("runs", "list", "--store", other, "--json").stdout)
    assert [row["run_id"] for row in listed] == [run["run_id"]]
    published = tmp_path / "results"
    cli("runs", "export", run["run_id"], "--out", published, "--publish")
    (folder,) = published.glob("*/*")
    assert not (folder / "log.txt").exists()
    assert str(tmp_path) not in (folder / "manifest.json").read_text()


def test_reproduce_compares_user_by_user(cli, tiny, tmp_path):
    run = as_json(cli("run", "--method", "markov", "--target", tiny, "--json"))
    assert (
        "outcomes of all 60 users are equal" in cli("runs", "reproduce", run["run_id"][:8]).stdout
    )
    # Other data under the same name: the task differs, and the verb says so.
    path = tmp_path / "tiny.csv"
    lines = path.read_text().splitlines()
    path.write_text("\n".join(lines[:-1]) + "\n")
    cli("data", "import", tiny, path, "--items", tmp_path / "tiny-items.csv", "--replace")
    result = cli("runs", "reproduce", run["run_id"], code=1)
    assert "task differs" in result.stderr


def test_equal_outcomes_of_another_version_are_called_equal(cli, tiny, monkeypatch):
    run = as_json(cli("run", "--method", "markov", "--target", tiny, "--json"))
    monkeypatch.setattr(resolve("markov"), "version", "of today")
    result = cli("runs", "reproduce", run["run_id"])
    assert "outcomes of all 60 users are equal" in result.stdout
    assert "version of today now" in result.stderr and "run id differs" in result.stderr
    assert "outcomes of users differ" not in result.stderr


@pytest.mark.parametrize("format_", ["markdown", "csv", "json"])
def test_leaderboard_holds_the_stored_figures(cli, tiny, tmp_path, format_):
    cli("run", "--method", "markov,popularity", "--target", tiny, "--quiet")
    run = json.loads(cli("runs", "list", "--method", "markov", "--json").stdout)[0]
    shown = as_json(cli("runs", "show", run["run_id"], "--json"))
    mean = shown["metrics"]["metrics"]["ndcg@5"]["mean"]
    out = cli("leaderboard", "--target", tiny, "--format", format_).stdout
    if format_ == "json":
        rows = {row["method"]: row for row in json.loads(out)["blocks"][0]["rows"]}
        assert rows["markov"]["metrics"]["ndcg@5"]["mean"] == pytest.approx(mean, abs=1e-9)
    else:
        assert f"{mean:.4f}" in out or f"{mean:.6f}"[:7] in out
    file = tmp_path / "table"
    words = ("leaderboard", "--target", tiny, "--format", format_)
    assert cli(*words, "--out", file).stdout == ""
    assert file.read_text() == out


def test_leaderboard_without_runs_says_how_to_begin(cli, tiny):
    result = cli("leaderboard", "--target", tiny, code=2)
    assert f"bench run --method popularity,item-knn --target {tiny}" in result.stderr
    cli("run", "--method", "markov", "--target", tiny, "--quiet")
    assert "ndcg@x" in cli("leaderboard", "--target", tiny, "--primary", "ndcg@x", code=2).stderr
    assert "--users" in cli("leaderboard", "--target", tiny, "--users", "0", code=2).stderr
