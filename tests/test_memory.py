from __future__ import annotations

import os
import platform
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench import memory
from bench.memory import kept_memory, physical_memory


def faults_of_steps() -> int:
    """Page faults of ten steps that take and free 60 MB, after five in which the heap grows."""
    counts = []
    for _ in range(15):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        held = [torch.ones(3_000_000) for _ in range(5)]
        del held
        counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
    return sum(counts[5:])


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc alone can be told"
)
def test_freed_memory_is_used_again():
    # In a process of its own: the heap that other tests left behind decides where memory comes from.
    program = (
        "from test_memory import faults_of_steps\n"
        "from bench.memory import kept_memory\n"
        "with kept_memory('cpu'):\n"
        "    print(faults_of_steps())\n"
    )
    ended = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    # 60 MB are 15,000 pages of 4 kB; ten times that without, where nothing is kept.
    assert int(ended.stdout) < 1000


@pytest.mark.skipif(
    sys.platform != "linux" or platform.libc_ver()[0] != "glibc", reason="glibc alone can be told"
)
def test_kept_memory_is_given_back_now_and_then(monkeypatch):
    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

    with kept_memory("cpu") as after_step:
        held = [torch.ones(250_000) for _ in range(300)]
        end = torch.ones(250_000)  # keeps the heap from shrinking by itself
        del held
        full = resident()
        after_step()
        assert full - resident() < 50e6
        monkeypatch.setattr(memory, "_SECONDS_KEPT", 0.0)
        after_step()
        assert full - resident() > 250e6
        assert end[0] == 1


def test_other_devices_are_left_alone():
    with kept_memory("cuda:0") as after_step:
        after_step()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's own figure is read from /proc")
def test_physical_memory_is_what_the_kernel_says():
    total = next(
        int(line.split()[1]) * 1024
        for line in Path("/proc/meminfo").read_text().splitlines()
        if line.startswith("MemTotal:")
    )
    assert physical_memory() == total


def test_a_system_that_does_not_tell_its_memory_is_no_error(monkeypatch):
    monkeypatch.delattr("os.sysconf")
    assert physical_memory() is None
