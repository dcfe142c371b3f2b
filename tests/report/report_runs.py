"""Run folders written by hand, field by field as docs/runs.md describes them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bench.evaluation import Outcomes, rank_outcomes
from bench.runs.stored import StoredRun, read_run

TASK = "a" * 64
OPTIONS = {
    "negatives": "uniform",
    "n_negatives": 29,
    "candidate_seed": 0,
    "train_on": "train",
    "keep_leak": False,
    "candidates_file": None,
}


def outcomes_with_ranks(ranks, c=30) -> Outcomes:
    """Tie-free outcomes from 1-based ranks."""
    better = np.asarray(ranks, np.int32) - 1
    return Outcomes(
        better, np.zeros_like(better), np.full_like(better, c), np.ones(len(better), bool)
    )


def random_outcomes(n, seed, skill=1.0, c=30, levels=None) -> Outcomes:
    """Outcomes of a scorer that lifts the positive by ``skill`` standard deviations."""
    rng = np.random.default_rng(seed)
    values = rng.standard_normal((n, c))
    values[:, 0] += skill
    if levels:
        values = np.round(values * levels)
    return rank_outcomes(values.astype(np.float32), np.zeros(n, np.int64))


class RunWriter:
    """Writes run folders below a root and reads them back."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(
        self,
        method: str,
        outcomes: Outcomes,
        *,
        family: str = "reference",
        seed: int = 0,
        target: str = "toyland",
        task: str = TASK,
        candidates: str = "c" * 64,
        guard: str = "full",
        options: dict[str, Any] | None = None,
        users=None,
        n_total: int | None = None,
        profile: str = "cpu",
        config: dict[str, Any] | None = None,
        overrides: dict[str, Any] | None = None,
        sources=(),
        version: str = "1",
        plugin: str | None = None,
        finished: str = "2026-01-01T00:00:00Z",
        **more: Any,
    ) -> StoredRun:
        users = np.arange(len(outcomes)) if users is None else users
        users = np.asarray(users, np.int32)
        identity = [method, seed, target, task, users.tolist(), profile, config, overrides]
        identity += [list(sources), version, plugin, more]
        run_id = hashlib.sha256(json.dumps(identity, default=str).encode()).hexdigest()[:16]
        folder = self.root / target / f"{method}-s{seed}-{run_id}"
        folder.mkdir(parents=True)
        frame = pl.DataFrame({"user": users, **outcomes.to_columns()})
        frame.write_parquet(folder / "per_user.parquet")
        metrics = {"metrics": {"ndcg@5": {"mean": 0.0, "ci95": [0.0, 0.0]}}}
        (folder / "metrics.json").write_text(json.dumps(metrics))
        files = {
            name: hashlib.sha256((folder / name).read_bytes()).hexdigest()
            for name in ("per_user.parquet", "metrics.json")
        }
        manifest = {
            "format": 1,
            "run_id": run_id,
            "status": "done",
            "method": {
                "name": method,
                "version": version,
                "family": family,
                "plugin_sha256": plugin,
                "transductive": more.pop("transductive", False),
                "trainable": more.pop("trainable", True),
                "row_note": more.pop("row_note", ""),
            },
            "target": target,
            "sources": list(sources),
            "profile": profile,
            "seed": seed,
            "init_seed": 0,
            "dtype": more.pop("dtype", "float32"),
            "task": {
                "task_hash": task,
                "candidates_hash": candidates,
                "guard": guard,
                "options": OPTIONS if options is None else options,
                "source_hashes": more.pop("source_hashes", {}),
                "n_users": len(users) if n_total is None else n_total,
                "n_items": 500,
            },
            "users": {
                "users_hash": hashlib.sha256(users.tobytes()).hexdigest(),
                "n_users": len(users),
            },
            "config": config or {},
            "spec": {"overrides": overrides or {}},
            "diagnostics": more.pop("diagnostics", {}),
            "data": more.pop("data", {}),
            "training": more.pop("training", None),
            "seconds": {"fit": more.pop("fit", 2.5), "score": 0.1},
            "finished": finished,
            "files": files,
        }
        (folder / "manifest.json").write_text(json.dumps(manifest))
        return read_run(folder)


def scored_on(run, *, full=None, draws=None):
    """The same run with further request sets: full ranking, and candidates by seed."""
    sets = [("f" * 64, "full", None, full)] if full is not None else []
    sets += [(f"{s:064x}", "candidates", s, o) for s, o in (draws or {}).items()]
    path = run.path / "manifest.json"
    manifest = json.loads(path.read_text())
    manifest["sets"] = {}
    (run.path / "sets").mkdir()
    for key, kind, seed, outcomes in sets:
        name = f"sets/{kind}-{seed}.parquet"
        frame = pl.DataFrame({"user": run.users, **outcomes.to_columns()})
        frame.write_parquet(run.path / name)
        manifest["files"][name] = hashlib.sha256((run.path / name).read_bytes()).hexdigest()
        manifest["sets"][key] = {"kind": kind, "candidate_seed": seed, "file": name}
    path.write_text(json.dumps(manifest))
    return read_run(run.path)
