"""What a run will do before it does it: its jobs, which of them are done, how long the rest takes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.methods import DomainSize, DomainView, Job, Method, PlanSpec
from bench.methods.registry import resolve as resolve_method
from bench.runs.environment import run_threads
from bench.runs.history import from_history
from bench.runs.manifest import PreparedRun
from bench.runs.prints import prints_aside
from bench.runs.runner import prepare
from bench.runs.sets import wanted_sets
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore
from bench.runs.stored import StoredRun
from bench.runs.tasks import TaskCache

__all__ = [
    "JobState",
    "PlannedJob",
    "RunPlan",
    "plan_runs",
    "plan_spec",
    "with_defaults",
]

JobState = Literal["stored", "shared", "to do", "not known"]


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job of a run.

    Attributes:
        job: as the method plans it.
        state: ``stored`` (done before), ``shared`` (an earlier run of the same command does it),
            ``to do``, or ``not known``: to do unless it is stored, which cannot be told without the
            model.
        scaled: whether its seconds are those of stored runs, because the method cannot tell.
    """

    job: Job
    state: JobState
    scaled: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class RunPlan:
    """The jobs of one run.

    Attributes:
        prepared: the run.
        stored: whether its result is stored, so that nothing is done.
        jobs: in order.
    """

    prepared: PreparedRun
    stored: bool
    jobs: tuple[PlannedJob, ...]

    @property
    def method_cls(self) -> type[Method]:
        """The method's class."""
        return self.prepared.resolved.method_cls

    @property
    def to_do(self) -> tuple[Job, ...]:
        """The jobs that are left."""
        return tuple(planned.job for planned in self.jobs if planned.state in _LEFT)

    @property
    def seconds(self) -> float | None:
        """Estimated wall seconds of what is left; None if one of its jobs has no estimate."""
        return _sum([job.seconds for job in self.to_do])

    @property
    def gpu_seconds(self) -> float | None:
        """The same on the reference GPU."""
        return _sum([job.gpu_seconds for job in self.to_do])


_LEFT: tuple[JobState, ...] = ("to do", "not known")


def _sum(seconds: list[float | None]) -> float | None:
    known = [one for one in seconds if one is not None]
    return sum(known) if len(known) == len(seconds) else None


def plan_spec(prepared: PreparedRun) -> PlanSpec:
    """What a method may know for its plan."""
    spec, task = prepared.spec, prepared.loaded.task
    options = task.options
    sources = spec.sources or ()
    sets = wanted_sets(spec)
    own = task.n_items if options.negatives == "full" else options.n_negatives + 1
    n_candidates = [own, *(task.n_items if one.kind == "full" else own for one in sets)]
    view = task.train_view(with_sources=True)
    hashes = task.training_hashes(prepared.resolved.capabilities.item_columns)
    return PlanSpec(
        target=spec.target,
        sources=sources,
        profile=spec.profile,
        seed=spec.seed,
        init_seed=spec.init_seed,
        training_hashes={name: hashes[name] for name in (spec.target, *sources)},
        sizes={part.name: domain_size(part) for part in (view.target, *view.sources)},
        n_users=len(prepared.users) * len(n_candidates),
        n_candidates=round(sum(n_candidates) / len(n_candidates)),
        device=spec.device,
        dtype=spec.dtype,
        threads=run_threads(spec, prepared.resolved.method_cls),
    )


def domain_size(view: DomainView) -> DomainSize:
    """How much text a domain holds."""
    titles = np.diff(view.items.titles.offsets)
    return DomainSize(sequences=_counts(view.sequences.lengths), titles=_counts(titles))


def _counts(values: NDArray[np.integer]) -> dict[int, int]:
    found, counts = np.unique(values, return_counts=True)
    return dict(zip(found.tolist(), counts.tolist(), strict=True))


def plan_runs(
    specs: Iterable[RunSpec],
    store: RunStore,
    *,
    tasks: TaskCache | None = None,
    force: bool = False,
    history: Sequence[StoredRun] = (),
) -> list[RunPlan]:
    """Ask the methods for their jobs; tasks are built, nothing is trained.

    Args:
        specs: resolved specifications, in the order in which they will run.
        store: where results are kept.
        tasks: tasks shared with the runs that follow.
        force: whether stored runs will be repeated; their adapters are not.
        history: runs that tell how long a method takes which cannot tell itself.

    Raises:
        BenchError: a run cannot be prepared.
    """
    tasks = tasks or TaskCache()
    coming: set[str] = set()
    plans = []
    for spec in specs:
        prepared = prepare(spec, tasks=tasks, planning=True)
        cls, chosen = prepared.resolved.method_cls, prepared.spec
        found = store.find(chosen.target, cls.name, chosen.seed, prepared.run_id)
        stored = found is not None and not force
        with prints_aside():
            told = cls(prepared.resolved.config).plan(plan_spec(prepared))
            adapters = cls.adapter_store()
        planned = []
        for own, job in zip(told, from_history(told, prepared, history), strict=True):
            state: JobState = "stored" if stored else "to do"
            if not stored and job.key:
                if job.known and adapters is not None and adapters.has(job.key):
                    state = "stored"
                elif job.key in coming:
                    state = "shared"
                elif not job.known:
                    state = "not known"
                coming.add(job.key)
            planned.append(PlannedJob(job, state, scaled=job.seconds != own.seconds))
        plans.append(RunPlan(prepared, stored, tuple(planned)))
    return plans


def with_defaults(spec: RunSpec, *, limit_users: bool = False, dtype: bool = False) -> RunSpec:
    """The specification with what is left to the method filled in.

    Args:
        spec: the specification.
        limit_users: whether the number of scored users is the method's default.
        dtype: whether the number format is.

    Raises:
        ConfigError: an unknown method.
    """
    if not limit_users and not dtype:
        return spec
    with prints_aside():
        defaults = resolve_method(spec.method).run_defaults(spec.profile)
    update: dict[str, object] = {}
    if limit_users:
        update["limit_users"] = defaults.limit_users
    if dtype:
        update["dtype"] = defaults.dtype
    return spec.model_copy(update=update)
