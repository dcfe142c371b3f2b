"""Speed and memory of significance tests beside ranx: ``python benchmarks/significance.py``.

Every pair of 18 methods over 40,000 users on NDCG@5: a sign-flip test with 10,000 flips each, then
Holm over the 153 pairs. The users of a pair share a part of their ranks, as real methods do.

ranx is asked for the same with ``stat_test="fisher"`` through its own function for one pair of a
table. It permutes the two columns of every user, one pair after another, which would take hours here;
so it runs on few methods and flips (``--ranx-methods``, ``--ranx-flips``) over all users, after its
compilation, and its time is scaled by pairs x flips. One thread for both, and for ranx also the
threads it takes by itself. Our p-values are compared with ranx's on the pairs it has computed: they
are two random estimates of one number, so they may differ by five standard errors.

Peak memory is the process's own, above what the input takes, read from /proc (Linux). The run fails
above 60 seconds or 1 GB, or if ranx is not at least 20 times slower per pair and flip.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from itertools import combinations
from pathlib import Path

GOAL_SECONDS, GOAL_MB, GOAL_RATIO = 60.0, 1000.0, 20.0
FULL = (40_000, 18, 10_000)


def make_values(n: int, k: int, seed: int):
    """NDCG@5 of k methods over n users, float64, shape (k, n); skills differ in small steps."""
    import numpy as np

    rng = np.random.default_rng(seed)
    easy = rng.random(n)
    values = np.empty((k, n))
    for i in range(k):
        own = np.clip(0.7 * easy + 0.3 * rng.random(n) + 0.002 * i, 0.0, 0.999999)
        rank = np.floor((1.0 - own) ** 2 * 30).astype(int) + 1
        values[i] = np.where(rank <= 5, 1.0 / np.log2(rank + 1), 0.0)
    return values


def ours(values, n_flips: int):
    """All pairs and Holm's correction: raw p-values of the upper triangle."""
    import numpy as np

    from bench.evaluation import adjust, sign_flip_pairs

    p = sign_flip_pairs(values, n_flips)[np.triu_indices(len(values), 1)]
    adjusted = adjust(p, "holm")
    assert (adjusted >= p).all()
    return p.tolist()


def ranx_fisher(values, n_flips: int):
    """The same through ranx: its test of each pair once (its own loop takes both directions)."""
    from ranx.statistical_tests import fisher_randomization_test

    return [
        float(fisher_randomization_test(values[i], values[j], n_flips, 0.05, 42)[0])
        for i, j in combinations(range(len(values)), 2)
    ]


def _resident(field: str) -> float:
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def child(contender: str, n: int, k: int, n_flips: int, seed: int) -> None:
    """Time one contender; print a JSON line: seconds, megabytes above the input, p-values."""
    work = ours if contender == "ours" else ranx_fisher
    work(make_values(50, 2, seed), 10)
    values = make_values(n, max(k, FULL[1]), seed)[:k].copy()
    Path("/proc/self/clear_refs").write_text("5")
    before = _resident("VmRSS")
    start = time.perf_counter()
    p = work(values, n_flips)
    seconds = time.perf_counter() - start
    megabytes = _resident("VmHWM") - before
    print(json.dumps({"seconds": seconds, "megabytes": megabytes, "p": p}))


def measure(contender: str, n: int, k: int, n_flips: int, seed: int, threads: int) -> dict:
    """Run one contender in a process of its own; 0 threads leaves the choice to the libraries."""
    environment = dict(os.environ)
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"):
        environment.pop(name, None)
        if threads:
            environment[name] = str(threads)
    command = [
        *(sys.executable, "-W", "ignore", __file__, "--child", contender, "--users", str(n)),
        *("--methods", str(k), "--flips", str(n_flips), "--seed", str(seed)),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{contender} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=FULL[0])
    parser.add_argument("--methods", type=int, default=FULL[1])
    parser.add_argument("--flips", type=int, default=FULL[2])
    parser.add_argument("--ranx-methods", type=int, default=3)
    parser.add_argument("--ranx-flips", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    n, k, flips = args.users, args.methods, args.flips
    if args.child:
        child(args.child, n, k, flips, args.seed)
        return 0

    pairs = k * (k - 1) // 2
    print(f"{n:,} users, {k} methods, {pairs} pairs, {flips:,} flips, {os.cpu_count()} CPUs\n")
    print(f"{'':34s}{'seconds':>10s}{'MB':>8s}{'us/(pair x flip)':>19s}{'all pairs, seconds':>21s}")
    few, small = min(k, args.ranx_methods), min(flips, args.ranx_flips)
    few_pairs = few * (few - 1) // 2
    plans = [
        ("ours, 1 thread", "ours", k, flips, 1),
        ("ours, its threads", "ours", k, flips, 0),
        (f"ranx, {few_pairs} pairs x {small}, 1 thread", "ranx", few, small, 1),
        (f"ranx, {few_pairs} pairs x {small}, its threads", "ranx", few, small, 0),
    ]
    found = {}
    for label, contender, methods, count, threads in plans:
        result = measure(contender, n, methods, count, args.seed, threads)
        each = result["seconds"] / (methods * (methods - 1) // 2 * count)
        found[contender, threads] = {**result, "each": each}
        print(
            f"{label:34s}{result['seconds']:10.2f}{result['megabytes']:8.0f}{each * 1e6:19.2f}"
            f"{each * pairs * flips:21.1f}",
            flush=True,
        )
    mine, theirs = found["ours", 1], found["ranx", 1]
    ratio = theirs["each"] / mine["each"]
    both = found["ranx", 0]["each"] / found["ours", 0]["each"]
    print(
        f"\nranx takes {ratio:.0f} times as long with 1 thread, {both:.0f} times with its threads"
    )
    table = dict(zip(combinations(range(k), 2), mine["p"], strict=True))
    for pair, p in zip(combinations(range(few), 2), theirs["p"], strict=True):
        error = (max(table[pair], p, 1 / small) * (1 - min(table[pair], p)) / small) ** 0.5
        if abs(table[pair] - p) > 5 * error:
            print(f"p-values of pair {pair} differ: {table[pair]:.4f} and ranx's {p:.4f}")
            return 1
    print("p-values agree with ranx's within the error of its flips")
    failures = [
        f"{found['ours', threads]['seconds']:.1f} s, {found['ours', threads]['megabytes']:.0f} MB"
        for threads in (0, 1)
        if found["ours", threads]["seconds"] > GOAL_SECONDS
        or found["ours", threads]["megabytes"] > GOAL_MB
    ]
    if (n, k, flips) == FULL and (failures or ratio < GOAL_RATIO):
        print(f"below the goals (60 s, 1 GB, 20 times): {failures}, {ratio:.1f} times")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
