"""What is made of a stored run: its JSON line, a shareable copy."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from bench.errors import ResultError
from bench.io import atomic_folder, write_json
from bench.runs.records import without_paths
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

__all__ = ["export_result", "run_json"]


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
