"""What is made of a stored run: its JSON line, a shareable copy."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import ResultError
from bench.io import atomic_folder
from bench.runs.privacy import apart_from_files, base_name, private_values, texts, without_paths
from bench.runs.spec import identity_of, portable_config
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

__all__ = ["export_result", "published_manifest", "run_json"]


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
        **({} if run.imported is None else {"imported": dict(run.imported)}),
    }


def export_result(run: StoredRun, root: Path) -> StoredRun:
    """Copy a run to ``root/<target>/<method>-s<seed>-<id>`` in a form that can be published.

    Manifest, metrics and outcomes are copied; the log and the model are not. The manifest names no
    folder of this machine, and is sealed.

    Raises:
        ResultError: the run is damaged, holds something private that cannot be left out, or the folder
            holds another result. Nothing is written then.
    """
    folder = root / slug(run.target) / folder_name(run.stored_method, run.seed, run.run_id)
    names = [METRICS, PER_USER, *(str(s["file"]) for s in run.sets.values())]
    with run.reading():
        for name in names:
            check_file(run.path, name, run.manifest["files"])
    manifest = {
        **published_manifest(run),
        "files": {name: run.manifest["files"][name] for name in sorted(names)},
    }
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
        write_manifest(partial, manifest)
    return read_run(folder)


def published_manifest(run: StoredRun) -> dict[str, Any]:
    """The manifest with every path cut to its last part, if that leaves the run what it is.

    The configuration is left alone but for paths whose content the identity holds: cut anywhere else,
    it would be that of another run.

    Raises:
        ResultError: what is left names something private, or does not give the run id: what
            ``bench results verify`` would refuse. The message names the field and the remedy.
    """
    content = run.manifest["method"].get("content") or {}
    asked = (run.manifest.get("spec") or {}).get("overrides") or {}
    named = [
        text for of in (run.config, asked) for field, text in texts("", of) if field in content
    ]
    # What a method reports may repeat them, also in the form of a hub's identifier.
    known = {text: base_name(text) for text in sorted(named, key=len, reverse=True)}
    manifest: dict[str, Any] = without_paths(apart_from_files(run.manifest), known, here=True)
    for key, described in run.sets.items():
        manifest["sets"][key]["file"] = described["file"]
    manifest["config"] = portable_config(run.config, content)
    if asked:
        manifest["spec"]["overrides"] = portable_config(asked, content)
    _require_publishable(run, manifest)
    return manifest


def _require_publishable(run: StoredRun, manifest: Mapping[str, Any]) -> None:
    for name, record in ((MANIFEST, apart_from_files(manifest)), (METRICS, run.metrics)):
        for field, found, what in private_values(record, here=True):
            raise ResultError(
                f"run {run.run_id} cannot be published: {field} of {name} holds {found!r}, which looks "
                f"like {what}. "
                + (
                    "Only a path whose content the method declares (`content_hashes`) can be replaced "
                    "by its name. Run it with another value, or with a method that declares it."
                    if re.match(r"(a key of )?(config|spec)\b", field)
                    else "Take it out of what the method reports, and run it again."
                )
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
