"""Candidate sets per second and peak memory, beside a plain Python ``random.sample`` loop.

``python benchmarks/candidates.py [--users 10000000]`` draws 29 negatives for synthetic users (ids of
13 to 14 characters, 5 to 12 events, 20,000 items of which 100 share a title with another) and writes
the sets to disk, on one thread and on all usable cores. Making the synthetic users is not timed: a
million are made before, more are the same again. Two plain loops on one thread run beside it: the
usual one over a shared generator, which depends on the order of users and ignores equal titles, and
one that keeps the protocol's rules with a generator per user.

The four take turns in several rounds, so that other programs on the machine disturb all of them
alike. ``best`` and ``median`` are over rounds; ratios compare best with best. ``CPU`` is the least
time of all threads together: if it is far below the wall time, the machine was busy.
"""

from __future__ import annotations

import argparse
import itertools
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from bench.data.domain import Sequences
from bench.data.strings import StringColumn
from bench.process import available_threads
from bench.protocol.candidates import draw_negatives, population
from bench.protocol.candidates_io import BLOCK_USERS, UserBlock, write_candidates
from bench.protocol.keys import id_hashes, salt64, stream_keys
from bench.protocol.titles import title_groups

N_ITEMS = 20_000
N_TWINS = 100
N_NEGATIVES = 29

MADE = 1_000_000
LOOP_USERS = 20_000


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


def head(block: UserBlock, n: int) -> UserBlock:
    """The first ``n`` users of a block."""
    ids = StringColumn(block.ids.offsets[: n + 1], block.ids.data)
    history = Sequences(
        block.history.offsets[: n + 1], block.history.items[: block.history.offsets[n]]
    )
    return UserBlock(ids, history, block.positives[:n])


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


def stages(groups: np.ndarray) -> dict[str, float]:
    """Nanoseconds per user of each stage, best of five, on 12 blocks in memory."""
    pop = population(groups)
    blocks = [synthetic_block(i * BLOCK_USERS, BLOCK_USERS) for i in range(12)]
    salt = salt64("candidates", 0, "test", "synthetic")
    best = {"hash ids": np.inf, "histories to titles": np.inf, "draw": np.inf}
    for _ in range(5):
        spent = dict.fromkeys(best, 0.0)
        for block in blocks:
            times = [time.perf_counter()]
            keys = stream_keys(id_hashes(block.ids), salt)
            times.append(time.perf_counter())
            history = Sequences(block.history.offsets, np.take(groups, block.history.items))
            times.append(time.perf_counter())
            draw_negatives(pop, keys, history, N_NEGATIVES)
            times.append(time.perf_counter())
            for name, seconds in zip(spent, np.diff(times), strict=True):
                spent[name] += seconds
        best = {name: min(best[name], spent[name]) for name in best}
    return {name: seconds / (12 * BLOCK_USERS) * 1e9 for name, seconds in best.items()}


@dataclass
class Timing:
    """Seconds per user of one contestant, a value per round."""

    wall: list[float] = field(default_factory=list)
    cpu: list[float] = field(default_factory=list)

    def measure(self, work: Callable[[], object], n_users: int) -> None:
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        self.wall.append((time.perf_counter() - wall) / n_users)
        self.cpu.append((time.process_time() - cpu) / n_users)

    def row(self, name: str, plain: Timing) -> str:
        best, median = 1 / min(self.wall), 1 / statistics.median(self.wall)
        cpu, ratio = min(self.cpu) * 1e6, min(plain.wall) * best
        return f"{name:44}{best:>12,.0f}{median:>12,.0f}{cpu:>10.2f} us{ratio:>8.1f}"


def peak_mb() -> float:
    """Largest resident set of this process so far, in MB (Linux counts in KiB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--out", type=Path, help="folder for the file; a temporary one by default")
    arguments = parser.parse_args()
    titles = [f"title {i % (N_ITEMS - N_TWINS)}" for i in range(N_ITEMS)]
    groups = title_groups(StringColumn.from_list(titles))
    pop = population(groups)
    made = min(arguments.users, MADE)
    ready = [synthetic_block(i, min(BLOCK_USERS, made - i)) for i in range(0, made, BLOCK_USERS)]
    sample = synthetic_block(0, min(LOOP_USERS, made))
    n_sample = len(sample.ids)
    histories = [sample.history[row].tolist() for row in range(n_sample)]
    users, title_of = sample.ids.to_list(), groups.tolist()

    def blocks() -> Iterator[UserBlock]:
        left = arguments.users
        for block in itertools.cycle(ready):
            yield block if len(block.ids) <= left else head(block, left)
            left -= min(len(block.ids), left)
            if not left:
                return

    def write(path: Path, threads: int) -> None:
        n = arguments.users
        write_candidates(path, blocks(), pop, n_users=n, domain="synthetic", threads=threads)

    cores = available_threads()
    drawing = {threads: Timing() for threads in sorted({1, cores})}
    peaks = {0: peak_mb()}
    plain, keyed = Timing(), Timing()
    with tempfile.TemporaryDirectory(dir=arguments.out) as folder:
        path = Path(folder) / "candidates.npy"
        for _ in range(arguments.rounds):
            plain.measure(lambda: plain_loop(histories), n_sample)
            for threads, timing in drawing.items():
                # A new file each time: renaming over an old one makes some file systems write
                # it to the disk at once.
                path.unlink(missing_ok=True)
                timing.measure(partial(write, path, threads), arguments.users)
                peaks.setdefault(threads, peak_mb())
            keyed.measure(lambda: keyed_loop(histories, users, title_of), n_sample)
        size = path.stat().st_size
    print(f"python {sys.version.split()[0]}, numpy {np.__version__}, {cores} usable cores")
    print(f"written: {arguments.users:,} users x {N_NEGATIVES + 1}, {size / 1e6:,.0f} MB")
    for threads in drawing:
        print(f"peak memory, {threads} thread(s): {peaks[threads]:,.0f} MB")
    print(f"  of which before the first draw: {peaks[0]:,.0f} MB, the synthetic users among them")
    heads = "".join(f"{name:>12}" for name in ("best", "median", "CPU"))
    print(f"{'users/s':44}{heads}{'ratio':>9}")
    print(plain.row("random.sample, one generator, 1 thread", plain))
    print(keyed.row("random.sample, generator per user, 1 thread", plain))
    for threads, timing in drawing.items():
        print(timing.row(f"write_candidates, {threads} thread(s)", plain))
    print("one thread, best of five, per user:")
    for name, nanoseconds in stages(groups).items():
        print(f"  {name}: {nanoseconds:.0f} ns")


if __name__ == "__main__":
    main()
