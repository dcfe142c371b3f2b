"""Stored runs to the rows of a table, with the per-user values that tests need."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.evaluation import (
    Outcomes,
    TieReport,
    bootstrap_interval,
    metric_per_user,
    random_row,
    tie_report,
)
from bench.report.select import Series, restrict
from bench.report.table import Cost, Figure, Row
from bench.runs.budgets import judge

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["RANDOM", "Measured", "count_candidates", "measured", "random_measured"]

RANDOM = "random"
ENOUGH_VALID = 0.95
"""Share of generated answers with a candidate below which a row is marked: it shows how often the format
was missed, not how well candidates are ranked."""

_DECIMALS = 12


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """A row and what its tests are made of.

    Attributes:
        row: the row.
        values: float64, shape ``(S, n)``: the primary metric per seed and user.
        trainable: whether another training seed would change them.
    """

    row: Row
    values: NDArray[np.float64]
    trainable: bool


def measured(
    one: Series,
    runs: Sequence[StoredRun],
    users: NDArray[np.int32],
    label: str,
    metrics: Sequence[str],
    primary: str,
    ci: bool,
) -> Measured:
    """One row over ``users``, averaged over the seeds of ``runs``."""
    outcomes = [restrict(run, users) for run in runs]
    figures = {}
    for metric in metrics:
        total = metric_per_user(outcomes[0], metric)
        for other in outcomes[1:]:
            total = total + metric_per_user(other, metric)
        figures[metric] = _figure(total / len(outcomes), ci)
    record = one.first.manifest
    ties = [tie_report(one_seed, metrics) for one_seed in outcomes]
    flags = ["transductive"] if record["method"].get("transductive") else []
    flags += ["ties"] if any(report.needs_footnote for report in ties) else []
    valid = _share_valid(runs)
    flags += ["invalid"] if valid is not None and valid < ENOUGH_VALID else []
    flags += ["imported"] if any(run.imported is not None for run in runs) else []
    flags += ["unchecked"] if any(_is_unchecked(run) for run in runs) else []
    share = _budget_share(runs)
    flags += ["budget"] if share is not None else []
    gap, tie_metric = _largest_gap(ties)
    fit = _mean_of(runs, lambda run: run.manifest["seconds"].get("fit"))
    values = np.stack([metric_per_user(one_seed, primary) for one_seed in outcomes])
    n_seen, unseen = _without_adapted(runs, users, values)
    row = Row(
        method=one.first.method,
        label=label,
        family=one.first.family,
        profile=one.first.profile,
        seeds=tuple(run.seed for run in runs),
        n_users=len(users),
        figures=figures,
        run_ids=tuple(run.run_id for run in runs),
        config=one.first.config,
        sources=one.first.sources,
        flags=tuple(flags),
        share_tied=round(math.fsum(report.share_tied for report in ties) / len(ties), _DECIMALS),
        tie_gap=gap,
        tie_metric=tie_metric,
        share_valid=valid,
        n_adapted_on=n_seen,
        unseen=unseen,
        seconds_fit=fit,
        budget_share=share,
        cost=_cost(runs),
    )
    return Measured(row, values, bool(record["method"].get("trainable", True)))


def _is_unchecked(run: StoredRun) -> bool:
    """Whether a plugin made the run that had not passed the conformance kit."""
    method = run.manifest["method"]
    return bool(method.get("plugin_sha256")) and method.get("conformance") != "passed"


def _budget_share(runs: Sequence[StoredRun]) -> float | None:
    """The smallest share of the authors' training that a run had which was trained too little."""
    shares = [found.share for run in runs if (found := judge(run)) is not None]
    return min((round(share, _DECIMALS) for share in shares if share is not None), default=None)


def _share_valid(runs: Sequence[StoredRun]) -> float | None:
    """Share of generated answers that name at least one candidate; None if none were generated.

    Counters are kept for all users of a run, so that a table over fewer users shows the run's share.
    """
    shares = []
    for run in runs:
        counters = run.manifest.get("diagnostics") or {}
        named, asked = counters.get("answers_with_a_title"), counters.get("n_prompts")
        if named is None or not asked:
            return None
        shares.append(named / asked)
    return round(math.fsum(shares) / len(shares), _DECIMALS)


