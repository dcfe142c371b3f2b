"""Blocks in threads: the same results in the same order, in bounded memory, with their errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from protocol_domains import domain_blocks, random_domain

from bench.errors import ProtocolError
from bench.process import available_threads
from bench.protocol.candidates import population
from bench.protocol.candidates_io import position_path, write_candidates
from bench.protocol.titles import title_groups
from bench.protocol.workers import map_in_order


@pytest.mark.parametrize("threads", [1, 2, 3, 7])
def test_results_come_in_order_though_work_ends_out_of_order(threads: int) -> None:
    def work(n: int) -> int:
        time.sleep(0.004 if n % 3 == 0 else 0)
        return n * n

    assert list(map_in_order(work, range(20), threads)) == [n * n for n in range(20)]


def test_threads_work_at_the_same_time() -> None:
    meeting = threading.Barrier(2, timeout=20)
    assert len(list(map_in_order(lambda _: meeting.wait(), range(4), 2))) == 4


@pytest.mark.parametrize("threads", [1, 2, 3])
def test_few_blocks_are_under_way(threads: int) -> None:
    begun: list[int] = []

    def blocks() -> Iterator[int]:
        for n in range(30):
            begun.append(n)
            yield n

    for taken, _ in enumerate(map_in_order(str, blocks(), threads)):
        assert len(begun) - taken <= threads + 1


@pytest.mark.parametrize("threads", [1, 3])
def test_the_first_error_in_order_is_raised_and_the_rest_dropped(threads: int) -> None:
    worked: list[int] = []

    def work(n: int) -> int:
        worked.append(n)
        if n in (4, 5):
            raise ValueError(f"block {n}")
        return n

    taken: list[int] = []
    with pytest.raises(ValueError, match="block 4"):
        taken.extend(map_in_order(work, range(100), threads))
    assert max(worked) <= 4 + threads
    assert not [t for t in threading.enumerate() if t.name.startswith("bench-blocks")]


@pytest.mark.parametrize("threads", [1, 3])
def test_errors_of_the_source_are_raised(threads: int) -> None:
    def blocks() -> Iterator[int]:
        yield 1
        raise OSError("the source is gone")

    with pytest.raises(OSError, match="the source is gone"):
        list(map_in_order(str, blocks(), threads))


def test_closing_early_ends_the_threads() -> None:
    results = map_in_order(str, range(1000), 3)
    assert next(results) == "0"
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("bench-blocks")]


def test_candidate_files_do_not_depend_on_threads(tmp_path: Path) -> None:
    domain = random_domain(11, n_users=1200, n_items=120, longest=12)
    pop = population(title_groups(domain.items.titles))
    contents = set()
    for threads in (None, 1, 2, 5):
        path = tmp_path / f"{threads}.npy"
        blocks = domain_blocks(domain, "test", size=70)
        write_candidates(path, blocks, pop, n_users=domain.n_users, domain="toy", threads=threads)
        contents.add((path.read_bytes(), position_path(path).read_bytes()))
    assert len(contents) == 1
    assert len(np.load(path)) == domain.n_users


def test_threads_must_be_positive(tmp_path: Path) -> None:
    pop = population(np.arange(40, dtype=np.int32))
    with pytest.raises(ProtocolError, match="threads is 0"):
        write_candidates(tmp_path / "c.npy", [], pop, n_users=0, domain="toy", threads=0)
    assert available_threads() >= 1
