"""Do the conclusions depend on the candidates? Full ranking, and other draws of the negatives.

Everything comes from the request sets that runs were scored on by the same fit: the whole catalogue, and
the task's candidates drawn with other seeds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ResultError
from bench.evaluation import metric_per_user
from bench.report.labels import row_names
from bench.report.plain import finite
from bench.report.select import Series, choose_task, choose_users, group_series, restrict

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = [
    "FullRow",
    "RobustnessReport",
    "SpreadRow",
    "examine",
    "kendall_tau",
    "robustness",
    "robustness_record",
]

FULL_METRICS: tuple[str, ...] = ("hr@10", "ndcg@10")
"""What the companion table of full ranking shows."""


@dataclass(frozen=True, slots=True)
class FullRow:
    """A method under full ranking.

    Attributes:
        label: its name.
        seeds: training seeds that were scored on the whole catalogue.
        sampled: mean of the primary metric among the task's candidates, over the same seeds.
        full: means under full ranking, by metric.
    """

    label: str
    seeds: tuple[int, ...]
    sampled: float
    full: dict[str, float]


@dataclass(frozen=True, slots=True)
class SpreadRow:
    """A method under several draws of the candidates.

    Attributes:
        label: its name.
        seeds: training seeds behind every mean.
        means: mean of the primary metric, by candidate seed.
        sd: standard deviation over the draws (ddof 1).
        span: largest minus smallest mean.
    """

    label: str
    seeds: tuple[int, ...]
    means: dict[int, float]
    sd: float
    span: float


@dataclass(frozen=True, slots=True)
class RobustnessReport:
    """How far the table of a target depends on its candidates.

    Attributes:
        target: target domain.
        task_hash: task.
        metric: primary metric.
        n_users: users scored.
        full: methods scored on the whole catalogue, best NDCG@10 first.
        tau_full: Kendall's tau-b between the orders by the primary metric among candidates and by
            NDCG@10 under full ranking; None with fewer than two methods or all equal.
        spread: methods scored on every one of ``candidate_seeds``, best first.
        candidate_seeds: draws, the task's own first.
        tau_seeds: smallest tau-b between the orders of two draws; None like ``tau_full``.
        difference_sd: largest standard deviation over draws of the difference of two methods: what
            redrawing the candidates adds to a comparison. None with fewer than two methods.
        notes: what is missing, with the command that adds it.
    """

    target: str
    task_hash: str
    metric: str
    n_users: int
    full: tuple[FullRow, ...]
    tau_full: float | None
    spread: tuple[SpreadRow, ...]
    candidate_seeds: tuple[int, ...]
    tau_seeds: float | None
    difference_sd: float | None
    notes: tuple[str, ...]


def robustness(
    runs: Sequence[StoredRun],
    target: str,
    *,
    metric: str = "ndcg@5",
    profile: str | None = None,
    users: int | None = None,
    task: str | None = None,
    all_configs: bool = False,
) -> RobustnessReport:
    """Build the report of one target; arguments as :func:`examine`.

    Raises:
        ResultError: no runs of the target, or none with a further request set.
    """
    report = examine(
        runs,
        target,
        metric=metric,
        profile=profile,
        users=users,
        task=task,
        all_configs=all_configs,
    )
    if not report.full and not report.spread:
        raise ResultError(
            f"no run of {target} was scored on the whole catalogue or on other candidates; expected "
            f"at least one. {report.notes[0]}"
        )
    return report


def examine(
    runs: Sequence[StoredRun],
    target: str,
    *,
    metric: str = "ndcg@5",
    profile: str | None = None,
    users: int | None = None,
    task: str | None = None,
    all_configs: bool = False,
) -> RobustnessReport:
    """The report of one target; without rows if no run has a further request set.

    Args:
        runs: any stored runs.
        target: target domain.
        metric: primary metric among the task's candidates.
        profile: only this profile; None = all.
        users: number of users; None = all of the task.
        task: first digits of a task hash; None = the standard protocol.
        all_configs: also configurations other than the default.

    Raises:
        ResultError: no runs of the target.
    """
    found, notes = choose_task(runs, target, task)
    chosen = choose_users(found, users)
    series, more = group_series(found, profile=profile, all_configs=all_configs)
    labels = row_names(series)
    scored = [
        (label, covering)
        for label, one in zip(labels, series, strict=True)
        if (covering := _with_sets(one, chosen))
    ]
    own_seed = int(found[0].manifest["task"].get("options", {}).get("candidate_seed", 0))
    full = [one for label, having in scored if (one := _full(label, having, chosen, metric))]
    draws = _common_draws(scored)
    spread = [
        row
        for label, row_runs in scored
        if (row := _spread(label, row_runs, chosen, metric, own_seed, draws))
    ]
    notes = _lacking(target, series, labels, full, spread) + notes
    full.sort(key=lambda row: (-row.full["ndcg@10"], row.label))
    spread.sort(key=lambda row: (-row.means[own_seed], row.label))
    matrix = np.array([list(row.means.values()) for row in spread])
    return RobustnessReport(
        target=target,
        task_hash=found[0].task_hash,
        metric=metric,
        n_users=len(chosen),
        full=tuple(full),
        tau_full=kendall_tau([r.sampled for r in full], [r.full["ndcg@10"] for r in full]),
        spread=tuple(spread),
        candidate_seeds=(own_seed, *draws) if spread else (),
        tau_seeds=_least_tau(matrix),
        difference_sd=_difference_sd(matrix),
        notes=tuple(notes + more),
    )


def _lacking(
    target: str,
    series: Sequence[Series],
    labels: Sequence[str],
    full: Sequence[FullRow],
    spread: Sequence[SpreadRow],
) -> list[str]:
    """Rows without further request sets, with the command that adds them."""
    with_full, with_draws = ({row.label for row in rows} for rows in (full, spread))
    methods = dict(zip(labels, (one.first.method for one in series), strict=True))
    absent: dict[str, list[str]] = {}
    for label in sorted(methods):
        lacks = ["full ranking"] * (label not in with_full)
        lacks += ["the other candidate seeds"] * (label not in with_draws)
        if lacks:
            absent.setdefault(" and ".join(lacks), []).append(label)
    found = []
    for what, names in sorted(absent.items()):
        command = _command(",".join(sorted({methods[name] for name in names})), target)
        found.append(f"Without {what}: {', '.join(names)}; `{command}` adds it.")
    return found


def kendall_tau(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Kendall's tau-b of two orders of the same methods; None if it is not defined."""
    from scipy import stats

    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(stats.kendalltau(a, b).statistic)


