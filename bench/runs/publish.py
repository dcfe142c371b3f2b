"""Moving a complete run folder to its place in the store."""

from __future__ import annotations

from bench.partial import replace_folder
from bench.runs.manifest import PreparedRun
from bench.runs.store import RunStore
from bench.runs.stored import StoredRun, read_run
from bench.runs.work import Work

__all__ = ["publish"]


def publish(store: RunStore, prepared: PreparedRun, work: Work) -> StoredRun:
    """Give ``work.result`` the name of the run's folder; an older result stays until then."""
    spec = prepared.spec
    final = store.run_folder(
        spec.target, prepared.resolved.method_cls.name, spec.seed, prepared.run_id
    )
    final.parent.mkdir(parents=True, exist_ok=True)
    replace_folder(work.result, final)
    return read_run(final)