def _without_adapted(
    runs: Sequence[StoredRun], users: NDArray[np.int32], values: NDArray[np.float64]
) -> tuple[int, float | None]:
    """Users whose test request was adapted on, most of any seed, and the mean over the others."""
    named = [(run.manifest.get("training") or {}).get("adapted_on_users", []) for run in runs]
    seen = np.stack([np.isin(users, ids) for ids in named])
    if not seen.any() or seen.all(axis=1).any():
        return int(seen.sum(axis=1).max()), None
    means = [one[~out].mean() for one, out in zip(values, seen, strict=True)]
    return int(seen.sum(axis=1).max()), round(float(np.mean(means)), _DECIMALS)


def _largest_gap(ties: Sequence[TieReport]) -> tuple[float, str]:
    """The largest gap of any seed between the best and the worst order of ties, and its metric."""
    gaps: dict[str, float] = {}
    for report in ties:
        for metric, figures in report.metrics.items():
            gaps[metric] = max(gaps.get(metric, 0.0), round(figures.gap, _DECIMALS))
    metric = max(gaps, key=lambda name: gaps[name])
    return gaps[metric], metric


def _cost(runs: Sequence[StoredRun]) -> Cost:
    def own(run: StoredRun) -> float | None:
        seconds = run.manifest["seconds"]
        fit, score = seconds.get("fit"), seconds.get("score")
        return None if fit is None or score is None else float(fit) + float(score)

    found = [(run.manifest.get("peak_memory") or {}).get("mb") for run in runs]
    peaks = [float(peak) for peak in found if peak is not None]
    return Cost(
        own=_mean_of(runs, own),
        total=_mean_of(runs, lambda run: run.manifest["seconds"].get("total_with_adapters")),
        memory_mb=max(peaks) if peaks and len(peaks) == len(found) else None,
    )


def _mean_of(runs: Sequence[StoredRun], read: Callable[[StoredRun], float | None]) -> float | None:
    """Mean over runs to a millisecond; None if one of them does not record it."""
    values = [read(run) for run in runs]
    known = [float(value) for value in values if value is not None]
    return round(math.fsum(known) / len(known), 3) if known and len(known) == len(values) else None


def _figure(values: NDArray[np.float64], ci: bool) -> Figure:
    # fsum is exact, so that the mean does not depend on how a processor orders the additions.
    mean = round(math.fsum(values.tolist()) / len(values), _DECIMALS)
    if not ci:
        return Figure(mean)
    low, high = bootstrap_interval(values)
    return Figure(mean, (round(low, _DECIMALS), round(high, _DECIMALS)))


def count_candidates(runs: Sequence[StoredRun], users: NDArray[np.int32]) -> NDArray[np.int32]:
    """Candidates that compete, per user of the main block (or of any run, if none has them)."""
    one = Series(tuple(runs), True, ())
    covering = one.covering(users)
    if covering:
        return restrict(covering[0], users).n_candidates
    return one.widest()[0].outcomes().n_candidates


def random_measured(
    n_candidates: NDArray[np.int32], n_users: int, metrics: Sequence[str], primary: str, ci: bool
) -> Measured:
    """The closed-form row: what a scorer that knows nothing gets in expectation."""
    means = random_row(n_candidates, metrics)
    figures = {}
    for metric, mean in means.items():
        value = round(mean, _DECIMALS)
        figures[metric] = Figure(value, (value, value) if ci else None)
    row = Row(
        method=RANDOM,
        label=f"{RANDOM} (closed form)",
        family="reference",
        profile="",
        seeds=(),
        n_users=n_users,
        figures=figures,
    )
    nothing = np.zeros_like(n_candidates)
    constant = Outcomes(
        nothing, n_candidates - 1, n_candidates, np.ones(len(n_candidates), dtype=np.bool_)
    )
    return Measured(row, metric_per_user(constant, primary)[None, :], False)
