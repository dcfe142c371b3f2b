"""What is made of a stored run: its JSON line, a shareable copy, the rivals to compare it with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import ResultError
from bench.io import atomic_folder
from bench.runs.privacy import private_settings, private_text
from bench.runs.records import without_paths
from bench.runs.spec import base_name, identity_of, portable_config
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
    write_manifest,
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

    Manifest, metrics and outcomes are copied; the log and the model are not. The manifest names no
    folder of this machine, and is sealed.

    Raises:
        ResultError: the run is damaged, holds something private that cannot be left out, or the folder
            holds another result. Nothing is written then.
    """
    folder = root / slug(run.target) / folder_name(run.method, run.seed, run.run_id)
    names = [METRICS, PER_USER, *(str(s["file"]) for s in run.sets.values())]
    for name in names:
        check_file(run.path, name, run.manifest["files"])
    manifest = _published_manifest(run)
    manifest["files"] = {n: run.manifest["files"][n] for n in sorted(names)}
    _require_publishable(run, manifest)
    if folder.exists():
        known = read_run(folder)
        if known.manifest["files"] == manifest["files"]:
            return known
        raise ResultError(
            f"{folder} holds another result of the same run. Results are superseded, never edited: "
            "remove the folder first if it is wrong."
        )
    with atomic_folder(folder) as partial:
        for name in names:
            (partial / name).parent.mkdir(exist_ok=True)
            shutil.copyfile(run.path / name, partial / name)
        write_manifest(partial, manifest)
    return read_run(folder)


def _published_manifest(run: StoredRun) -> dict[str, Any]:
    """The manifest with every path cut to its last part, where that leaves the run what it is.

    The configuration is left alone but for paths whose content the identity holds: cut anywhere else,
    it would be that of another run.
    """
    content = run.manifest["method"].get("content") or {}
    manifest: dict[str, Any] = {
        **without_paths(dict(run.manifest)),
        "config": portable_config(run.config, content),
    }
    for record, field in ((manifest["method"], "requested_as"), (manifest.get("spec"), "method")):
        if record and isinstance(record.get(field), str):
            record[field] = base_name(record[field])
    asked = (run.manifest.get("spec") or {}).get("overrides")
    if asked:
        manifest["spec"]["overrides"] = portable_config(asked, content)
    return manifest


def _require_publishable(run: StoredRun, manifest: Mapping[str, Any]) -> None:
    """Refuse what `bench results verify` would: a private path, or an identity that does not hold.

    Raises:
        ResultError: naming the field and the remedy.
    """
    for field, value in private_settings(manifest):
        raise ResultError(
            f"run {run.run_id} cannot be published: {field} is {value!r}, a path of this machine. "
            "Only a path whose content the method declares (`content_hashes`) can be replaced by its "
            "name. Run it with a path-free value, or with a method that declares it."
        )
    texts = {
        MANIFEST: json.dumps(manifest, sort_keys=True, indent=2, ensure_ascii=False),
        METRICS: (run.path / METRICS).read_text(encoding="utf-8"),
    }
    for name, text in texts.items():
        for line, what, found in private_text(text):
            raise ResultError(
                f"run {run.run_id} cannot be published: {name} holds {found!r}, which looks like "
                f"{what}: {text.splitlines()[line - 1].strip()[:120]}. Take it out of what the method "
                "reports, and run it again."
            )
    try:
        identity = identity_of(manifest)
    except KeyError as error:
        raise ResultError(
            f"run {run.run_id} cannot be published: {MANIFEST} lacks the field {error}; run it again."
        ) from error
    if identity != run.run_id:
        raise ResultError(
            f"run {run.run_id} cannot be published: task, users, method, configuration and seeds in its "
            f"manifest give {identity}. An older version took folders into the run id, or the manifest "
            "was edited; run it again."
        )


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
