"""Speed and memory of the evaluator beside ranx: ``python benchmarks/evaluator.py [--users N]``.

Both start from the same float32 score matrix and the column of each positive, and end with the mean of
NDCG@1,3,5,10, MRR@5,10 and HR@1,5,10. Ours also gives AUC and, in a second line, the bootstrap
intervals. Every contender runs in a process of its own, so that threads and peak memory are its own;
compilation (Numba) is warmed up before the clock starts; the best of the repeats counts. Peak memory
is read from /proc, so the script needs Linux.

ranx is measured through two doors:

arrays   its fastest door: ``evaluate`` on arrays of (id, score). It needs them sorted by score, so the
         sort is part of the time. One thread, then the threads ranx takes by itself, then without the sort.
dicts    its documented door: ``Qrels`` and ``Run`` from dictionaries. This needs about 10 kB per user,
         so it runs on fewer users (``--dict-users``) and is compared per user.

The scores have no ties, where all tools agree by definition; the run fails if any mean differs by more
than 1e-12, or if the ratio to ranx on arrays with one thread is below 20 at 1,000,000 users.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

CUTS = ("ndcg@1", "ndcg@3", "ndcg@5", "ndcg@10", "mrr@5", "mrr@10", "hr@1", "hr@5", "hr@10")
GOAL = 20.0
GOAL_USERS = 1_000_000


def make_scores(n: int, c: int, seed: int):
    """Tie-free float32 scores (each row a permutation) and the columns of the positives."""
    import numpy as np

    rng = np.random.default_rng(seed)
    values = np.empty((n, c), dtype=np.float32)
    row = np.arange(c, dtype=np.float32)
    for start in range(0, n, 50_000):
        block = values[start : start + 50_000]
        block[:] = rng.permuted(np.broadcast_to(row, block.shape), axis=1)
    return values, rng.integers(0, c, n)


def ours(values, position):
    from bench.evaluation import metric_means, rank_outcomes

    return metric_means(rank_outcomes(values, position))


def ours_with_intervals(values, position):
    from bench.evaluation import rank_outcomes, summarise

    summaries = summarise(rank_outcomes(values, position))
    return {metric: summary.mean for metric, summary in summaries.items()}


def _ranx_names():
    return {metric: metric.replace("hr@", "hit_rate@") for metric in CUTS}


def sort_for_ranx(values, position):
    """The arrays of (id, score) that ranx's ``evaluate`` takes, runs sorted by score."""
    import numpy as np

    n, c = values.shape
    order = np.argsort(-values, axis=1)
    run = np.empty((n, c, 2))
    run[:, :, 0] = order
    run[:, :, 1] = np.take_along_axis(values, order, axis=1)
    qrels = np.ones((n, 1, 2))
    qrels[:, 0, 0] = position
    return qrels, run


def ranx_sorted(qrels, run, threads: int):
    import ranx

    found = ranx.evaluate(qrels, run, list(_ranx_names().values()), threads=threads)
    return {metric: float(found[name]) for metric, name in _ranx_names().items()}


def ranx_dicts(values, position, threads: int):
    import ranx

    names = [f"d{j}" for j in range(values.shape[1])]
    run = {f"q{i}": dict(zip(names, row, strict=True)) for i, row in enumerate(values.tolist())}
    qrels = {f"q{i}": {names[j]: 1} for i, j in enumerate(position.tolist())}
    found = ranx.evaluate(
        ranx.Qrels(qrels), ranx.Run(run), list(_ranx_names().values()), threads=threads
    )
    return {metric: float(found[name]) for metric, name in _ranx_names().items()}


def _resident(field: str) -> float:
    """A field of /proc/self/status in megabytes: VmRSS now, VmHWM at its peak."""
    with Path("/proc/self/status").open() as status:
        return next(int(line.split()[1]) for line in status if line.startswith(field)) / 1024


def _restart_peak() -> None:
    """Forget the peak so far (Linux), so that making the input does not count."""
    Path("/proc/self/clear_refs").write_text("5")


