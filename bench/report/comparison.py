"""A stored run beside others: the paired test, in a few lines for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import ResultError
from bench.evaluation import PairedTest, metric_per_user, paired_t_test

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["Comparison", "compare", "comparison_lines"]


@dataclass(frozen=True, slots=True)
class Comparison:
    """A paired test of two runs.

    Attributes:
        run: the run in question.
        rival: the other one.
        metric: what was compared.
        mean: the run's mean.
        rival_mean: the rival's mean.
        test: ``run`` minus ``rival``.
    """

    run: StoredRun
    rival: StoredRun
    metric: str
    mean: float
    rival_mean: float
    test: PairedTest


def compare(run: StoredRun, rival: StoredRun, metric: str = "ndcg@5") -> Comparison:
    """Compare two runs over the same users of the same task.

    Raises:
        ResultError: target, task, candidates or users differ; the message says which.
    """
    checks = (
        ("target", run.target, rival.target),
        ("task", run.task_hash, rival.task_hash),
        ("candidates", run.candidates_hash, rival.candidates_hash),
        ("users", run.users_hash, rival.users_hash),
    )
    for name, ours, theirs in checks:
        if ours != theirs:
            raise ResultError(
                f"runs {run.run_id} and {rival.run_id} are not comparable: their {name} differ "
                f"({ours[:12]} and {theirs[:12]}). Run one of them again with the other's options."
            )
    a = metric_per_user(run.outcomes(), metric)
    b = metric_per_user(rival.outcomes(), metric)
    return Comparison(run, rival, metric, float(a.mean()), float(b.mean()), paired_t_test(a, b))


def comparison_lines(
    run: StoredRun, rivals: Sequence[StoredRun], metric: str = "ndcg@5"
) -> list[str]:
    """The lines that end a run: its test against the best stored rival.

    Args:
        run: the run that has just ended.
        rivals: comparable runs, in any order; the one with the best mean counts.
        metric: what is compared.

    Returns:
        Three lines, or one when there is no rival.

    Raises:
        ResultError: a rival is not comparable.
    """
    if not rivals:
        return [f"No stored run of another method to compare with on task {run.task_hash[:10]}."]
    found = [compare(run, rival, metric) for rival in rivals]
    best = min(found, key=lambda c: (-c.rival_mean, c.rival.method, c.rival.run_id))
    test = best.test
    name = metric.upper()
    low, high = test.ci95
    p = "p < 0.0001" if test.p < 1e-4 else f"p = {test.p:.4f}"
    interval = f"[{low:+.4f}, {high:+.4f}]" if math.isfinite(low) else "unbounded"
    verdict = _verdict(best)
    return [
        f"{run.method} {best.mean:.4f}, best stored rival {best.rival.method} "
        f"{best.rival_mean:.4f} {name} (run {best.rival.run_id[:8]}, {test.n:,} users)",
        f"difference {test.difference:+.4f}, 95 % CI {interval}, paired t-test {p}; "
        f"{test.wins:,} users better, {test.ties:,} equal, {test.losses:,} worse",
        verdict,
    ]


def _verdict(found: Comparison) -> str:
    """One sentence that never calls "not significant" equal."""
    test = found.test
    power = test.minimum_detectable
    reach = (
        f"a test of this size finds differences of {power:.4f} with 80 % power"
        if math.isfinite(power)
        else "one user decides nothing"
    )
    if test.p < 0.05:
        which = "better" if test.difference > 0 else "worse"
        return f"significantly {which} on these users for these two trained models; {reach}"
    return f"no significant difference; {reach}"
