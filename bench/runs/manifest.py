"""The manifest of a run: what it was, where it ran, what it cost."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench import __version__
from bench.runs.environment import RECORDED, git_revision, hardware, run_threads
from bench.runs.journal import Journal
from bench.runs.records import jsonable
from bench.runs.resolve import Resolved
from bench.runs.spec import RunSpec
from bench.runs.stored import FORMAT
from bench.runs.tasks import LoadedTask
from bench.stamp import package_versions, utc_now

__all__ = ["PreparedRun", "RunRecord", "manifest"]


@dataclass(frozen=True, slots=True, eq=False)
class PreparedRun:
    """A run whose identity is known and that can start.

    Attributes:
        resolved: method, configuration, sources.
        loaded: its task.
        users: canonical indices of the scored users, int32, ascending.
        users_hash: identity of that set.
        run_id: identity of the run.
    """

    resolved: Resolved
    loaded: LoadedTask
    users: NDArray[np.int32]
    users_hash: str
    run_id: str

    @property
    def spec(self) -> RunSpec:
        """The specification with sources and seed made explicit."""
        return self.resolved.spec


@dataclass(frozen=True, slots=True, eq=False)
class RunRecord:
    """Everything that a manifest is made of.

    Attributes:
        prepared: the run.
        journal: attempts, times, validations.
        diagnostics: counters of the method over the task's own candidates.
        sets: further request sets by candidates hash.
        model: ``stored``, ``not asked`` or ``not supported``.
        memory: peak memory.
        files: SHA-256 of every other file of the run, by relative name.
        conformance: what the kit said of a plugin before the run, None for methods of this package.
    """

    prepared: PreparedRun
    journal: Journal
    diagnostics: Mapping[str, Any]
    sets: Mapping[str, Any]
    model: str
    memory: Mapping[str, Any]
    files: Mapping[str, str]
    conformance: str | None = None


def manifest(record: RunRecord) -> dict[str, Any]:
    """The content of ``manifest.json``; ``docs/runs.md`` describes the fields."""
    prepared, journal = record.prepared, record.journal
    spec, resolved = prepared.spec, prepared.resolved
    task, cls, capabilities = prepared.loaded.task, resolved.method_cls, resolved.capabilities
    return {
        "format": FORMAT,
        "run_id": prepared.run_id,
        "status": "done",
        "method": {
            "name": cls.name,
            "version": cls.version,
            "family": str(cls.family),
            "requested_as": spec.method,
            "plugin_sha256": resolved.plugin_sha256,
            "content": dict(resolved.content),
            "row_note": cls.row_note(resolved.config),
            **asdict(capabilities),
            **({} if record.conformance is None else {"conformance": record.conformance}),
        },
        "target": spec.target,
        "sources": list(spec.sources or ()),
        "profile": spec.profile,
        "seed": spec.seed,
        "init_seed": spec.init_seed,
        "device": spec.device,
        "dtype": spec.dtype,
        "threads": run_threads(spec, cls),
        "config": resolved.config_values,
        "spec": spec.portable(),
        "task": {
            "task_hash": task.task_hash,
            "candidates_hash": task.candidates_hash,
            "options": task.options.model_dump(mode="json"),
            "guard": task.guard,
            "guard_counts": jsonable(task.guard_counts),
            "source_hashes": {name: task.source_hashes[name] for name in spec.sources or ()},
            "n_users": task.n_users,
            "n_items": task.n_items,
            **({"left_out": task.left_out.record()} if task.left_out else {}),
        },
        "users": {
            "users_hash": prepared.users_hash,
            "n_users": len(prepared.users),
            "limit": spec.limit_users,
        },
        "sets": dict(record.sets),
        "data": jsonable(prepared.loaded.data),
        "adapters": journal.adapters_record(),
        "seconds": journal.seconds_record(),
        "cpu_seconds": journal.cpu_record(),
        "attempts": journal.attempts,
        "peak_memory": dict(record.memory),
        "tokens": record.diagnostics.get("tokens"),
        "diagnostics": dict(record.diagnostics),
        "training": (journal.fit or {}).get("training"),
        "validations": journal.validations,
        "model": record.model,
        "packages": package_versions(__version__, RECORDED),
        "hardware": hardware(spec.device),
        "git_revision": git_revision(),
        "started": journal.started,
        "finished": utc_now(),
        "files": dict(record.files),
        **_imported(spec),
    }


def _imported(spec: RunSpec) -> dict[str, Any]:
    """What is on record of scores of another program, and its costs instead of those of reading them."""
    if spec.imported is None:
        return {}
    return {**spec.imported.costs(), "imported": spec.imported.model_dump(mode="json")}
