"""Processors and threads: affinity, quotas of control groups, the environment; how OpenMP waits."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from bench.process import available_threads, quiet_threads, usable_cpus


@pytest.fixture(autouse=True)
def _eight_cpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _process: set(range(8)), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


def group(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    return root


@pytest.mark.parametrize(
    ("own", "files", "cpus"),
    [
        ("0::/\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "150000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "50000 100000\n"}, 1),
        ("0::/\n", {"cpu.max": "max 100000\n"}, 8),
        ("0::/\n", {"cpu.max": "6400000 100000\n"}, 8),
        # The narrowest of a group and of all around it.
        ("0::/a/b\n", {"a/cpu.max": "300000 100000", "a/b/cpu.max": "max 100000"}, 3),
        ("0::/a/b\n", {"a/cpu.max": "400000 100000", "a/b/cpu.max": "100000 100000"}, 1),
        # Version 1; the controller may be mounted under its own name or with another one.
        (
            "4:cpu,cpuacct:/job\n0::/\n",
            {"cpu,cpuacct/job/cpu.cfs_quota_us": "300000", "cpu,cpuacct/job/cpu.cfs_period_us": "100000"},
            3,
        ),
        (
            "4:cpu,cpuacct:/job\n",
            {"cpu/job/cpu.cfs_quota_us": "-1", "cpu/job/cpu.cfs_period_us": "100000"},
            8,
        ),
        # In a container the name is the host's; what is mounted is the container's own group.
        ("0::/kubepods/x\n", {"cpu.max": "400000 100000"}, 4),
        (
            "3:cpu:/docker/x\n",
            {"cpu/cpu.cfs_quota_us": "200000", "cpu/cpu.cfs_period_us": "100000"},
            2,
        ),
        # Quotas of other controllers are none of processors; nonsense is no quota.
        ("5:cpuset:/a\n", {"cpuset/a/cpu.max": "100000 100000"}, 8),
        ("0::/\n", {"cpu.max": "many few"}, 8),
        ("0::/\n", {"cpu.max": "100000 0"}, 8),
        ("", {}, 8),
    ],
)  # fmt: skip
def test_quotas_count(own: str, files: dict[str, str], cpus: int, tmp_path: Path):
    groups = group(tmp_path / "groups", files)
    (tmp_path / "own").write_text(own)
    assert usable_cpus(groups, tmp_path / "own") == cpus


def test_without_control_groups_the_affinity_counts(tmp_path: Path):
    assert usable_cpus(tmp_path / "none", tmp_path / "nothing") == 8


@pytest.mark.parametrize(
    ("asked", "threads"), [("3", 3), ("16", 8), ("2,4", 2), ("", 8), ("0", 8), ("all", 8)]
)
def test_the_environment_is_a_limit(asked, threads, monkeypatch):
    monkeypatch.setattr("bench.process.usable_cpus", lambda: 8)
    monkeypatch.setenv("OMP_NUM_THREADS", asked)
    assert available_threads() == threads


def test_libraries_are_told_of_a_quota_and_what_is_set_stays(monkeypatch):
    for name in ("OMP_WAIT_POLICY", "KMP_BLOCKTIME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("bench.process.usable_cpus", lambda: 8)
    quiet_threads()
    assert os.environ["OMP_WAIT_POLICY"] == "PASSIVE" and os.environ["KMP_BLOCKTIME"] == "0"
    assert "OMP_NUM_THREADS" not in os.environ
    monkeypatch.setattr("bench.process.usable_cpus", lambda: 2)
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    quiet_threads()
    assert os.environ["OMP_NUM_THREADS"] == "2" and os.environ["OMP_WAIT_POLICY"] == "ACTIVE"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    quiet_threads()
    assert os.environ["OMP_NUM_THREADS"] == "7"


@pytest.mark.skipif(sys.platform != "linux", reason="GNU's OpenMP shows what it was told")
def test_torch_finds_the_policy_when_the_command_line_loads_it(tmp_path: Path):
    """``doctor`` loads torch; the runtime prints how long it lets a waiting thread run in circles."""
    cleared = ("OMP_WAIT_POLICY", "KMP_BLOCKTIME", "GOMP_SPINCOUNT")
    environment = {name: value for name, value in os.environ.items() if name not in cleared}
    environment |= {"OMP_DISPLAY_ENV": "VERBOSE", "BENCH_CACHE": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "doctor"],
        capture_output=True, text=True, check=False, timeout=300, env=environment,
    )  # fmt: skip
    # It calls the policy PASSIVE where nothing is set as well, and then spins 300,000 times.
    shown = re.findall(r"GOMP_SPINCOUNT = '(\d+)'", done.stderr)
    assert shown and set(shown) == {"0"}, done.stderr


def test_tests_wait_as_the_command_line_does():
    assert {"OMP_WAIT_POLICY", "KMP_BLOCKTIME"} <= os.environ.keys()
