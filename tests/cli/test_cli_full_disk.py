"""A disk that is full, or refuses, in every verb that writes: one sentence, exit code 1, nothing left."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

import pytest


@pytest.fixture(params=["ENOSPC", "EIO", "EACCES"])
def refuse(request, monkeypatch):
    """Have every file fail when its content is made durable."""
    number = getattr(errno, request.param)

    def fail(_handle: int) -> None:
        raise OSError(number, os.strerror(number))

    def begin() -> str:
        monkeypatch.setattr(os, "fsync", fail)
        return "disk is full" if number == errno.ENOSPC else os.strerror(number)

    return begin


@pytest.mark.parametrize(
    "words",
    [
        ("candidates", "export", "--out", "out.csv"),
        ("candidates", "export", "--out", "out.parquet"),
        ("export-requests", "--out", "out.jsonl"),
        ("export-requests", "--out", "out.parquet"),
        ("leaderboard", "--out", "out.tex", "--format", "latex"),
        ("leaderboard", "--out", "site", "--format", "html"),
    ],
    ids=" ".join,
)
def test_a_file_that_cannot_be_written_is_a_sentence(cli, tiny, refuse, words):
    cli("run", "--method", "random", "--target", tiny)
    expected = refuse()
    refused = cli(*words, "--target", tiny, code=1)
    assert expected in refused.stderr
    assert list(Path.cwd().iterdir()) == []


@pytest.mark.parametrize("what", ["prepared data", "result"])
def test_a_run_that_cannot_be_written_is_a_sentence(cli, tiny, refuse, tmp_path, what):
    if what == "result":
        cli("candidates", "hash", "--target", tiny)
    else:
        for entry in cli("cache", "list").stdout.split():
            if entry.startswith("tiny-"):
                cli("cache", "rm", entry)
    expected = refuse()
    refused = cli("run", "--method", "random", "--target", tiny, code=1)
    assert expected in refused.stderr
    assert not re.search(r"\[Errno|os error", refused.stderr)
    assert not list((tmp_path / "cache").rglob(".partial-*"))
    assert not list((tmp_path / "runs").rglob("manifest.json"))


@pytest.mark.parametrize("name", ["out.csv", "out.parquet"])
def test_a_file_that_grows_too_large_is_a_sentence(cli, tiny, name):
    import resource

    cli("candidates", "hash", "--target", tiny)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, before[1]))
    try:
        refused = cli("candidates", "export", "--target", tiny, "--out", name, code=1)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert "File too large" in refused.stderr
    assert list(Path.cwd().iterdir()) == []
