"""What ``bench run`` says before it begins: the jobs, which of them are done, how long the rest takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.cli.output import echo, human_seconds, print_json, print_table

if TYPE_CHECKING:
    from bench.runs.planning import RunPlan
    from bench.runs.spec import RunSpec
    from bench.runs.store import RunStore
    from bench.runs.tasks import TaskCache

__all__ = ["announce", "print_plan"]


def _rows(plans: Sequence[RunPlan]) -> list[dict[str, Any]]:
    return [
        {
            "run_id": plan.prepared.run_id,
            "method": plan.method_cls.name,
            "target": plan.prepared.spec.target,
            "seed": plan.prepared.spec.seed,
            "job": planned.job.kind,
            "label": planned.job.label,
            "key": planned.job.key if planned.job.known else "",
            "n_users": len(plan.prepared.users),
            "dtype": plan.prepared.spec.dtype,
            "state": planned.state,
            "stored": planned.state == "stored",
            "seconds": planned.job.seconds,
            "gpu_seconds": planned.job.gpu_seconds,
            "tokens": planned.job.tokens,
            "memory_mb": planned.job.memory_mb,
        }
        for plan in plans
        for planned in plan.jobs
    ]


def _about(seconds: float | None) -> str:
    """An estimate of time for people: whole seconds, minutes or hours."""
    if seconds is None:
        return ""
    if seconds >= 360_000:
        return f"{seconds / 3600:,.0f} h"
    return human_seconds(max(1.0, round(seconds)) if seconds < 60 else seconds).replace(
        ".0 s", " s"
    )


def print_plan(plans: Sequence[RunPlan], *, as_json: bool) -> None:
    """Print every job of every run, and what they need if the methods can tell."""
    rows = _rows(plans)
    if as_json:
        for row in rows:
            print_json(row)
        return
    # What is planned for a GPU, on a machine that has none, is also told in its hours.
    devices = ", ".join(dict.fromkeys(plan.prepared.spec.device for plan in plans))
    for_gpu = any(plan.prepared.spec.profile != "cpu" or plan.seconds is None for plan in plans)
    for_gpu = for_gpu and any(row["gpu_seconds"] is not None for row in rows)
    columns = [
        (f"about, on {devices}" if for_gpu else "about", "seconds", _about),
        ("tokens", "tokens", lambda value: "" if value is None else f"{value:,}"),
        ("memory", "memory_mb", lambda value: "" if value is None else f"{value:,.0f} MB"),
    ]
    if for_gpu:
        columns.insert(1, ("GPU hours", "gpu_seconds", _hours))
    # Estimates have columns if at least one job has them.
    extra = [column for column in columns if any(row[column[1]] is not None for row in rows)]
    print_table(
        ("run", "seed", "job", "what", "users", "state", *(title for title, _, _ in extra)),
        [
            (
                *(row["run_id"], row["seed"], row["job"], row["label"]),
                *(row["n_users"], row["state"]),
                *(show(row[key]) for _, key, show in extra),
            )
            for row in rows
        ],
    )
    waiting = [plan for plan in plans if plan.to_do]
    total = _total([plan.seconds for plan in waiting])
    on_gpu = _total([plan.gpu_seconds for plan in waiting]) if for_gpu else None
    told = [] if total is None else [f"about {_about(total)} in all" + for_gpu * f" on {devices}"]
    if on_gpu is not None:
        told.append(f"about {_hours(on_gpu)} GPU hours")
    if told:
        echo(f"\nTo do: {', or '.join(told)}.")
    if any(planned.scaled for plan in plans for planned in plan.jobs):
        echo(
            "Times of methods without an estimate are those of stored runs, scaled by events and users."
        )
    if for_gpu:
        from bench.llm.machine import REFERENCE_GPU

        echo(f"GPU hours are an estimate for {REFERENCE_GPU.name}, 40 % of it reached.")


def _hours(seconds: float | None) -> str:
    return "" if seconds is None else f"{seconds / 3600:,.2f}"


def _total(seconds: Sequence[float | None]) -> float | None:
    """The sum; None if one is not known, or there is none."""
    known = [one for one in seconds if one is not None]
    return sum(known) if known and len(known) == len(seconds) else None


def announce(
    specs: Sequence[RunSpec],
    store: RunStore,
    tasks: TaskCache,
    *,
    auto_users: bool,
    force: bool,
) -> None:
    """Say on standard error what the runs with adapters, or on a subset by default, will do.

    Args:
        specs: resolved specifications.
        store: where results are kept.
        tasks: receives the tasks, for the runs that follow.
        auto_users: whether the number of scored users was left to the method.
        force: whether stored runs are repeated.
    """
    from bench.errors import BenchError
    from bench.methods import RunDefaults
    from bench.methods.registry import resolve
    from bench.runs.planning import plan_runs
    from bench.runs.prints import prints_aside

    chosen = []
    for spec in specs:
        with prints_aside():
            cls = resolve(spec.method)
            slow = cls.adapter_store() is not None
            limited = auto_users and cls.run_defaults(spec.profile) != RunDefaults()
        if slow or limited:
            chosen.append(spec)
    try:
        plans = plan_runs(chosen, store, tasks=tasks, force=force)
    except BenchError:
        return  # the run itself will say it, and be recorded
    waiting = [plan for plan in plans if not plan.stored]
    for plan in waiting:
        for line in _lines(plan, auto_users=auto_users):
            echo(line, err=True)
    total = _total([plan.seconds for plan in waiting])
    if len(waiting) > 1 and total is not None:
        echo(f"In all about {_about(total)}.", err=True)


def _lines(plan: RunPlan, *, auto_users: bool) -> list[str]:
    spec, task = plan.prepared.spec, plan.prepared.loaded.task
    n_users = len(plan.prepared.users)
    default = ""
    if auto_users and n_users < task.n_users:
        default = " (the method's default; --limit-users all scores all)"
    total = "" if plan.seconds is None else f"; about {_about(plan.seconds)}"
    lines = [
        f"{spec.label}: scores {n_users:,} of {task.n_users:,} users{default} in {spec.dtype}{total}"
    ]
    for planned in plan.jobs:
        job = planned.job
        key = f" {job.key[:8]}" if job.key and job.known else ""
        state = {"shared": "shared with a run above"}.get(planned.state, planned.state)
        about = (
            f", about {_about(job.seconds)}"
            if job.seconds is not None and planned.state in ("to do", "not known")
            else ""
        )
        lines.append(f"  {job.kind}{key}: {job.label} ({state}{about})")
    return lines
