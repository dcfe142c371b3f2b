from __future__ import annotations

import platform
import resource
import sys

import pytest
import torch

from bench.memory import kept_memory


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
    with kept_memory("cpu"):
        kept = faults_of_steps()
    # 60 MB are 15,000 pages of 4 kB; ten times that without, where nothing is kept.
    assert kept < 1000


def test_other_devices_are_left_alone():
    with kept_memory("cuda:0"):
        pass