def _command(methods: str, target: str) -> str:
    return f"bench run --method {methods} --target {target} --candidate-seed 0,1,2 --also-full"


def _with_sets(series: Series, users: NDArray[np.int32]) -> list[StoredRun]:
    """One run per seed over ``users``, those with further request sets first."""
    richest = Series(
        tuple(sorted(series.runs, key=lambda r: (-len(r.sets), r.seed, r.run_id))), True, ()
    )
    return richest.covering(users)


def _set_hash(run: StoredRun, kind: str, seed: int | None = None) -> str | None:
    for key, described in run.sets.items():
        if described["kind"] == kind and described.get("candidate_seed") == seed:
            return key
    return None


def _mean(
    run: StoredRun, users: NDArray[np.int32], metric: str, candidates: str | None = None
) -> float:
    return float(metric_per_user(restrict(run, users, candidates), metric).mean())


def _full(
    label: str, runs: Sequence[StoredRun], users: NDArray[np.int32], metric: str
) -> FullRow | None:
    having = [(run, key) for run in runs if (key := _set_hash(run, "full"))]
    if not having:
        return None
    return FullRow(
        label=label,
        seeds=tuple(run.seed for run, _ in having),
        sampled=float(np.mean([_mean(run, users, metric) for run, _ in having])),
        full={
            name: float(np.mean([_mean(run, users, name, key) for run, key in having]))
            for name in FULL_METRICS
        },
    )


def _draws(run: StoredRun) -> set[int]:
    return {int(s["candidate_seed"]) for s in run.sets.values() if s["kind"] == "candidates"}


def _common_draws(scored: Sequence[tuple[str, Sequence[StoredRun]]]) -> tuple[int, ...]:
    """Candidate seeds that every method with any further draw was scored on."""
    per_method = [set.union(*map(_draws, runs)) for _, runs in scored]
    having = [draws for draws in per_method if draws]
    return tuple(sorted(set.intersection(*having))) if having else ()


def _spread(
    label: str,
    runs: Sequence[StoredRun],
    users: NDArray[np.int32],
    metric: str,
    own_seed: int,
    draws: Sequence[int],
) -> SpreadRow | None:
    having = [run for run in runs if set(draws) <= _draws(run)]
    if not draws or not having:
        return None
    means = {own_seed: float(np.mean([_mean(run, users, metric) for run in having]))}
    for seed in draws:
        keys = [_set_hash(run, "candidates", seed) for run in having]
        means[seed] = float(
            np.mean([_mean(run, users, metric, k) for run, k in zip(having, keys, strict=True)])
        )
    values = np.array(list(means.values()))
    return SpreadRow(
        label=label,
        seeds=tuple(run.seed for run in having),
        means=means,
        sd=float(values.std(ddof=1)),
        span=float(values.max() - values.min()),
    )


def _least_tau(matrix: NDArray[np.float64]) -> float | None:
    """Smallest tau between two columns of a matrix of methods x draws."""
    if len(matrix) < 2:
        return None
    n = matrix.shape[1]
    found = [
        tau
        for i in range(n)
        for j in range(i)
        if (tau := kendall_tau(matrix[:, i].tolist(), matrix[:, j].tolist())) is not None
    ]
    return min(found) if found else None


def _difference_sd(matrix: NDArray[np.float64]) -> float | None:
    """Largest standard deviation over draws of the difference of two methods."""
    if len(matrix) < 2:
        return None
    differences = [a - b for i, a in enumerate(matrix) for b in matrix[:i]]
    return float(max(d.std(ddof=1) for d in differences))


def robustness_record(report: RobustnessReport) -> dict[str, Any]:
    """The report as plain values for JSON."""
    record: dict[str, Any] = finite(asdict(report))
    for row in record["spread"]:
        row["means"] = {str(seed): mean for seed, mean in row["means"].items()}
    return record
