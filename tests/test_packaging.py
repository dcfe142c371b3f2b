"""Packaging: pins, the Makefile's idempotence, and a fresh environment with RecBole's model classes."""

from __future__ import annotations

import os
import re
import shutil
import stat
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest

from bench.errors import EXTRAS

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

FAKE_PYTHON = """\
#!/bin/sh
echo "$@" >> "$FAKE_LOG"
"""


def requirement_name(requirement: str) -> str:
    match = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert match is not None
    return re.sub(r"[-_.]+", "-", match.group()).lower()


def pinned() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.split("==") for line in lines if line and not line.startswith("#")]
    return {requirement_name(name): version for name, version in pairs}


def test_every_dependency_has_exactly_one_pin():
    extras = PROJECT["optional-dependencies"]
    # vLLM brings its own torch and lives in an environment of its own.
    wanted = [*PROJECT["dependencies"], *extras["models"], *extras["dev"], *extras["llm"]]
    names = {requirement_name(requirement) for requirement in wanted}
    assert names - {"weavebench"} == set(pinned())


def test_errors_name_the_extra_that_brings_a_package():
    distributions = {"sklearn": "scikit-learn"}
    for extra, packages in EXTRAS.items():
        wanted = {requirement_name(one) for one in PROJECT["optional-dependencies"][extra]}
        brought = {distributions.get(name, name.replace("_", "-")) for name in packages}
        assert brought == wanted - {"weavebench"}, extra


def test_the_base_needs_no_deep_learning_library():
    base = {requirement_name(requirement) for requirement in PROJECT["dependencies"]}
    heavy = {name for packages in EXTRAS.values() for name in packages}
    assert not base & (heavy | {"scikit-learn"})
    assert set(PROJECT["scripts"]) == {"bench", "weavebench"}
    assert len(set(PROJECT["scripts"].values())) == 1


def test_recbole_and_its_old_pins_are_no_dependency():
    everything = list(PROJECT["dependencies"])
    for extra in PROJECT["optional-dependencies"].values():
        everything += extra
    names = {requirement_name(requirement) for requirement in everything}
    assert not names & {"recbole", "ray", "thop", "plotly", "hyperopt"}
    assert int(pinned()["numpy"].split(".")[0]) >= 2


def test_ci_runs_tests_lint_leaderboards_and_demo():
    script = ROOT / ".ci/run"
    assert script.stat().st_mode & stat.S_IXUSR
    lines = [line for line in script.read_text().splitlines() if line and line[0] != "#"]
    assert lines[0] == "set -euo pipefail"
    assert [line for line in lines if line.startswith("make ")] == [
        "make test",
        "make lint",
        "make check-leaderboards",
        "make demo-ids",
    ]


@pytest.fixture
def checkout(tmp_path):
    """A copy of what `make install` reads, with a recording stand-in for the environment's Python."""
    for name in ("Makefile", "pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, tmp_path / name)
    python = tmp_path / ".venv/bin/python"
    python.parent.mkdir(parents=True)
    python.write_text(FAKE_PYTHON)
    python.chmod(0o755)
    return tmp_path


def make(folder: Path, *arguments: str) -> list[str]:
    """Run make; return the calls of the environment's Python that it made."""
    log = folder / "calls.txt"
    log.unlink(missing_ok=True)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith(("MAKE", "MFLAGS"))
    }
    subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={**environment, "FAKE_LOG": str(log)},
        check=True,
        capture_output=True,
        timeout=60,
    )
    return log.read_text().splitlines() if log.exists() else []


