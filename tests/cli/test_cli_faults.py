"""Exceptions at the boundary of the command line: a sentence, an exit code, a way to the traceback."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bench.cli import app
from bench.cli.faults import explain
from bench.errors import ConfigError
from tests.cli.hostile import ESCAPE

PLUGIN = '''
import numpy as np
from bench.methods import Family, Method, Scores


class Mine(Method):
    """Scores nothing."""

    name, version, family = "mine", "1", Family.REFERENCE
    {body}

    def fit(self, view, context):
        pass

    def score(self, requests, context):
        return Scores(np.zeros(requests.candidates.shape, dtype=np.float32))
'''


def plugin(folder: Path, body: str) -> str:
    path = folder / "mine.py"
    path.write_text(PLUGIN.format(body=body))
    return str(path)


@pytest.mark.parametrize(
    ("error", "code", "fragments"),
    [
        (ConfigError("wrong use"), 2, ["wrong use"]),
        (KeyboardInterrupt(), 130, ["interrupted"]),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 1, ["/x/y", "permission"]),
        (
            IsADirectoryError(errno.EISDIR, "Is a directory", "d"),
            1,
            ["d: Is a directory", "folder"],
        ),
        (FileExistsError(errno.EEXIST, "File exists", "d"), 1, ["d: File exists", "another place"]),
        (OSError(errno.ENAMETOOLONG, "File name too long", "n" * 5000), 1, ["shorter name"]),
        (OSError(errno.EROFS, "Read-only file system", "f"), 1, ["f: Read-only", "reading only"]),
        (
            OSError(errno.EIO, "Input/output error", "f"),
            1,
            ["f: Input/output error", "BENCH_DEBUG"],
        ),
        (OSError(errno.ENOSPC, "No space left", "f"), 1, ["disk is full", "f"]),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), 2, ["package torch", "pip"]),
        (ModuleNotFoundError("No module named 'bench.x'", name="bench.x"), 1, ["unexpected"]),
        (MemoryError(), 1, ["memory", "--limit-users"]),
        (
            ValueError("a\n b"),
            1,
            ["unexpected ValueError: a b", "fault of weavebench", "BENCH_DEBUG=1"],
        ),
        (RecursionError("deep"), 1, ["unexpected RecursionError: deep"]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else None,
)
def test_every_exception_has_a_sentence_and_a_code(error, code, fragments):
    message, found = explain(error)
    assert found == code
    for fragment in fragments:
        assert fragment in message
    assert len(message) < 700 and "\n" not in message


def test_a_fault_of_the_package_is_called_unexpected_and_can_be_seen(monkeypatch):
    def broken(*_: object) -> None:
        raise ValueError("a fault " + ESCAPE)

    monkeypatch.setattr("bench.runs.store.store_root", broken)
    shown = CliRunner().invoke(app, ["runs", "list"], prog_name="bench")
    assert shown.exit_code == 1
    assert "unexpected ValueError: a fault" in shown.stderr
    assert "\x1b" not in shown.output
    monkeypatch.setenv("BENCH_DEBUG", "1")
    seen = CliRunner().invoke(app, ["runs", "list"], prog_name="bench")
    assert isinstance(seen.exception, ValueError)


@pytest.mark.parametrize("words", [["--target", ""], ["--target="], ["--method="], [""]])
def test_an_empty_word_is_wrong_use(cli, words):
    assert "is empty" in cli("runs", "list", *words, code=2).stderr


def test_a_name_that_is_no_text_is_wrong_use(cli):
    assert "not UTF-8" in cli("runs", "list", "--target", "caf\udce9", code=2).stderr


@pytest.mark.parametrize(
    ("words", "fragment"),
    [
        (("new", "method", "m" * 300), "too long"),
        (("new", "method", "mine", "--out", "file/m.py"), "error: file"),
        (("lint", "n" * 300 + ".csv"), "too long"),
        (("leaderboard", "--target", "tiny", "--out", "file/t.md"), "error: file"),
        (("leaderboard", "--target", "tiny", "--out", "folder"), "is a directory"),
        (("candidates", "export", "--target", "tiny", "--out", "folder"), "folder"),
    ],
    ids=lambda value: " ".join(value)[:30] if isinstance(value, tuple) else None,
)
def test_what_the_system_refuses_is_a_sentence(cli, tiny, words, fragment):
    Path("file").write_text("")
    Path("folder").mkdir()
    cli("run", "--method", "random", "--target", tiny, "--quiet")
    result = CliRunner().invoke(app, list(words), prog_name="bench")
    assert result.exit_code in (1, 2)
    assert fragment in result.stderr.lower()
    assert "unexpected" not in result.stderr


def test_folders_that_cannot_be_written_are_a_sentence(cli, monkeypatch):
    def refused(path: Path, *_: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr("bench.io.write_bytes", refused)
    assert "mine.py: Permission denied" in cli("new", "method", "mine", code=1).stderr
    monkeypatch.setattr("bench.assets.lock", lambda path, **_: refused(path))
    told = cli("assets", "pull", "ml-100k", code=1).stderr
    assert "Permission denied" in told and "unexpected" not in told


class TestPlugins:
    @pytest.mark.parametrize(
        ("source", "fragment"),
        [
            (
                "import sys\nsys.exit(0)\n",
                "x.py, line 2: the method's file fails on import: SystemExit: 0",
            ),
            ("raise SystemExit\n", "x.py, line 1"),
            ("def f(:\n", "x.py, line 1"),
            ("import torrrch\n", "No module named 'torrrch'"),
            ("1 / 0\n", "ZeroDivisionError"),
            ("def f(): f()\nf()\n", "RecursionError"),
        ],
    )
    @pytest.mark.parametrize("verb", ["run", "check", "methods"])
    def test_a_file_that_fails_or_ends_at_import_is_named(
        self, cli, tmp_path, source, fragment, verb
    ):
        path = tmp_path / "x.py"
        path.write_text(source)
        words = {
            "run": ("run", "--method", path, "--target", "ml100k-drama"),
            "check": ("check", path),
            "methods": ("methods", path),
        }[verb]
        told = cli(*words, code=1).stderr
        assert fragment in told
        assert "unexpected" not in told

    @pytest.mark.parametrize(
        "method", ["capabilities", "require", "content_hashes", "run_defaults", "adapter_store"]
    )
    @pytest.mark.parametrize("fault", ["raise RuntimeError('boo')", "import sys; sys.exit(0)"])
    def test_a_class_method_that_fails_is_named(self, cli, tiny, tmp_path, method, fault):
        body = f"@classmethod\n    def {method}(cls, *_): {fault}"
        name = plugin(tmp_path, body)
        told = cli("run", "--method", name, "--target", tiny, code=1).stderr
        assert "mine.py, line 11: the method's code failed with" in told
        assert "BENCH_DEBUG=1" in told

    @pytest.mark.parametrize(
        "body", ["@classmethod\n    def row_note(cls, config)", "def __init__(self, config=None)"]
    )
    def test_a_method_that_ends_the_process_fails_and_the_next_one_runs(
        self, cli, tiny, tmp_path, body
    ):
        name = plugin(tmp_path, f"{body}: raise SystemExit(0)")
        result = cli("run", "--method", f"{name},random", "--target", tiny, "--json", code=1)
        first, second = (json.loads(line) for line in result.stdout.splitlines())
        assert (first["status"], second["status"]) == ("failed", "done")
        assert "SystemExit" in first["error"] and "mine.py" in first["error"]


BLOCKED = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "torch":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")

sys.meta_path.insert(0, Blocker())
from bench.cli import main
main()
"""


