"""Did the sources help? Every method that uses sources against its target alone and one source.

A method *transfers negatively* on a target where it is worse than training on the target only; it has no
use for several sources where the best single one does as well.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import ResultError
from bench.evaluation import Correction, SeedComparison, adjust, compare_seeds
from bench.report.contenders import Contender, from_series
from bench.report.labels import row_names
from bench.report.plain import finite
from bench.report.select import Series, choose_task, choose_users, group_series

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["SINGLE_SOURCE", "TARGET_ONLY", "Gain", "TransferReport", "transfer", "transfer_record"]

TARGET_ONLY, SINGLE_SOURCE = "target-only", "source-only"
"""Methods that are trained on the target alone and on one source alone."""

Against = Literal["target-only", "best single source"]
Chosen = Literal["validation", "test", "the only one"]


@dataclass(frozen=True, slots=True)
class Gain:
    """What a method with sources gains over one without, or with one source.

    Attributes:
        target: target domain.
        method: label of the method with sources.
        sources: its sources.
        against: what it is compared with.
        baseline: label of the run behind ``against``.
        baseline_sources: its sources.
        chosen_by: how the best single source was chosen; "" for target-only.
        test: method minus baseline, over users and seeds.
        adjusted_p: corrected over all gains of the report.
        verdict: ``positive``, ``negative``, ``equivalent`` or ``not separated``; "(this checkpoint)"
            is added where a trained method has one seed.
    """

    target: str
    method: str
    sources: tuple[str, ...]
    against: Against
    baseline: str
    baseline_sources: tuple[str, ...]
    chosen_by: Chosen | Literal[""]
    test: SeedComparison
    adjusted_p: float
    verdict: str


@dataclass(frozen=True, slots=True)
class TransferReport:
    """All gains of some targets; one family of tests.

    Attributes:
        metric: what was compared.
        alpha: level.
        correction: over ``gains``.
        gains: by target, then method, then what it is compared with.
        notes: comparisons that are missing, and why.
    """

    metric: str
    alpha: float
    correction: Correction
    gains: tuple[Gain, ...]
    notes: tuple[str, ...]


def transfer(
    runs: Sequence[StoredRun],
    targets: Sequence[str],
    *,
    metric: str = "ndcg@5",
    profile: str | None = None,
    users: int | None = None,
    task: str | None = None,
    all_configs: bool = False,
    correction: Correction = "holm",
    alpha: float = 0.05,
    bound: float = 0.005,
) -> TransferReport:
    """Compare every method that uses sources with target-only and with the best single source.

    The baseline of a method is its own configuration without sources (or with one source) where such
    a run is stored, else the method ``target-only`` (or ``source-only``) of the same profile. The best
    single source is chosen by validation figures; where a candidate has none, by the test figures,
    which favours the baseline.

    Args:
        runs: any stored runs.
        targets: target domains; empty = all that have runs with sources.
        metric: what is compared.
        profile: only this profile; None = all.
        users: number of users; None = all of the task.
        task: first digits of a task hash (of a single target); None = the standard protocol.
        all_configs: also configurations other than the default.
        correction: over all gains of the report.
        alpha: level, in (0, 1).
        bound: equivalence bound.

    Raises:
        ResultError: no run with sources on these targets, or no baseline for any of them.
    """
    wanted = list(targets) or sorted({run.target for run in runs if run.sources})
    drafts: list[Gain] = []
    notes: list[str] = []
    for target in wanted:
        found, more = choose_task(runs, target, task)
        series, left_out = group_series(found, profile=profile, all_configs=all_configs)
        notes += [f"{target}: {note}" for note in (*more, *left_out)]
        rows, lacking = _rows(series, choose_users(found, users), metric)
        if lacking:
            notes.append(
                f"{target}: scored on other users and left out: {', '.join(lacking)}; compare over fewer "
                "with --users N."
            )
        drafts += _target_gains(target, rows, bound, metric, notes)
    if not drafts:
        why = " ".join(notes)
        raise ResultError(
            f"no transfer to report on {', '.join(wanted) or 'any target'}: expected runs of a method "
            f"with sources and of {TARGET_ONLY}, {SINGLE_SOURCE} or the same method with no or one "
            f"source. {why}".strip()
        )
    adjusted = adjust([gain.test.p for gain in drafts], correction).tolist()
    gains = tuple(
        replace(gain, adjusted_p=p, verdict=_verdict(gain.test, p, alpha))
        for gain, p in zip(drafts, adjusted, strict=True)
    )
    return TransferReport(metric, alpha, correction, gains, tuple(notes))


def _rows(
    series: Sequence[Series], users: NDArray[np.int32], metric: str
) -> tuple[list[Contender], list[str]]:
    """Rows over ``users``, and the names of those that have not scored them all."""
    names = row_names(series)
    found = {
        name: from_series(one, users, metric, name) for one, name in zip(series, names, strict=True)
    }
    rows = [found[name] for name in sorted(found)]
    return [row for row in rows if row], [name for name in sorted(found) if not found[name]]


def _target_gains(
    target: str, rows: Sequence[Contender], bound: float, metric: str, notes: list[str]
) -> list[Gain]:
    gains = []
    for row in rows:
        if not row.runs[0].sources or row.method == SINGLE_SOURCE:
            continue
        alone = _baselines(row, rows, 0)
        singles = [one for one in _baselines(row, rows, 1) if one is not row]
        if alone:
            gains.append(_gain(target, row, "target-only", alone[0], "", bound))
        else:
            notes.append(f"{target}: no {TARGET_ONLY} run for {row.label}.")
        if len(row.runs[0].sources) < 2:
            continue
        if singles:
            best, how = _best(singles, metric)
            gains.append(_gain(target, row, "best single source", best, how, bound))
        else:
            notes.append(f"{target}: no run with a single source for {row.label}.")
    return gains


def _baselines(row: Contender, rows: Sequence[Contender], n_sources: int) -> list[Contender]:
    """Rows to compare with: the method's own, else the general baseline of the profile."""
    run = row.runs[0]
    general = (TARGET_ONLY, SINGLE_SOURCE)[n_sources]
    own = [
        other
        for other in rows
        if other.method == row.method
        and other.runs[0].profile == run.profile
        and len(other.runs[0].sources) == n_sources
        and other.runs[0].config == run.config
    ]
    return own or [
        other for other in rows if other.method == general and other.runs[0].profile == run.profile
    ]