def touch_later(path: Path) -> None:
    later = path.stat().st_mtime + 3600
    os.utime(path, (later, later))


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
class TestMakefile:
    def test_install_happens_once(self, checkout):
        (call,) = make(checkout, "install")
        assert call.endswith("-c constraints.txt -e .")
        assert make(checkout, "install") == []

    def test_a_changed_pyproject_installs_again(self, checkout):
        make(checkout, "install")
        touch_later(checkout / "pyproject.toml")
        assert len(make(checkout, "install")) == 1

    def test_other_constraints_install_again(self, checkout):
        make(checkout, "install")
        shutil.copy(checkout / "constraints.txt", checkout / "cuda.txt")
        (call,) = make(checkout, "install", "CONSTRAINTS=cuda.txt")
        assert "-c cuda.txt" in call

    def test_development_tools_contain_the_base(self, checkout):
        (call,) = make(checkout, "install-dev")
        assert call.endswith("-e .[dev,llm]")
        assert make(checkout, "install") == []

    def test_what_trains_is_installed_once_more_and_contains_the_base(self, checkout):
        (checkout / ".venv/bin/bench").write_text(FAKE_PYTHON)
        (checkout / ".venv/bin/bench").chmod(0o755)
        (install, pull) = make(checkout, "install-models")
        assert install.endswith("-e .[models]")
        assert pull == "assets pull recbole ml-100k"
        assert make(checkout, "install", "assets", "install-models") == []

    def test_no_index_is_set(self):
        text = (ROOT / "Makefile").read_text()
        assert "index-url" not in text
        assert "--index" not in text


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    # The calling environment's paths must not leak into the fresh one.
    clean = {k: v for k, v in os.environ.items() if k not in {"PYTHONPATH", "VIRTUAL_ENV"}}
    return subprocess.run(
        [str(part) for part in command],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
        cwd="/",
    )


@pytest.mark.slow
def test_fresh_environment_gets_recbole_without_its_pins(tmp_path):
    folder = tmp_path / "fresh"
    venv.create(folder, with_pip=True)
    python, bench = folder / "bin/python", folder / "bin/bench"
    install = (python, "-m", "pip", "install", "-q", "-c", ROOT / "constraints.txt")
    done = run(*install, ROOT)
    assert done.returncode == 0, done.stderr
    cache = {"BENCH_CACHE": str(tmp_path / "cache"), "BENCH_STORE": str(tmp_path / "runs")}

    # Without extras: what trains nothing runs, under both names of the command.
    assert not {"torch", "pandas"} & set(run(python, "-m", "pip", "list").stdout.split())
    for words in ("doctor", "assets pull ml-100k", "run --method item-knn --target ml100k-drama"):
        done = run(folder / "bin/weavebench", *words.split(), **cache)
        assert done.returncode == 0, done.stderr
    done = run(bench, "check", "sasrec", **cache)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "weavebench[models]" in done.stderr

    done = run(*install, f"{ROOT}[models]")
    assert done.returncode == 0, done.stderr
    done = run(bench, "check", "sasrec", **cache)
    assert done.returncode == 2, done.stdout + done.stderr
    assert "bench assets pull recbole" in done.stderr

    done = run(bench, "assets", "pull", "recbole", **cache)
    assert done.returncode == 0, done.stderr

    listed = run(python, "-m", "pip", "list", "--format=freeze").stdout.lower().splitlines()
    versions = dict(line.split("==") for line in listed if "==" in line)
    assert versions["recbole"] == "1.2.1"
    assert int(versions["numpy"].split(".")[0]) >= 2
    assert not {"ray", "thop", "plotly", "hyperopt"} & set(versions)

    # RecBole's own declared pins are the only thing pip complains of.
    complaints = [
        line for line in run(python, "-m", "pip", "check").stdout.splitlines() if line.strip()
    ]
    assert complaints
    assert all(line.startswith("recbole 1.2.1 ") for line in complaints), complaints

    program = (
        "from recbole.model.sequential_recommender.sasrec import SASRec; "
        "import numpy; print(SASRec.__name__, numpy.__version__)"
    )
    done = run(python, "-W", "ignore", "-c", program)
    assert done.stdout.startswith("SASRec 2."), done.stderr
    assert sys.version_info >= (3, 11)
