"""Two runs side by side on the same processors, and one after the other.

``python benchmarks/contention.py`` starts ``bench run`` twice, with other training seeds: first one after
the other, then both at once, each in a store of its own, with nothing told about threads. It prints
the wall time of both ways and their ratio; the goal is that side by side takes at most 1.3 times as long.
Two runs of one thread each on two idle cores take about half.

By default a small model (``sasrec``) and the training of a LoRA adapter (``target-only`` with SmolLM2-135M,
if its asset is present), a few minutes in all. ``OMP_WAIT_POLICY=ACTIVE`` before the command shows what
threads that wait in circles do, ``--threads`` what a number of threads does.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench import assets
from bench.io import cache_root, read_json
from bench.process import available_threads

GOAL = 1.3
RUNS = {
    "sasrec": ["--set", "epochs=3"],
    "target-only": [
        *("--limit-users", "20", "--set", "train_examples=80", "--set", "prior_share=0"),
    ],
}

WARM = {"sasrec": ["random"], "target-only": ["llm-zero-shot", "--set", "prior_share=0"]}
"""What prepares the domain and converts the model, once, in the cache that all share."""


def command(method: str, seed: int, threads: int | None) -> list[str]:
    words = [sys.executable, "-m", "bench", "run", "--method", method, "--target", "ml100k-drama"]
    words += ["--seed", str(seed), *RUNS[method], "--json"]
    return words if threads is None else [*words, "--threads", str(threads)]


def start(method: str, seed: int, threads: int | None, folder: Path) -> subprocess.Popen[bytes]:
    """One run with its own store, and a cache where everything is there but trained adapters."""
    cache = folder / "cache"
    cache.mkdir(parents=True)
    shared = cache_root()
    shared.mkdir(parents=True, exist_ok=True)
    for one in shared.iterdir():
        if one.name != "adapters":
            (cache / one.name).symlink_to(one.resolve())
    environment = {**os.environ, "BENCH_CACHE": str(cache), "BENCH_STORE": str(folder / "runs")}
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE}
    return subprocess.Popen(command(method, seed, threads), env=environment, **quiet)


def finish(process: subprocess.Popen[bytes]) -> None:
    _, err = process.communicate()
    if process.returncode:
        raise SystemExit(err.decode(errors="replace"))


def seconds(method: str, seeds: tuple[int, int], threads: int | None, at_once: bool) -> float:
    """Wall seconds of two runs, and a line about what they used."""
    with tempfile.TemporaryDirectory() as name:
        began = time.perf_counter()
        folders = [Path(name) / str(seed) for seed in seeds]
        running = []
        for seed, folder in zip(seeds, folders, strict=True):
            running.append(start(method, seed, threads, folder))
            if not at_once:
                finish(running[-1])
        for process in running if at_once else ():
            finish(process)
        taken = time.perf_counter() - began
        for folder in folders:
            (file,) = folder.glob("runs/ml100k-drama/*/manifest.json")
            manifest = read_json(file)
            print(
                f"  {method}, seed {manifest['seed']}: {manifest['threads']} thread(s), "
                f"{manifest['seconds']['total_with_adapters']:.1f} s of its own, "
                f"{manifest['cpu_seconds']['total_with_adapters']:.1f} s of processor"
            )
    return taken


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--methods", default=",".join(RUNS), help="of: " + ", ".join(RUNS))
    parser.add_argument("--threads", type=int, help="default: what bench chooses")
    arguments = parser.parse_args()
    policy = os.environ.get("OMP_WAIT_POLICY", "not set, so that bench sets PASSIVE")
    print(f"{available_threads()} threads usable, OMP_WAIT_POLICY {policy}")
    for method in arguments.methods.split(","):
        if method == "target-only" and not assets.is_present("smollm2-135m"):
            print("target-only: left out; bench assets pull smollm2-135m")
            continue
        with tempfile.TemporaryDirectory() as store:
            words = [sys.executable, "-m", "bench", "run", "--target", "ml100k-drama"]
            words += ["--method", *WARM[method], "--limit-users", "2", "--store", store, "--json"]
            subprocess.run(words, check=True, stdout=subprocess.DEVNULL)
        after = seconds(method, (0, 1), arguments.threads, at_once=False)
        beside = seconds(method, (2, 3), arguments.threads, at_once=True)
        print(
            f"{method}: one after the other {after:.1f} s, side by side {beside:.1f} s, "
            f"ratio {beside / after:.2f} (goal: at most {GOAL})",
            flush=True,
        )


if __name__ == "__main__":
    main()
