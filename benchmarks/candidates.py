"""Candidate sets per second and peak memory, beside a plain Python ``random.sample`` loop.

``python benchmarks/candidates.py [--users 10000000]`` draws 29 negatives for synthetic users (ids of
13 to 14 characters, 5 to 12 events, 20,000 items of which 100 share a title with another), writes the
sets to disk and prints users per second on one thread. Making the synthetic users is not timed; all
figures are medians over many short spans, which other programs on the machine disturb least. Two
plain loops run beside it: the usual one over a shared generator, which depends on the order of users
and ignores equal titles, and one that keeps the protocol's rules with a generator per user.
"""

from __future__ import annotations

import argparse
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from bench.data.domain import Sequences
from bench.data.strings import StringColumn
from bench.protocol.candidates import draw_negatives, population
from bench.protocol.candidates_io import UserBlock, write_candidates
from bench.protocol.keys import id_hashes, salt64, stream_keys
from bench.protocol.titles import title_groups

N_ITEMS = 20_000
N_TWINS = 100
N_NEGATIVES = 29
BLOCK = 65_536
LOOP_USERS = 20_000
SLICE = 500


def synthetic_block(start: int, n: int) -> UserBlock:
    """Users ``start`` to ``start + n`` with distinct ids and random histories."""
    rng = np.random.default_rng(start)
    digits = (np.arange(start, start + n)[:, None] // 10 ** np.arange(9, -1, -1)) % 10 + ord("0")
    lengths = 13 + (np.arange(start, start + n) % 2)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    data = np.full(int(offsets[-1]), ord("A"), dtype=np.uint8)
    data[(offsets[:-1, None] + np.arange(10)).ravel()] = digits.ravel()
    events = np.concatenate([[0], np.cumsum(rng.integers(5, 13, n))]).astype(np.int64)
    items = rng.integers(0, N_ITEMS, int(events[-1]), dtype=np.int32)
    return UserBlock(
        StringColumn(offsets, data), Sequences(events, items), items[events[1:] - 1].copy()
    )


def plain_loop(histories: list[list[int]]) -> None:
    """One shared generator: the usual code, whose sets depend on the order of users."""
    generator = random.Random(0)
    vocabulary = range(N_ITEMS)
    for history in histories:
        seen = set(history)
        drawn = generator.sample(vocabulary, N_NEGATIVES + len(seen))
        row = [item for item in drawn if item not in seen][:N_NEGATIVES]
        row.insert(generator.randrange(N_NEGATIVES + 1), history[-1])


def keyed_loop(histories: list[list[int]], users: list[str], groups: list[int]) -> None:
    """The protocol's rules: a generator per user, no two candidates of one title."""
    vocabulary = range(N_ITEMS)
    for user, history in zip(users, histories, strict=True):
        generator = random.Random(f"0 test synthetic {user}")
        seen = {groups[item] for item in history}
        row: list[int] = []
        for item in generator.sample(vocabulary, N_NEGATIVES + len(history) + 5):
            if groups[item] not in seen:
                seen.add(groups[item])
                row.append(item)
                if len(row) == N_NEGATIVES:
                    break
        row.insert(generator.randrange(N_NEGATIVES + 1), history[-1])


def loops(groups: np.ndarray, n_users: int) -> tuple[float, float]:
    """Users per second of both loops: medians over slices of 500 users."""
    block = synthetic_block(0, n_users)
    histories = [block.history[row].tolist() for row in range(n_users)]
    users, titles = block.ids.to_list(), groups.tolist()
    plain, keyed = [], []
    for start in range(0, n_users, SLICE):
        part = slice(start, start + SLICE)
        times = [time.perf_counter()]
        plain_loop(histories[part])
        times.append(time.perf_counter())
        keyed_loop(histories[part], users[part], titles)
        times.append(time.perf_counter())
        n = len(histories[part])
        plain.append((times[1] - times[0]) / n)
        keyed.append((times[2] - times[1]) / n)
    return 1 / statistics.median(plain), 1 / statistics.median(keyed)


def stages(groups: np.ndarray) -> dict[str, float]:
    """Nanoseconds per user of each stage, best of five, on 3 blocks in memory."""
    pop = population(groups)
    blocks = [synthetic_block(i * BLOCK, BLOCK) for i in range(3)]
    salt = salt64("candidates", 0, "test", "synthetic")
    best = {"hash ids": np.inf, "histories to titles": np.inf, "draw": np.inf}
    for _ in range(5):
        spent = dict.fromkeys(best, 0.0)
        for block in blocks:
            times = [time.perf_counter()]
            keys = stream_keys(id_hashes(block.ids), salt)
            times.append(time.perf_counter())
            history = Sequences(block.history.offsets, groups[block.history.items])
            times.append(time.perf_counter())
            draw_negatives(pop, keys, history, N_NEGATIVES)
            times.append(time.perf_counter())
            for name, seconds in zip(spent, np.diff(times), strict=True):
                spent[name] += seconds
        best = {name: min(best[name], spent[name]) for name in best}
    return {name: seconds / (3 * BLOCK) * 1e9 for name, seconds in best.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--out", type=Path, help="folder for the file; a temporary one by default")
    arguments = parser.parse_args()
    titles = [f"title {i % (N_ITEMS - N_TWINS)}" for i in range(N_ITEMS)]
    groups = title_groups(StringColumn.from_list(titles))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    times: list[float] = []

    def blocks() -> Iterator[UserBlock]:
        for start in range(0, arguments.users, BLOCK):
            block = synthetic_block(start, min(BLOCK, arguments.users - start))
            begin = time.perf_counter()
            yield block
            times.append((time.perf_counter() - begin) / len(block.ids))

    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        path = Path(folder) / "candidates.npy"
        write_candidates(
            path,
            blocks(),
            population(groups),
            n_users=arguments.users,
            domain="synthetic",
            n_negatives=N_NEGATIVES,
        )
        size = path.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    rate = 1 / statistics.median(times)
    mean = 1 / statistics.fmean(times)
    plain, keyed = loops(groups, min(LOOP_USERS, arguments.users))
    print(f"python {sys.version.split()[0]}, numpy {np.__version__}, one thread")
    print(f"drawn and written: {arguments.users:,} users x {N_NEGATIVES + 1}, {size / 1e6:,.0f} MB")
    print(f"  {rate:,.0f} users/s (median block; mean {mean:,.0f})")
    print(f"  peak memory {peak / 1024:,.0f} MB, of which {before / 1024:,.0f} MB before the start")
    print(f"random.sample, one generator: {plain:,.0f} users/s (median slice)")
    print(f"  ratio {rate / plain:.1f}")
    print(
        f"random.sample, generator per user, distinct titles: {keyed:,.0f} users/s (median slice)"
    )
    print(f"  ratio {rate / keyed:.1f}")
    for name, nanoseconds in stages(groups).items():
        print(f"  {name}: {nanoseconds:.0f} ns per user")


if __name__ == "__main__":
    main()