def _best(rows: Sequence[Contender], metric: str) -> tuple[Contender, Chosen]:
    """The best row by the mean over seeds of its best validation figure, else by its test mean."""
    if len(rows) == 1:
        return rows[0], "the only one"
    figures = [_validation(row, metric) for row in rows]
    if any(figure is None for figure in figures):
        return max(rows, key=lambda row: (row.mean, row.label)), "test"
    pairs = [(figure or 0.0, row.label) for figure, row in zip(figures, rows, strict=True)]
    return rows[pairs.index(max(pairs))], "validation"


def _validation(row: Contender, metric: str) -> float | None:
    """Best validation figure, mean over seeds: the metric itself where recorded, else NDCG@5."""
    best = []
    for run in row.runs:
        entries = run.manifest.get("validations") or []
        name = metric if all(metric in entry for entry in entries) else "ndcg@5"
        values = [float(entry[name]) for entry in entries if name in entry]
        if not values:
            return None
        best.append(max(values))
    return float(np.mean(best))


def _gain(
    target: str,
    row: Contender,
    against: Against,
    baseline: Contender,
    how: Chosen | Literal[""],
    bound: float,
) -> Gain:
    test = compare_seeds(
        row.values,
        baseline.values,
        trainable_a=row.trainable,
        trainable_b=baseline.trainable,
        bound=bound,
    )
    return Gain(
        target=target,
        method=row.label,
        sources=row.runs[0].sources,
        against=against,
        baseline=baseline.label,
        baseline_sources=baseline.runs[0].sources,
        chosen_by=how,
        test=test,
        adjusted_p=1.0,
        verdict="",
    )


def _verdict(test: SeedComparison, adjusted: float, alpha: float) -> str:
    if adjusted >= alpha:
        return "equivalent" if test.equivalent else "not separated"
    sign = "positive" if test.difference > 0 else "negative"
    return f"{sign} (this checkpoint)" if test.this_checkpoint else sign


def transfer_record(report: TransferReport) -> dict[str, Any]:
    """The report as plain values for JSON."""
    return {
        "metric": report.metric,
        "alpha": report.alpha,
        "correction": report.correction,
        "family_size": len(report.gains),
        "gains": [
            {**finite(asdict(gain)), "equivalent": gain.test.equivalent} for gain in report.gains
        ],
        "notes": list(report.notes),
    }