def without_torch(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", BLOCKED, *words],
        capture_output=True,
        text=True,
        env=os.environ.copy(),
        timeout=300,
        check=False,
    )


def test_methods_that_train_nothing_run_without_torch(tiny):
    run = without_torch("run", "--method", "popularity", "--target", tiny, "--quiet")
    assert run.returncode == 0, run.stderr
    assert "NDCG@5" in run.stdout
    trained = without_torch("run", "--method", "sasrec", "--target", tiny)
    assert trained.returncode == 2
    assert "needs the Python package torch" in trained.stderr
    assert "pip install torch" in trained.stderr


def test_methods_are_listed_without_torch():
    listed = without_torch("methods")
    assert listed.returncode == 0, listed.stderr
    names = [line.split(" ")[0] for line in listed.stdout.splitlines()]
    assert {"popularity", "item-knn", "ease"} <= set(names)
    assert "sasrec" not in names
    assert listed.stderr.count("warning:") == 1
    assert "sasrec" in listed.stderr and "package torch" in listed.stderr


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["run", "--method", "popularity", "--target", "a", "--method", "item-knn"], "--method"),
        (["data", "import", "x", "y", "--items", "a", "--items", "b"], "--items"),
        (["leaderboard", "--metrics", "hr@1", "--metrics", "hr@5"], "--metrics"),
    ],
)
def test_an_option_that_is_given_twice_is_refused_instead_of_the_last_taken(cli, words, option):
    done = cli(*words, code=2)
    assert f"{option} is given 2 times; expected once" in done.stderr


def test_options_that_may_be_repeated_are(cli):
    done = cli("run", "--method", "a", "--set", "a:b=1", "--set", "a:c=1", "--target", "x", code=2)
    assert "unknown method 'a'" in done.stderr