def child(contender: str, n: int, c: int, seed: int, repeats: int, threads: int) -> None:
    """Time one contender and print a JSON line: seconds, megabytes above the input, means."""
    work = {
        "ours": ours,
        "ours-ci": ours_with_intervals,
        "ranx-sorted": lambda qrels, run: ranx_sorted(qrels, run, threads),
        "ranx-arrays": lambda v, p: ranx_sorted(*sort_for_ranx(v, p), threads),
        "ranx-dicts": lambda v, p: ranx_dicts(v, p, threads),
    }[contender]
    prepare = sort_for_ranx if contender == "ranx-sorted" else lambda v, p: (v, p)
    work(*prepare(*make_scores(100, c, seed)))
    inputs = prepare(*make_scores(n, c, seed))
    _restart_peak()
    before = _resident("VmRSS")
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        means = work(*inputs)
        seconds.append(time.perf_counter() - start)
    megabytes = _resident("VmHWM") - before
    print(json.dumps({"seconds": min(seconds), "megabytes": megabytes, "means": means}))


def measure(contender: str, n: int, args: argparse.Namespace, threads: int) -> dict:
    """Run one contender in a process of its own; 0 threads leaves the choice to ranx."""
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    environment.pop("NUMBA_NUM_THREADS", None)
    if threads:
        environment["NUMBA_NUM_THREADS"] = str(threads)
    command = [
        *(sys.executable, "-W", "ignore", __file__, "--child", contender),
        *("--users", str(n), "--candidates", str(args.candidates), "--seed", str(args.seed)),
        *("--repeats", str(args.repeats), "--threads", str(threads)),
    ]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{contender} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--users", type=int, default=GOAL_USERS)
    parser.add_argument("--candidates", type=int, default=30)
    parser.add_argument("--dict-users", type=int, default=20_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=0, help=argparse.SUPPRESS)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.users, args.candidates, args.seed, args.repeats, args.threads)
        return 0

    few = min(args.users, args.dict_users)
    cpus = os.cpu_count()
    print(f"{args.users:,} users x {args.candidates} candidates, float32, {cpus} CPUs; best of")
    print(
        f"{args.repeats}; memory is the peak above the {args.users * args.candidates * 4e-6:.0f} MB of scores\n"
    )
    plans = [
        ("ours, 10 metrics", "ours", args.users, 1),
        ("ours, 10 metrics + intervals", "ours-ci", args.users, 1),
        ("ranx arrays, 9 metrics, 1 thread", "ranx-arrays", args.users, 1),
        ("ranx arrays, 9 metrics, its threads", "ranx-arrays", args.users, 0),
        ("  the same, sorted before the clock", "ranx-sorted", args.users, 0),
        (f"ranx dicts, {few:,} users, 1 thread", "ranx-dicts", few, 1),
        (f"ranx dicts, {few:,} users, its threads", "ranx-dicts", few, 0),
    ]
    print(f"{'':40s}{'seconds':>10s}{'us/user':>10s}{'MB':>8s}{'ours is faster by':>20s}")
    results, means = {}, {}
    for label, contender, n, threads in plans:
        result = measure(contender, n, args, threads)
        per_user = result["seconds"] / n
        if contender == "ours":
            base = per_user
            if n == args.users:
                means[args.users] = result["means"]
        ratio = per_user / base
        results[contender, threads] = ratio
        print(
            f"{label:40s}{result['seconds']:10.3f}{per_user * 1e6:10.3f}"
            f"{result['megabytes']:8.0f}{ratio:19.1f}x",
            flush=True,
        )
        if n not in means:
            means[n] = measure("ours", n, args, 1)["means"]
        worst = max(abs(result["means"][metric] - means[n][metric]) for metric in CUTS)
        if worst > 1e-12:
            print(f"  means differ by {worst:.2e}; expected at most 1e-12")
            return 1
    print("\nall means agree to 1e-12")
    ratio = results["ranx-arrays", 1]
    if args.users >= GOAL_USERS and ratio < GOAL:
        print(f"below the goal of {GOAL:.0f}x against ranx on arrays with one thread: {ratio:.1f}x")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
