"""One run: resolve, prepare, fit, score, evaluate, store; whole or not at all."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from bench.errors import (
    BenchError,
    ConfigError,
    InUseError,
    MethodError,
    ResultError,
    system_error,
)
from bench.io import StrPath, hash_json, lock, require_free_space
from bench.methods import Progress
from bench.partial import sweep
from bench.runs.attempt import Attempt
from bench.runs.manifest import PreparedRun
from bench.runs.prints import prints_aside
from bench.runs.progress import QuietProgress
from bench.runs.publish import publish
from bench.runs.resolve import require_available, resolve_spec
from bench.runs.sets import wanted_sets
from bench.runs.spec import RunSpec, run_id
from bench.runs.store import RunStore, open_store, sweep_locks
from bench.runs.stored import StoredRun
from bench.runs.tasks import TaskCache
from bench.runs.work import Work
from bench.waiting import patience

__all__ = [
    "CHECKPOINT_SECONDS",
    "PreparedRun",
    "execute",
    "execute_run",
    "prepare",
]

CHECKPOINT_SECONDS = 20.0
"""Work worth this many seconds is saved, so that a killed run need not repeat it."""

_BYTES_PER_USER = 64
_BYTES_AT_LEAST = 64_000_000


def prepare(
    spec: RunSpec,
    *,
    tasks: TaskCache | None = None,
    progress: Progress | None = None,
    planning: bool = False,
) -> PreparedRun:
    """Look everything up, build the task and compute the run's identity; nothing is trained.

    Args:
        spec: what to run.
        tasks: tasks shared between runs; None builds one.
        progress: reporter.
        planning: whether optional packages and models may be absent.

    Raises:
        ConfigError, MissingExtraError: wrong use; a domain is not on disk, or has no title at all for
            a method that reads titles.
        DataError, ProtocolError: a domain cannot be read, or the task not be built.
    """
    tasks = tasks or TaskCache()
    resolved = resolve_spec(spec, planning=planning, given=tasks.domains)
    require_available([resolved.spec], given=tasks.domains)
    with (progress or QuietProgress()).stage(f"prepare {resolved.spec.target}"):
        loaded = tasks.get(resolved.spec)
        task = loaded.task
        users = task.subset(resolved.spec.limit_users)
        users_hash = task.users_hash(users)
    if resolved.capabilities.needs_text and task.untitled():
        raise ConfigError(
            f"{', '.join(task.untitled())}: no item has a title, and {resolved.spec.method} reads titles. "
            "Import the items with theirs (`bench data import ... --items FILE`), or choose a method that "
            "knows items by their ids."
        )
    columns = resolved.capabilities.item_columns
    if columns:
        content = {"item_columns": hash_json(task.training_hashes(columns))}
        resolved = replace(resolved, content={**resolved.content, **content})
    identity = run_id(
        task_hash=task.task_hash,
        users_hash=users_hash,
        method=resolved.method_cls.name,
        version=resolved.method_cls.version,
        plugin_sha256=resolved.plugin_sha256,
        config=resolved.config_values,
        sources=[(name, task.source_hashes[name]) for name in resolved.spec.sources or ()],
        seed=resolved.spec.seed,
        init_seed=resolved.spec.init_seed,
        dtype=resolved.spec.dtype,
        content=resolved.content,
    )
    return PreparedRun(resolved, loaded, users, users_hash, identity)


def execute(
    spec: RunSpec,
    store: RunStore | StrPath,
    *,
    force: bool = False,
    progress: Progress | None = None,
    tasks: TaskCache | None = None,
    wait: bool = True,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> StoredRun:
    """Run a specification and store the result, or return the stored result.

    A run that was killed goes on from the method's own checkpoint, from the fitted model if fitting
    was done, and from the last saved chunk of scores. Two processes never work on the same run. A
    stored run that lacks a wanted request set or a wanted model is completed: its own request sets
    are kept, and the fit is repeated only if the model was not stored.

    Args:
        spec: what to run.
        store: where results are kept, or its folder.
        force: run again although the result is stored; the old result stays until the new one is
            complete.
        progress: reporter; None shows nothing.
        tasks: tasks shared between runs; None builds one.
        wait: whether to wait for another process that works on the same run; how long every wait
            may take is said by :func:`bench.waiting.patience`.
        checkpoint_seconds: how much work may be lost to a kill.

    Returns:
        The stored run.

    Raises:
        InUseError: another process works on it, or on what it needs, for longer.
        BenchError: the run failed; nothing half-written is left in the store.
        KeyboardInterrupt: passed on; checkpoints are kept and the same command goes on from there.
    """
    return execute_run(
        spec,
        open_store(store),
        force=force,
        progress=progress,
        tasks=tasks,
        wait=wait,
        checkpoint_seconds=checkpoint_seconds,
    )[0]


def execute_run(
    spec: RunSpec,
    store: RunStore,
    *,
    force: bool,
    progress: Progress | None,
    tasks: TaskCache | None,
    wait: bool,
    checkpoint_seconds: float,
) -> tuple[StoredRun, bool]:
    """Like :func:`execute`, and say whether anything was run now."""
    progress = progress or QuietProgress()
    # A wait is told even if no progress is shown.
    tell = None if type(progress) is QuietProgress else progress.status
    with patience(tell=tell), _clear_errors(spec.label):
        prepared = prepare(spec, tasks=tasks, progress=progress)
        return _executed(prepared, store, force, progress, wait, checkpoint_seconds)


def _executed(
    prepared: PreparedRun,
    store: RunStore,
    force: bool,
    progress: Progress,
    wait: bool,
    checkpoint_seconds: float,
) -> tuple[StoredRun, bool]:
    work = Work(store.work_folder(prepared.run_id))
    found = None if force else _stored(store, prepared)
    if found is not None and not _lacks(found, prepared) and not work.folder.exists():
        return found, False
    n_sets = 1 + len(wanted_sets(prepared.spec))
    require_free_space(store.root, _BYTES_AT_LEAST + _BYTES_PER_USER * n_sets * len(prepared.users))
    spec, method = prepared.spec, prepared.resolved.method_cls.name
    place = store.run_folder(spec.target, method, spec.seed, prepared.run_id).parent
    with _locked(work, prepared, place, wait=wait):
        # Another process may have finished the run while this one waited for the lock.
        found = None if force else _stored(store, prepared)
        if found is not None and not _lacks(found, prepared):
            work.clear()
            return found, False
        prepared = _completed(prepared, found or _readable(store, prepared))
        attempt = Attempt(prepared, work, progress, checkpoint_seconds, found)
        try:
            with prints_aside():
                attempt.run(anew=force)
            stored = publish(store, prepared, work)
        except (OSError, MemoryError, InUseError):
            raise
        except Exception:
            # A checkpoint of a run that fails by itself would only fail again; the log is kept.
            work.drop_progress()
            raise
        work.clear()
        return stored, True


@contextmanager
def _locked(work: Work, prepared: PreparedRun, place: Path, *, wait: bool) -> Iterator[None]:
    """Hold the run's lock; released by the system when the process dies.

    After a run that completed, locks that guard nothing any more are removed, and what killed
    processes left under construction there and in ``place``, where the run's folder is.
    """
    what = f"run {prepared.run_id} ({prepared.spec.label})"
    with lock(work.folder, timeout=None if wait else 0, what=what):
        yield
    sweep_locks(work.folder.parent)
    for folder in (work.folder.parent, place):
        sweep(folder)


def _lacks(run: StoredRun, prepared: PreparedRun) -> bool:
    """Whether a stored run lacks a wanted request set, or a model that is wanted and can be stored."""
    have = {(s["kind"], s.get("candidate_seed")) for s in run.sets.values()}
    if any((w.kind, w.candidate_seed) not in have for w in wanted_sets(prepared.spec)):
        return True
    return prepared.spec.keep_model and run.manifest.get("model", "not asked") == "not asked"


def _completed(prepared: PreparedRun, stored: StoredRun | None) -> PreparedRun:
    """Ask also for what the stored run has: a run never loses a request set or a model it had."""
    if stored is None:
        return prepared
    spec = prepared.spec
    seeds = [s["candidate_seed"] for s in stored.sets.values() if s["kind"] == "candidates"]
    update = {
        "extra_candidate_seeds": tuple(dict.fromkeys((*seeds, *spec.extra_candidate_seeds))),
        "full_ranking": spec.full_ranking or any(s["kind"] == "full" for s in stored.sets.values()),
        "keep_model": spec.keep_model or stored.manifest.get("model") == "stored",
    }
    resolved = replace(prepared.resolved, spec=spec.model_copy(update=update))
    return replace(prepared, resolved=resolved)


def _readable(store: RunStore, prepared: PreparedRun) -> StoredRun | None:
    """The stored run that is about to be replaced, or None if it is absent or damaged."""
    try:
        return _stored(store, prepared)
    except ResultError:
        return None


def _stored(store: RunStore, prepared: PreparedRun) -> StoredRun | None:
    spec = prepared.spec
    return store.find(spec.target, prepared.resolved.method_cls.name, spec.seed, prepared.run_id)


@contextmanager
def _clear_errors(label: str) -> Iterator[None]:
    """Turn what is not this package's own error into one that says method, cause and remedy."""
    try:
        yield
    except BenchError:
        raise
    except MemoryError as error:
        raise MethodError(
            f"{label}: out of memory. Use a smaller batch size, fewer users or another profile; "
            "the same command goes on from the last checkpoint."
        ) from error
    except Exception as error:
        # transformers raises OSError without a number
        system = system_error(error) or (error if isinstance(error, OSError) else None)
        if system is None:
            raise
        if system.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ResultError(
                f"{label}: the disk is full ({system.strerror}{_where(system)}). Nothing half-written "
                "was kept in the store. Free some space, or choose another folder (BENCH_STORE, "
                "BENCH_CACHE), and repeat the command; it goes on from the last checkpoint."
            ) from error
        raise ResultError(
            f"{label}: cannot read or write: {system.strerror or system}{_where(system)}. "
            "Repair the cause and repeat the command; it goes on from the last checkpoint."
        ) from error


def _where(error: OSError) -> str:
    return f": {error.filename}" if error.filename else ""
