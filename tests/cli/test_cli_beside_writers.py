"""Readers beside a process that removes a run and stores it again: gone is not damaged."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPT = Path(__file__).with_name("run_coming_and_going.py")
ROUNDS = 8


@pytest.fixture
def coming_and_going(cli, tiny, tmp_path):
    """Id of the run that a second process removes and stores all the time; another one stays."""
    words = ("run", "--target", "tiny", "--quiet", "--json")
    cli(*words, "--method", "popularity")
    ran = cli(*words, "--method", "item-knn")
    run_id = json.loads(ran.stdout.splitlines()[0])["run_id"]
    archive, stop = tmp_path / "run.tar.gz", tmp_path / "stop"
    cli("runs", "export", run_id, "--out", archive)
    writer = subprocess.Popen(
        [sys.executable, str(SCRIPT), str(tmp_path / "runs"), str(archive), str(stop)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    yield run_id
    stop.touch()
    out, err = writer.communicate(timeout=60)
    assert writer.returncode == 0, err
    assert int(out) > 3


def test_readers_see_a_run_whole_or_not_at_all(cli, coming_and_going, tmp_path):
    from typer.testing import CliRunner

    from bench.cli import app

    seen: Counter[str] = Counter()
    for number in range(ROUNDS):
        for words in (
            ("runs", "list"),
            ("leaderboard", "--target", "tiny"),
            ("compare", "--target", "tiny"),
            ("runs", "export", coming_and_going, "--out", str(tmp_path / f"{number}.tar.gz")),
            ("runs", "show", coming_and_going),
            ("runs", "rm", "--unfinished"),
        ):
            result = CliRunner().invoke(app, list(words), prog_name="bench")
            said = f"{words}: {result.stdout}\n{result.stderr}\n{result.exception!r}"
            assert result.exception is None or isinstance(result.exception, SystemExit), said
            assert "damaged" not in result.stderr and "Traceback" not in said, said
            if result.exit_code:
                expected = ("no run ", "another process removed", "expected two or more")
                assert any(text in result.stderr for text in expected), said
            seen[f"{words[0]} {result.exit_code}"] += 1
    assert seen["leaderboard 0"] == ROUNDS, seen
