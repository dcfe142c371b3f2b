"""Did the sources help? Every method that uses sources against its target alone and one source.

A method *transfers negatively* on a target if it is worse than training on the target only; it has no
use for several sources if the best single one does as well.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from bench.errors import ResultError
from bench.evaluation import (
    EQUIVALENCE_BOUND,
    Correction,
    SeedComparison,
    adjust,
    compare_seeds,
)
from bench.report.contenders import Contender, from_series
from bench.report.labels import row_names
from bench.report.plain import finite
from bench.report.select import Series, choose_task, choose_users, group_series
from bench.runs.budgets import is_short

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = [
    "OUTCOMES",
    "SINGLE_SOURCE",
    "TARGET_ONLY",
    "Gain",
    "Missing",
    "NoTransferError",
    "TransferReport",
    "baseline_text",
    "transfer",
    "transfer_of",
    "transfer_record",
]

TARGET_ONLY, SINGLE_SOURCE = "target-only", "source-only"
"""Methods that are trained on the target alone and on one source alone."""

Against = Literal["target-only", "best single source"]
Chosen = Literal["validation", "test", "the only one"]
Outcome = Literal["positive", "negative", "equivalent", "not separated"]

OUTCOMES: Sequence[Outcome] = get_args(Outcome)
"""What a gain can turn out to be."""

_NO_BASELINE: Mapping[Against, str] = {
    "target-only": f"no {TARGET_ONLY} run",
    "best single source": "no run with a single source",
}


class NoTransferError(ResultError):
    """No stored run has sources and a baseline."""


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
        outcome: ``positive`` or ``negative``: significantly above or below the baseline; else
            ``equivalent`` if the interval lies within the bound, or ``not separated``.
        short: whether a run of either was trained too little to stand for its method.
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
    outcome: Outcome
    short: bool = False

    @property
    def verdict(self) -> str:
        """The outcome; a significant one notes a trained method with one seed."""
        one_seed = self.test.this_checkpoint and self.outcome in ("positive", "negative")
        return f"{self.outcome} (this checkpoint)" if one_seed else self.outcome


@dataclass(frozen=True, slots=True)
class Missing:
    """A comparison that no stored run serves.

    Attributes:
        method: label of the method with sources.
        runs: its runs, by seed.
        against: what it cannot be compared with.
    """

    method: str
    runs: tuple[StoredRun, ...]
    against: Against


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
    bound: float = EQUIVALENCE_BOUND,
) -> TransferReport:
    """Compare every method that uses sources with target-only and with the best single source.

    The baseline of a method is its own run without sources (or, in the same configuration, with one
    source) if such a run is stored, else the method ``target-only`` (or ``source-only``) of the same
    profile and backbone; of several, those in the configuration nearest to the method's. The best
    single source is chosen by validation figures; if a candidate has none, by the test figures,
    which favours the baseline.

    Args:
        runs: any stored runs.
        targets: target domains; empty = all that have runs with sources.
        metric: what is compared.
        profile: only this profile; None = all.
        users: number of users; None = all of the task.
        task: first digits of a task hash (of a single target); None = the standard protocol.
        all_configs: also the gains of configurations other than the default.
        correction: over all gains of the report.
        alpha: level, in (0, 1).
        bound: equivalence bound.

    Raises:
        NoTransferError: no run with sources on these targets, or no baseline for any of them.
    """
    wanted = list(targets) or sorted({run.target for run in runs if run.sources})
    drafts: list[Gain] = []
    notes: list[str] = []
    for target in wanted:
        found, more = choose_task(runs, target, task)
        # A run without sources is a configuration of its own: other settings may serve as baselines.
        series, left_out = group_series(found, profile=profile, all_configs=True)
        notes += [f"{target}: {note}" for note in (*more, *left_out)]
        rows, lacking, defaults = _rows(series, choose_users(found, users), metric)
        if lacking:
            notes.append(
                f"{target}: scored on other users and left out: {', '.join(lacking)}; compare over fewer "
                "with --users N."
            )
        for row in rows:
            if row.label not in defaults and not all_configs:
                continue
            gains, missing = _row_gains(row, rows, bound, metric)
            drafts += gains
            notes += [f"{target}: {_NO_BASELINE[one.against]} for {row.label}." for one in missing]
    if not drafts:
        why = " ".join(notes)
        raise NoTransferError(
            f"no transfer to report on {', '.join(wanted) or 'any target'}: expected runs of a method "
            f"with sources and of {TARGET_ONLY}, {SINGLE_SOURCE} or the same method with no or one "
            f"source. {why}".strip()
        )
    return TransferReport(
        metric, alpha, correction, _judged(drafts, correction, alpha), tuple(notes)
    )


def transfer_of(
    runs: Sequence[StoredRun],
    pool: Iterable[StoredRun],
    *,
    metric: str = "ndcg@5",
    correction: Correction = "holm",
    alpha: float = 0.05,
    bound: float = EQUIVALENCE_BOUND,
) -> tuple[TransferReport, tuple[Missing, ...]]:
    """The gains of some runs alone, whatever their configuration, as :func:`transfer` finds them.

    Args:
        runs: one or more of one task over the same users; further seeds of them in ``pool`` count.
        pool: stored runs to compare with; those of other tasks are passed over.
        metric: what is compared.
        correction: over the gains of these runs.
        alpha: level, in (0, 1).
        bound: equivalence bound.

    Returns:
        The report, empty if nothing can be compared, and the comparisons without a baseline.
    """
    first = runs[0]
    every = {run.run_id: run for run in (*pool, *runs) if run.task_hash == first.task_hash}
    series, _ = group_series(every.values(), profile=None, all_configs=True)
    rows, *_ = _rows(series, first.users, metric)
    wanted = {run.run_id for run in runs}
    drafts: list[Gain] = []
    missing: list[Missing] = []
    for row in rows:
        if wanted & {run.run_id for run in row.runs}:
            found, lacking = _row_gains(row, rows, bound, metric)
            drafts += found
            missing += lacking
    gains = _judged(drafts, correction, alpha)
    return TransferReport(metric, alpha, correction, gains, ()), tuple(missing)


def _judged(drafts: Sequence[Gain], correction: Correction, alpha: float) -> tuple[Gain, ...]:
    """The gains with p adjusted over all of them, and their outcomes."""
    if not drafts:
        return ()
    adjusted = adjust([gain.test.p for gain in drafts], correction).tolist()
    return tuple(
        replace(gain, adjusted_p=p, outcome=_outcome(gain.test, p, alpha))
        for gain, p in zip(drafts, adjusted, strict=True)
    )


def _rows(
    series: Sequence[Series], users: NDArray[np.int32], metric: str
) -> tuple[list[Contender], list[str], set[str]]:
    """Rows over ``users``, names of those that have not scored them all, and of default ones."""
    names = row_names(series)
    found = {
        name: from_series(one, users, metric, name) for one, name in zip(series, names, strict=True)
    }
    rows = [row for name in sorted(found) if (row := found[name])]
    lacking = [name for name in sorted(found) if not found[name]]
    return rows, lacking, {n for one, n in zip(series, names, strict=True) if one.is_default}


def _row_gains(
    row: Contender, rows: Sequence[Contender], bound: float, metric: str
) -> tuple[list[Gain], list[Missing]]:
    """What one row gains over its baselines among ``rows``; none if it has no sources."""
    sources = row.runs[0].sources
    if not sources or row.method == SINGLE_SOURCE:
        return [], []
    gains: list[Gain] = []
    missing: list[Missing] = []
    alone = _baselines(row, rows, 0)
    if alone:
        gains.append(_gain(row, "target-only", alone[0], "", bound))
    else:
        missing.append(Missing(row.label, row.runs, "target-only"))
    if len(sources) < 2:
        return gains, missing
    singles = _baselines(row, rows, 1)
    if singles:
        best, how = _best(singles, metric)
        gains.append(_gain(row, "best single source", best, how, bound))
    else:
        missing.append(Missing(row.label, row.runs, "best single source"))
    return gains, missing


def _baselines(row: Contender, rows: Sequence[Contender], n_sources: int) -> list[Contender]:
    """Rows to compare with: the method's own, else the general baseline of profile and backbone.

    A method's own run without sources counts if nothing but its pre-training differs. Of several
    configurations of the general baseline those count that are nearest to the row's.
    """
    run = row.runs[0]
    general = (TARGET_ONLY, SINGLE_SOURCE)[n_sources]
    fitting = [
        other
        for other in rows
        if other is not row
        and other.runs[0].profile == run.profile
        and len(other.runs[0].sources) == n_sources
        and other.runs[0].config.get("backbone") == run.config.get("backbone")
    ]
    own = [
        one
        for one in fitting
        if one.method == row.method and _settings(one, n_sources) == _settings(row, n_sources)
    ]
    return own or _nearest([one for one in fitting if one.method == general], run)


def _settings(row: Contender, n_sources: int) -> dict[str, Any]:
    """The settings in which a method's own run with fewer sources may not differ."""
    config = dict(row.runs[0].config)
    if n_sources:
        return config
    return {k: v for k, v in config.items() if not k.startswith("pretrain") and k != "checkpoint"}


