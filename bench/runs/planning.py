"""What a run will do before it does it: its jobs, which of them are done, how long the rest takes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from bench.methods import Job, Method, PlanSpec
from bench.methods.registry import resolve as resolve_method
from bench.runs.environment import available_threads
from bench.runs.manifest import PreparedRun
from bench.runs.prints import prints_aside
from bench.runs.runner import prepare
from bench.runs.sets import wanted_sets
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore
from bench.runs.tasks import TaskCache

__all__ = [
    "ADAPTER",
    "JobState",
    "PlannedJob",
    "RunPlan",
    "plan_runs",
    "plan_spec",
    "with_defaults",
]

ADAPTER = "adapter"

JobState = Literal["stored", "shared", "to do"]


@dataclass(frozen=True, slots=True)
class PlannedJob:
    """One job of a run.

    Attributes:
        job: as the method plans it.
        state: ``stored`` (done before), ``shared`` (an earlier run of the same command does it), or
            ``to do``.
    """

    job: Job
    state: JobState


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
        return tuple(planned.job for planned in self.jobs if planned.state == "to do")

    @property
    def seconds(self) -> float | None:
        """Estimated wall seconds of what is left; None where one of its jobs has no estimate."""
        known = [job.seconds for job in self.to_do if job.seconds is not None]
        return sum(known) if len(known) == len(self.to_do) else None


def plan_spec(prepared: PreparedRun) -> PlanSpec:
    """What a method may know for its plan."""
    spec, task = prepared.spec, prepared.loaded.task
    options = task.options
    sources = spec.sources or ()
    return PlanSpec(
        target=spec.target,
        sources=sources,
        profile=spec.profile,
        seed=spec.seed,
        init_seed=spec.init_seed,
        training_hashes={name: task.training_hashes[name] for name in (spec.target, *sources)},
        n_users=len(prepared.users) * (1 + len(wanted_sets(spec))),
        n_candidates=task.n_items if options.negatives == "full" else options.n_negatives + 1,
        device=spec.device,
        dtype=spec.dtype,
        threads=spec.threads or available_threads(),
    )


def plan_runs(
    specs: Iterable[RunSpec],
    store: RunStore,
    *,
    tasks: TaskCache | None = None,
    force: bool = False,
) -> list[RunPlan]:
    """Ask the methods for their jobs; tasks are built, nothing is trained.

    Args:
        specs: resolved specifications, in the order in which they will run.
        store: where results are kept.
        tasks: tasks shared with the runs that follow.
        force: whether stored runs will be repeated; their adapters are not.

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
            jobs = cls(prepared.resolved.config).plan(plan_spec(prepared))
            adapters = cls.adapter_store()
        planned = []
        for job in jobs:
            state: JobState = "stored" if stored else "to do"
            if not stored and job.kind == ADAPTER and job.key:
                if adapters is not None and adapters.has(job.key):
                    state = "stored"
                elif job.key in coming:
                    state = "shared"
                coming.add(job.key)
            planned.append(PlannedJob(job, state))
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
