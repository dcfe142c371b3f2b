"""The run that tells whether sources helped: target-only beside WeaveRec on a subset of users."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bench.runs.rivals import Rivals
    from bench.runs.spec import RunSpec
    from bench.runs.tasks import TaskCache

__all__ = ["missing_baselines"]


def missing_baselines(specs: Sequence[RunSpec], rivals: Rivals, tasks: TaskCache) -> list[RunSpec]:
    """The target-only runs that WeaveRec's runs are to be compared with and that nobody has made.

    Their adapter is WeaveRec's own first branch, so that they cost their scoring alone. If all users
    are scored that is as much as WeaveRec's and is left to the user, who is told the command.

    Args:
        specs: resolved specifications of what will run.
        rivals: where results are kept, and where published ones are.
        tasks: tasks shared with the runs that follow.
    """
    from bench.methods import Family
    from bench.methods.registry import resolve
    from bench.report.transfer import TARGET_ONLY
    from bench.runs.matrix import expand
    from bench.runs.runner import prepare

    found: dict[str, RunSpec] = {}
    for spec in specs:
        if resolve(spec.method).family is not Family.WEAVEREC or spec.limit_users is None:
            continue
        settings = resolve(TARGET_ONLY).Config.model_fields
        chosen = spec.model_dump(exclude={"method", "target", "sources", "seed", "overrides"})
        chosen["protocol"] = spec.protocol
        kept = {k: v for k, v in spec.overrides.items() if k.partition(".")[0] in settings}
        (alone,) = expand(
            (TARGET_ONLY,), (spec.target,), (spec.seed,), overrides=kept, planning=True, **chosen
        )
        run_id = prepare(alone, tasks=tasks, planning=True).run_id
        if not rivals.has(spec.target, TARGET_ONLY, alone.seed, run_id):
            found[run_id] = alone
    planned = {(spec.method, spec.target, spec.seed) for spec in specs}
    return [one for one in found.values() if (one.method, one.target, one.seed) not in planned]
