"""What is made of a stored run: its JSON line, a shareable copy, the rivals to compare it with."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bench.errors import ResultError
from bench.io import atomic_folder, write_json
from bench.runs.records import without_paths
from bench.runs.store import Damage, RunStore
from bench.runs.stored import (
    MANIFEST,
    METRICS,
    PER_USER,
    StoredRun,
    check_file,
    folder_name,
    read_run,
    slug,
)

__all__ = ["COMMITTED", "export_result", "find_rivals", "ranks_nothing", "run_json"]

COMMITTED = Path("leaderboards") / "results"
"""Where a checkout keeps committed results."""


def run_json(run: StoredRun) -> dict[str, Any]:
    """The object that ``bench run --json`` prints for a run."""
    seconds = run.manifest["seconds"]
    return {
        "run_id": run.run_id,
        "method": run.method,
        "family": run.family,
        "target": run.target,
        "sources": list(run.sources),
        "profile": run.profile,
        "seed": run.seed,
        "task_hash": run.task_hash,
        "candidates_hash": run.candidates_hash,
        "users_hash": run.users_hash,
        "n_users": run.n_users,
        "metrics": dict(run.metrics["metrics"]),
        "seconds": {name: seconds[name] for name in ("fit", "score", "total_with_adapters")},
        "peak_memory_mb": run.manifest["peak_memory"]["mb"],
        "diagnostics": run.manifest["diagnostics"],
        "path": str(run.path),
        "status": run.manifest["status"],
    }


def export_result(run: StoredRun, root: Path) -> StoredRun:
    """Copy a run to ``root/<target>/<method>-s<seed>-<id>`` in a form that can be published.

    Manifest, metrics and outcomes are copied; the log and the model are not. Absolute paths in the
    manifest are cut to their last part, so that the copy names no folder of this machine.

    Raises:
        ResultError: the run is damaged, or the folder holds another result.
    """
    folder = root / slug(run.target) / folder_name(run.method, run.seed, run.run_id)
    names = [METRICS, PER_USER, *(str(s["file"]) for s in run.sets.values())]
    with run.reading():
        for name in names:
            check_file(run.path, name, run.manifest["files"])
    manifest = without_paths(dict(run.manifest))
    manifest["files"] = {n: run.manifest["files"][n] for n in sorted(names)}
    if folder.exists():
        known = read_run(folder)
        if known.manifest["files"] == manifest["files"]:
            return known
        raise ResultError(
            f"{folder} holds another result of the same run. Results are superseded, never edited: "
            "remove the folder first if it is wrong."
        )
    with atomic_folder(folder) as partial, run.reading():
        for name in names:
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(run.path / name, partial / name)
        write_json(partial / MANIFEST, manifest)
    return read_run(folder)


def find_rivals(
    run: StoredRun, store: RunStore, *, committed: Path | None = COMMITTED
) -> list[StoredRun]:
    """Stored and committed runs of other methods that may be compared with ``run``.

    A rival has the same task and the same scored users, and another method or configuration. A run
    that is in both places counts once, as stored; damaged ones are passed over. Runs that rank
    nothing are rivals only where there is no other.

    Args:
        run: the run that has just ended.
        store: its store.
        committed: folder of committed results, or None.

    Returns:
        Rivals by NDCG@5, best first.
    """
    damaged: list[Damage] = []
    stores = [store]
    if committed is not None and committed.is_dir():
        stores.append(RunStore(committed))
    rivals: dict[str, StoredRun] = {}
    for place in stores:
        for other in place.list(task_hash=run.task_hash, damaged=damaged):
            if (
                other.run_id != run.run_id
                and other.users_hash == run.users_hash
                and (other.method, other.config) != (run.method, run.config)
            ):
                rivals.setdefault(other.run_id, other)
    ranked = sorted(
        rivals.values(), key=lambda r: (-float(r.metrics["metrics"]["ndcg@5"]["mean"]), r.run_id)
    )
    return [rival for rival in ranked if not ranks_nothing(rival)] or ranked


def ranks_nothing(run: StoredRun) -> bool:
    """Whether every candidate of every user is tied, as in the row ``random``.

    Then the positive may stand first or last whatever the user: the bounds of the AUC are 1 and 0.
    """
    auc = run.metrics.get("ties", {}).get("metrics", {}).get("auc", {})
    return (auc.get("optimistic"), auc.get("pessimistic")) == (1.0, 0.0)
