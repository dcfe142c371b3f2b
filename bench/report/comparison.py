"""Two stored runs side by side: the paired test over the same users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.errors import ResultError
from bench.evaluation import PairedTest, metric_per_user, paired_t_test

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["Comparison", "compare"]


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