def _nearest(rows: Sequence[Contender], run: StoredRun) -> list[Contender]:
    """Those of the rows whose settings differ least from the run's."""
    found = [(_n_differences(one.runs[0], run), one) for one in rows]
    least = min((n for n, _ in found), default=0)
    return [one for n, one in found if n == least]


def _n_differences(a: StoredRun, b: StoredRun) -> int:
    """In how many settings that both have the configurations differ."""
    return sum(a.config[key] != b.config[key] for key in a.config.keys() & b.config.keys())


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
    """Best validation figure, mean over seeds: the metric itself if recorded, else NDCG@5."""
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
        target=row.runs[0].target,
        method=row.label,
        sources=row.runs[0].sources,
        against=against,
        baseline=baseline.label,
        baseline_sources=baseline.runs[0].sources,
        chosen_by=how,
        test=test,
        adjusted_p=1.0,
        outcome="not separated",
        short=any(is_short(run) for run in (*row.runs, *baseline.runs)),
    )


def _outcome(test: SeedComparison, adjusted: float, alpha: float) -> Outcome:
    if adjusted >= alpha:
        return "equivalent" if test.equivalent else "not separated"
    return "positive" if test.difference > 0 else "negative"


def baseline_text(gain: Gain) -> str:
    """The run behind a gain's baseline, its sources, and how it was chosen of several.

    A label has its sources if several runs differ in them; elsewhere they are added.
    """
    sources = "+".join(gain.baseline_sources)
    told = not sources or f"sources {sources}" in gain.baseline
    text = gain.baseline if told else f"{gain.baseline} ({sources})"
    return text + (f", by {gain.chosen_by}" if gain.chosen_by in ("validation", "test") else "")


def transfer_record(report: TransferReport) -> dict[str, Any]:
    """The report as plain values for JSON."""
    return {
        "metric": report.metric,
        "alpha": report.alpha,
        "correction": report.correction,
        "family_size": len(report.gains),
        "gains": [
            {
                **finite(asdict(gain)),
                "verdict": gain.verdict,
                "equivalent": gain.test.equivalent,
            }
            for gain in report.gains
        ],
        "notes": list(report.notes),
    }
