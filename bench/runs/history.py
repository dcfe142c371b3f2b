"""How long jobs took before: estimates for methods that cannot tell themselves."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from statistics import median

from bench.methods import Job
from bench.runs.manifest import PreparedRun
from bench.runs.sets import wanted_sets
from bench.runs.stored import StoredRun

__all__ = ["from_history"]


def from_history(
    jobs: Iterable[Job], prepared: PreparedRun, runs: Sequence[StoredRun]
) -> list[Job]:
    """Jobs with estimated seconds if they had none and runs of the same method tell.

    A fit is scaled by the events of target and sources, a scoring by the scored users. Runs of the same
    configuration are asked if there are any, else all of the method's profile; the median counts. They
    may come from another machine.

    Args:
        jobs: as the method plans them.
        prepared: the run.
        runs: runs of any method.
    """
    same = [r for r in runs if (r.method, r.profile) == _identity(prepared)]
    same = [r for r in same if r.config == prepared.resolved.config_values] or same
    n_events = _events(prepared.loaded.data, (prepared.spec.target, *(prepared.spec.sources or ())))
    n_users = len(prepared.users) * (1 + len(wanted_sets(prepared.spec)))
    fit = _rate([(r.manifest["seconds"].get("fit"), _events_of(r)) for r in same])
    score = _rate([(r.manifest["seconds"].get("score"), r.n_users) for r in same])
    seconds = {
        "fit": None if fit is None else fit * n_events,
        "score": None if score is None else score * n_users,
    }
    return [
        replace(job, seconds=seconds.get(job.kind)) if job.seconds is None else job for job in jobs
    ]


def _identity(prepared: PreparedRun) -> tuple[str, str]:
    return prepared.resolved.method_cls.name, prepared.spec.profile


def _events_of(run: StoredRun) -> int:
    return _events(run.manifest.get("data") or {}, (run.target, *run.sources))


def _events(data: object, names: Iterable[str]) -> int:
    """Events of the named domains; 0 if one is not recorded."""
    known = data if isinstance(data, dict) else {}
    counts = [known.get(name, {}).get("events") for name in names]
    return sum(counts) if all(isinstance(one, int) for one in counts) else 0


def _rate(pairs: Iterable[tuple[float | None, int]]) -> float | None:
    """Median seconds a unit, of the pairs that tell."""
    rates = [seconds / units for seconds, units in pairs if seconds is not None and units > 0]
    return median(rates) if rates else None
