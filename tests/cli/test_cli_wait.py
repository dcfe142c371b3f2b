"""``bench run`` beside another process that holds one of its runs: told, limited, named as not done."""

from __future__ import annotations

import json
from pathlib import Path

from bench.io import lock


def test_a_run_that_is_held_elsewhere_is_named_and_the_rest_is_done(cli, tiny, tmp_path: Path):
    words = ("run", "--method", "random,popularity", "--target", tiny, "--json")
    first, second = map(json.loads, cli(*words).stdout.splitlines())
    cli("runs", "rm", first["run_id"], second["run_id"])
    held = tmp_path / "runs" / ".work" / first["run_id"]
    with lock(held):
        result = cli(*words, "--wait", "0.001", code=1)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["method"], line["status"]) for line in lines] == [
        ("popularity", "done"),
        ("random", "in use"),
    ]
    assert set(lines[1]) == {*first, "error"}
    assert result.stderr.count(f"not done: random on {tiny}, seed 0: run {first['run_id']}") == 1
    assert "wait for it or stop it" in result.stderr
    assert not list((tmp_path / "runs").glob("failed/*/*")), "nothing failed"
    # Nobody holds it any more.
    again = [json.loads(line)["status"] for line in cli(*words).stdout.splitlines()]
    assert again == ["done", "done"]


def test_a_negative_wait_is_refused(cli, tiny):
    result = cli("run", "--method", "random", "--target", tiny, "--wait", "-1", code=2)
    assert "--wait" in result.stderr
