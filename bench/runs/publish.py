"""Moving a complete run folder to its place in the store, and undoing what a kill interrupted."""

from __future__ import annotations

import shutil
from pathlib import Path

from bench.errors import ResultError
from bench.runs.manifest import PreparedRun
from bench.runs.store import RunStore
from bench.runs.stored import MANIFEST, StoredRun, read_manifest, read_run
from bench.runs.work import Work

__all__ = ["publish", "recover"]

_OLD = "replaced"


def publish(store: RunStore, prepared: PreparedRun, work: Work) -> StoredRun:
    """Rename ``work.result`` to the run's folder; an older result is replaced.

    The older folder waits inside the work folder until the new one is in place, so that
    :func:`recover` can put it back when the process dies between the two renames.
    """
    spec = prepared.spec
    final = store.run_folder(
        spec.target, prepared.resolved.method_cls.name, spec.seed, prepared.run_id
    )
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.exists():
        old = work.folder / _OLD / final.name
        shutil.rmtree(old, ignore_errors=True)
        old.parent.mkdir(exist_ok=True)
        final.rename(old)
    work.result.rename(final)
    return read_run(final)


def recover(store: RunStore, run_id: str) -> None:
    """Put a replaced result back when its replacement never arrived."""
    waiting: list[Path] = sorted((store.work_folder(run_id) / _OLD).glob(f"*/{MANIFEST}"))
    for manifest in waiting:
        old = manifest.parent
        try:
            content = read_manifest(old)
        except ResultError:
            # It was damaged before it was to be replaced: nothing to put back.
            continue
        final = store.run_folder(
            content["target"], content["method"]["name"], content["seed"], content["run_id"]
        )
        if not final.exists():
            final.parent.mkdir(parents=True, exist_ok=True)
            old.rename(final)
