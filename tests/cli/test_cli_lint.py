"""``bench lint`` from the command line: what is printed, JSON, exit codes."""

from __future__ import annotations

import json

TRUE = "| Method | NDCG@1 | NDCG@5 | MRR@5 |\n|---|---|---|---|\n| a | 0.2000 | 0.3000 | 0.2700 |\n"


def test_a_true_table_passes(cli, tmp_path):
    path = tmp_path / "t.md"
    path.write_text(TRUE)
    result = cli("lint", path)
    assert "1 rows (method x target), 3 figures: 0 inconsistent, 0 warnings" in result.stdout


def test_an_impossible_table_fails_and_names_the_line(cli, tmp_path):
    path = tmp_path / "t.md"
    path.write_text(TRUE.replace("0.2700", "0.2000"))
    result = cli("lint", path, code=1)
    assert f"{path}:3: inconsistent [bounds] a: MRR@5 0.2000 is below" in result.stdout


def test_json_holds_one_object_per_name(cli, tmp_path):
    path = tmp_path / "t.md"
    path.write_text(TRUE)
    lines = cli("lint", path, "weaverec-2025", "--json", code=1).stdout.splitlines()
    ours, paper = map(json.loads, lines)
    assert (ours["rows"], ours["inconsistent_rows"], ours["findings"]) == (1, 0, [])
    assert (paper["source"], paper["rows"], paper["inconsistent_rows"]) == (
        "weaverec-2025.csv",
        108,
        24,
    )
    assert {f["severity"] for f in paper["findings"]} == {"inconsistent", "warning"}


def test_options_reach_the_checks(cli, tmp_path):
    path = tmp_path / "t.csv"
    path.write_text("method;NDCG@1;NDCG@5\na;45;60\n")
    assert "outside [0, 1]" in cli("lint", path, code=1).stdout
    cli("lint", path, "--percent")
    assert "[grim]" in cli("lint", path, "--percent", "--n-users", 30, code=1).stdout


def test_wrong_names_and_options(cli, tmp_path):
    assert "neither a file" in cli("lint", "nothing", code=2).stderr
    cli("lint", "weaverec-2025", "--n-candidates", 0, code=2)
    cli("lint", code=2)
