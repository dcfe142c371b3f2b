"""Time to equal validation NDCG@5: full-sequence epochs against RecBole's prefixes and Trainer.

RecBole trains SASRec with its own data set, loader and Trainer, which expand every sequence into all its
prefixes, for ``--epochs`` epochs. The goal is the best validation NDCG@5 among them; its cost is that of
RecBole's training up to that epoch. Then this project trains the same model class, with the same loss,
learning rate, batch size and number of threads, until it reaches the goal: once on all prefixes, once on
full sequences, of which one pass trains every position. All are validated on the same candidates. Training
alone is timed, in wall seconds and, since machines are shared, in CPU seconds.

    python benchmarks/sequence_training.py --domain ml100k-action --epochs 3 --threads 1
"""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from recbole_training import VALIDATION_USERS, recbole

from bench.data.load import load_domain
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol import ProtocolOptions, Task, build_task
from bench.testing import make_context

Curve = Sequence[dict[str, float]]


def train_until(
    task: Task, rows: str, goal: float, *, most_epochs: int, seed: int, folder: Path
) -> Curve:
    """Train SASRec epoch by epoch until validation NDCG@5 reaches ``goal``; the curve so far."""
    method_class = resolve("sasrec")
    context = make_context(folder, task, validation_users=VALIDATION_USERS, seed=seed)
    view = task.train_view(with_sources=False)
    curve: Curve = []
    for epochs in range(1, most_epochs + 1):
        # A fit with one epoch more goes on from the checkpoint that the last one left.
        overrides = {"rows": rows, "epochs": epochs, "patience": most_epochs}
        method: Any = method_class(resolve_config(method_class, overrides=overrides))
        method.fit(view, context)
        curve = method.report.history
        print(f"  ours, {rows}, epoch {epochs}: {curve[-1]}", flush=True)
        if curve[-1]["ndcg@5"] >= goal:
            break
    return curve


def cost(curve: Curve, goal: float, key: str) -> float:
    """Seconds of training until the curve reaches the goal; infinite if it does not."""
    spent = 0.0
    for row in curve:
        spent += row[key]
        if row["ndcg@5"] >= goal:
            return spent
    return math.inf


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--domain", default="ml100k-action")
    parser.add_argument("--epochs", type=int, default=3, help="epochs of RecBole's Trainer")
    parser.add_argument("--most-epochs", type=int, default=40, help="limit of our epochs")
    parser.add_argument("--seed", type=int, default=0, help="seed of our training")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--anomaly-off",
        action="store_true",
        help="spare RecBole the anomaly detection that importing it switches on",
    )
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    domain = load_domain(arguments.domain)
    # RecBole knows no leak guard, so both sides train on the unguarded rows.
    task = build_task(domain, options=ProtocolOptions(keep_leak=True))
    print(
        f"sasrec on {arguments.domain}: batch 256, {arguments.threads} thread(s), "
        f"torch {torch.__version__}"
    )
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        curves: dict[str, Curve] = {
            "RecBole, prefixes": recbole(
                domain,
                task,
                "sasrec",
                arguments.epochs,
                folder,
                anomaly_off=arguments.anomaly_off,
            )
        }
        goal = max(row["ndcg@5"] for row in curves["RecBole, prefixes"])
        for rows in ("prefixes", "all-positions"):
            curves[f"ours, {rows}"] = train_until(
                task,
                rows,
                goal,
                most_epochs=arguments.most_epochs,
                seed=arguments.seed,
                folder=folder / rows,
            )

    print(f"training until validation NDCG@5 is {goal:.4f}:")
    baseline = {
        key: cost(curves["RecBole, prefixes"], goal, key) for key in ("seconds", "cpu_seconds")
    }
    for label, curve in curves.items():
        wall, cpu = (cost(curve, goal, key) for key in ("seconds", "cpu_seconds"))
        print(
            f"  {label:22} {len(curve):3d} epochs, {wall:8.1f} s, {cpu:8.1f} CPU s; "
            f"RecBole / this: {baseline['seconds'] / wall:6.2f}, "
            f"in CPU time {baseline['cpu_seconds'] / cpu:6.2f}"
        )


if __name__ == "__main__":
    main()
