"""A matrix of runs: methods x targets x seeds, one after the other, resumable."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bench.errors import BenchError, InUseError, MethodError, ResultError
from bench.io import StrPath, atomic_folder, hash_json, write_json, write_text
from bench.methods.config import merge
from bench.partial import discard
from bench.runs.planning import with_defaults
from bench.runs.progress import QuietProgress, Reporter
from bench.runs.resolve import Resolved, require_available, resolve_spec
from bench.runs.runner import CHECKPOINT_SECONDS, execute_run
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore, open_store
from bench.runs.stored import FORMAT, LOG, MANIFEST, StoredRun
from bench.runs.tasks import TaskCache
from bench.stamp import duration, utc_now

__all__ = ["MatrixInterrupted", "RunResult", "expand", "run_matrix"]


@dataclass(frozen=True, slots=True, repr=False)
class RunResult:
    """What became of one specification.

    Attributes:
        spec: the specification.
        status: ``done`` (run now), ``stored`` (was there already), ``failed``, or ``in use``: not done,
            because another process worked on it, or on what it needs, for longer than was waited.
        run: the stored run, if there is one.
        error: why there is none.
        record: folder with the record of the failure.
        seconds: wall seconds spent on it now.
    """

    spec: RunSpec
    status: Literal["done", "stored", "failed", "in use"]
    run: StoredRun | None = None
    error: Exception | None = None
    record: Path | None = None
    seconds: float = 0.0

    def __repr__(self) -> str:
        if self.run is None:
            return f"RunResult({self.spec.label}: {self.status}, {type(self.error).__name__})"
        value = self.run.figures["ndcg@5"]
        low, high = value["ci95"]
        figure = f"NDCG@5 {value['mean']:.4f} [{low:.4f}, {high:.4f}]"
        return f"RunResult({self.spec.label}: {figure}, {self.status}, run {self.run.run_id[:8]})"

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """``mean`` and ``ci95`` by metric; empty if there is no run."""
        return {} if self.run is None else self.run.figures


class MatrixInterrupted(KeyboardInterrupt):
    """Ctrl-C during a matrix; ``results`` holds what was finished before it."""

    def __init__(self, results: Sequence[RunResult], current: RunSpec) -> None:
        super().__init__(
            f"interrupted during {current.label}; {len(results)} runs before it are kept"
        )
        self.results = tuple(results)
        self.current = current


def expand(
    methods: Sequence[str],
    targets: Sequence[str],
    seeds: Sequence[int] = (0,),
    *,
    limit_users: int | Literal["auto"] | None = "auto",
    dtype: str = "auto",
    planning: bool = False,
    given: Collection[str] = (),
    overrides: Mapping[str, Any] | None = None,
    own_overrides: Mapping[str, Mapping[str, Any]] | None = None,
    **common: Any,
) -> list[RunSpec]:
    """Make the specifications of a matrix, targets first, so that neighbours share their data.

    Args:
        methods: method names; one that takes a single source makes one run for each.
        targets: target domains.
        seeds: training seeds; methods without random training run once, with seed 0.
        limit_users: how many test users are scored; None = all, ``auto`` = the method's default.
        dtype: number format of the models; ``auto`` = the method's default.
        planning: whether nothing will be run, so that optional packages and models may be absent.
        given: names of domains in memory.
        overrides: configuration values of every method.
        own_overrides: by method, values that win over ``overrides``.
        **common: further fields of :class:`RunSpec`, the same for all.

    Returns:
        Resolved specifications (sources, users and number format explicit) without repetitions.

    Raises:
        ConfigError, MissingExtraError: any of them is wrong; nothing has been run yet.
    """
    specs: dict[str, RunSpec] = {}
    chosen = {"limit_users": limit_users, "dtype": dtype}
    fields: dict[str, Any] = {key: value for key, value in chosen.items() if value != "auto"}
    for target in targets:
        for method in methods:
            fields["overrides"] = merge(overrides or {}, (own_overrides or {}).get(method, {}))
            for seed in seeds:
                spec = RunSpec(method=method, target=target, seed=seed, **common, **fields)
                spec = with_defaults(spec, limit_users=limit_users == "auto", dtype=dtype == "auto")
                resolved = resolve_spec(spec, planning=planning, given=given)
                for one in _one_per_source(resolved):
                    specs.setdefault(hash_json(one.model_dump(mode="json")), one)
    return list(specs.values())


def _one_per_source(resolved: Resolved) -> list[RunSpec]:
    """The specification itself, or one for every source of a method that takes a single one."""
    spec = resolved.spec
    if not resolved.capabilities.single_source:
        return [spec]
    return [spec.model_copy(update={"sources": (source,)}) for source in spec.sources or ()]


def run_matrix(
    specs: Iterable[RunSpec],
    store: RunStore | StrPath,
    *,
    force: bool = False,
    progress: Reporter | None = None,
    on_result: Callable[[RunResult], None] | None = None,
    tasks: TaskCache | None = None,
    checkpoint_seconds: float = CHECKPOINT_SECONDS,
) -> list[RunResult]:
    """Run specifications one after the other; skip what is stored, record failures and go on.

    Runs that another process works on are left for the end, and are then waited for, each no longer
    than :func:`bench.waiting.patience` says.

    Args:
        specs: what to run.
        store: where results are kept, or its folder.
        force: run again what is stored.
        progress: reporter; None shows nothing.
        on_result: called with every result as soon as it is known.
        tasks: tasks that are built already; None builds them.
        checkpoint_seconds: how much work may be lost to a kill.

    Returns:
        One result per specification, in the order given.

    Raises:
        ConfigError, MissingExtraError: wrong use or missing data, found before the first run starts.
        MatrixInterrupted: Ctrl-C; finished runs are stored, the current one keeps its checkpoints.
    """
    progress, store, tasks = progress or QuietProgress(), open_store(store), tasks or TaskCache()
    ordered = list(specs)
    given = tasks.domains
    require_available((resolve_spec(spec, given=given).spec for spec in ordered), given)
    results: dict[int, RunResult] = {}
    waiting = list(enumerate(ordered))
    for wait in (False, True):
        deferred: list[tuple[int, RunSpec]] = []
        for index, spec in waiting:
            title = f"[{index + 1}/{len(ordered)}] {spec.label}"
            try:
                with progress.stage(title):
                    result = _one(spec, store, force, progress, tasks, wait, checkpoint_seconds)
            except KeyboardInterrupt as error:
                finished = [results[i] for i in sorted(results)]
                raise MatrixInterrupted(finished, spec) from error
            if result.status == "in use" and not wait:
                progress.line(f"{title}: left for the end: {result.error}")
                deferred.append((index, spec))
                continue
            results[index] = result
            progress.line(f"{title}: {_outcome(result)}")
            if on_result is not None:
                on_result(result)
        waiting = deferred
    return [results[i] for i in sorted(results)]


def _one(
    spec: RunSpec,
    store: RunStore,
    force: bool,
    progress: Reporter,
    tasks: TaskCache,
    wait: bool,
    checkpoint_seconds: float,
) -> RunResult:
    began = time.perf_counter()
    started = utc_now()
    try:
        run, fresh = execute_run(
            spec,
            store,
            force=force,
            progress=progress,
            tasks=tasks,
            wait=wait,
            checkpoint_seconds=checkpoint_seconds,
        )
    except InUseError as error:
        return RunResult(spec, "in use", None, error, None, time.perf_counter() - began)
    except SystemExit as error:
        # A method that ends the process must not take the runs behind it with it, nor pass for done.
        ended = MethodError(f"{spec.label}: the method's code called sys.exit({error.code!r}).")
        record = record_failure(spec, store, ended, started)
        return RunResult(spec, "failed", None, ended, record, time.perf_counter() - began)
    except Exception as error:
        record = record_failure(spec, store, error, started)
        return RunResult(spec, "failed", None, error, record, time.perf_counter() - began)
    forget_failure(spec, store)
    return RunResult(
        spec, "done" if fresh else "stored", run, None, None, time.perf_counter() - began
    )


def _outcome(result: RunResult) -> str:
    if result.status == "in use":
        return "not done"
    if result.status == "failed":
        # The caller has the error and shows it once, with the record; a long one would drown the line.
        return f"failed ({type(result.error).__name__})"
    assert result.run is not None  # noqa: S101  (tells the type checker what the status implies)
    figures = result.run.metrics["metrics"]
    shown = ", ".join(
        f"{name.upper()} {figures[name]['mean']:.4f}" for name in ("ndcg@1", "ndcg@5")
    )
    if result.status == "stored":
        return f"{shown} (stored before)"
    return f"{shown} in {duration(result.seconds)}"


def _failure_key(spec: RunSpec) -> str:
    return hash_json(spec.portable())[:16]


def record_failure(spec: RunSpec, store: RunStore, error: Exception, started: str) -> Path | None:
    """Write ``failed/<target>/<method>-s<seed>-<key>``; None if even that cannot be written."""
    folder = store.failed_folder(spec.target, spec.method, spec.seed, _failure_key(spec))
    trace = "".join(traceback.format_exception(error))
    record = {
        "format": FORMAT,
        "status": "failed",
        "spec": spec.portable(),
        "error": type(error).__name__,
        "message": str(error),
        "exit_code": error.exit_code if isinstance(error, BenchError) else 1,
        "traceback": trace,
        "started": started,
        "finished": utc_now(),
    }
    try:
        with atomic_folder(folder, replace=True) as partial:
            write_json(partial / MANIFEST, record)
            write_text(partial / LOG, trace)
    except (OSError, ResultError):
        # A full disk is a common reason of failures; the caller still gets the error itself.
        return None
    return folder


def forget_failure(spec: RunSpec, store: RunStore) -> None:
    """Remove the record of an earlier failure of a run that has now succeeded."""
    folder = store.failed_folder(spec.target, spec.method, spec.seed, _failure_key(spec))
    with suppress(FileNotFoundError):
        discard(folder)
