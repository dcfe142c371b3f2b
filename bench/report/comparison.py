"""Stored runs side by side: the test of two runs, and every pair of several methods."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from html import escape
from itertools import combinations
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from bench.errors import ConfigError, ResultError, unknown_name
from bench.evaluation import (
    EQUIVALENCE_BOUND,
    Correction,
    RankInterval,
    SeedComparison,
    adjust,
    compare_seeds,
    mcnemar,
    metric_per_user,
    paired_bootstrap,
    rank_intervals,
    sign_flip_test,
)
from bench.report.contenders import Contender, require_comparable
from bench.report.frames import frame
from bench.report.pairwise_text import pairwise_rows, pairwise_text
from bench.report.plain import finite

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = [
    "SECONDARY",
    "Comparison",
    "Pair",
    "Pairwise",
    "compare",
    "compare_all",
    "pairwise_record",
]

Secondary = Literal["flips", "bootstrap", "mcnemar", "wilcoxon"]

SECONDARY: Sequence[str] = get_args(Secondary)
"""Further tests of the seed-averaged differences, printed on request beside the t-test."""


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
    test: SeedComparison


def compare(run: StoredRun, rival: StoredRun, metric: str = "ndcg@5") -> Comparison:
    """Compare two runs over the same users of the same task.

    Raises:
        ResultError: target, task, candidates or users differ; the message says which.
    """
    require_comparable(run, rival)
    a = metric_per_user(run.outcomes(), metric)
    b = metric_per_user(rival.outcomes(), metric)
    test = compare_seeds(a[None], b[None])
    return Comparison(run, rival, metric, float(a.mean()), float(b.mean()), test)


@dataclass(frozen=True, slots=True)
class Pair:
    """Two contenders and the tests of their difference.

    Attributes:
        a: label of the one with the higher mean (or of the method, against a declared reference).
        b: label of the other.
        test: a minus b over users and seeds.
        adjusted_p: its p-value after the correction over the family.
        secondary: p-values of the further tests asked for, on seed-averaged differences; None if
            a test does not apply.
        verdict: in words; never "equal" unless the equivalence bound holds.
    """

    a: str
    b: str
    test: SeedComparison
    adjusted_p: float
    secondary: dict[str, float | None]
    verdict: str


@dataclass(frozen=True, slots=True, repr=False)
class Pairwise:
    """Several methods on one target, pair by pair; it prints itself, and renders in a notebook.

    Attributes:
        target: target domain.
        task_hash: their common task.
        metric: what was compared.
        n_users: users compared.
        correction: over the family.
        alpha: level.
        reference: the declared reference, or "".
        contenders: best first.
        ranks: by label; empty if only a reference was compared with.
        pairs: the family of tests.
        notes: what was joined or left out.
    """

    target: str
    task_hash: str
    metric: str
    n_users: int
    correction: Correction
    alpha: float
    reference: str
    contenders: tuple[Contender, ...]
    ranks: dict[str, RankInterval]
    pairs: tuple[Pair, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return pairwise_text(self)

    def _repr_html_(self) -> str:
        return f"<pre>{escape(pairwise_text(self))}</pre>"

    def to_frame(self, kind: str = "pandas") -> Any:
        """One row per pair: ``a``, ``b``, ``difference``, ``lo``, ``hi``, ``p`` and others.

        Args:
            kind: ``pandas`` or ``polars``.

        Raises:
            ConfigError, MissingExtraError: as :func:`bench.report.frames.frame`.
        """
        rows = pairwise_rows(self)
        return frame(rows, list(rows[0]), kind)


def compare_all(
    contenders: Sequence[Contender],
    metric: str,
    *,
    reference: str | None = None,
    correction: Correction = "holm",
    alpha: float = 0.05,
    bound: float = EQUIVALENCE_BOUND,
    secondary: Sequence[str] = (),
    n_flips: int = 10_000,
    notes: Sequence[str] = (),
) -> Pairwise:
    """Test every pair of contenders, or all against one that was declared beforehand.

    Args:
        contenders: two or more over the same users, best first.
        metric: its name, for the record.
        reference: label or method name of the reference; None = all pairs.
        correction: over the pairs tested here, which are the family.
        alpha: level, in (0, 1).
        bound: equivalence bound, > 0.
        secondary: names of :data:`SECONDARY`.
        n_flips: random sign assignments of ``flips``.
        notes: what was joined or left out when the contenders were chosen.

    Raises:
        ResultError: fewer than two contenders.
        ConfigError: an unknown reference, correction or secondary test, or alpha or bound out of
            range.
    """
    if len(contenders) < 2:
        names = ", ".join(c.label for c in contenders) or "none"
        raise ResultError(
            f"one method at most to compare ({names}); expected two or more with stored runs over "
            "the same users. `bench runs list` shows what is stored."
        )
    if not 0.0 < alpha < 1.0 or not bound > 0.0:
        raise ConfigError(f"alpha={alpha}, bound={bound}; expected alpha in (0, 1), bound > 0.")
    for name in secondary:
        if name not in SECONDARY:
            raise unknown_name("test", name, SECONDARY)
    chosen = _pairs(contenders, reference)
    tests = [
        compare_seeds(
            a.values,
            b.values,
            trainable_a=a.trainable,
            trainable_b=b.trainable,
            bound=bound,
            wilcoxon="wilcoxon" in secondary,
        )
        for a, b in chosen
    ]
    adjusted = adjust([test.p for test in tests], correction).tolist()
    pairs = tuple(
        Pair(
            a.label,
            b.label,
            test,
            p,
            _secondary(a, b, test, secondary, n_flips),
            _verdict(a.label, b.label, test, p, alpha),
        )
        for (a, b), test, p in zip(chosen, tests, adjusted, strict=True)
    )
    first = contenders[0]
    return Pairwise(
        target=first.runs[0].target,
        task_hash=first.runs[0].task_hash,
        metric=metric,
        n_users=first.values.shape[1],
        correction=correction,
        alpha=alpha,
        reference=chosen[0][1].label if reference is not None else "",
        contenders=tuple(contenders),
        ranks={} if reference is not None else _ranks(contenders, alpha, correction),
        pairs=pairs,
        notes=tuple(notes),
    )


def _ranks(
    contenders: Sequence[Contender], alpha: float, correction: Correction
) -> dict[str, RankInterval]:
    return rank_intervals(
        {c.label: c.values for c in contenders},
        {c.label: c.trainable for c in contenders},
        alpha=alpha,
        correction=correction,
    )


def _pairs(
    contenders: Sequence[Contender], reference: str | None
) -> list[tuple[Contender, Contender]]:
    if reference is None:
        return list(combinations(contenders, 2))
    matches = [c for c in contenders if reference in (c.label, c.method)]
    if not matches:
        raise unknown_name("reference", reference, [c.label for c in contenders])
    if len(matches) > 1:
        names = ", ".join(c.label for c in matches)
        raise ConfigError(f"the reference {reference} means several: {names}. Give a full label.")
    return [(c, matches[0]) for c in contenders if c is not matches[0]]


def _secondary(
    a: Contender, b: Contender, test: SeedComparison, names: Sequence[str], n_flips: int
) -> dict[str, float | None]:
    d = a.values.mean(axis=0) - b.values.mean(axis=0)
    found: dict[str, float | None] = {}
    for name in names:
        if name == "flips":
            found[name] = sign_flip_test(d, n_flips).p
        elif name == "bootstrap":
            found[name] = paired_bootstrap(d).p
        elif name == "wilcoxon":
            found[name] = test.wilcoxon_p
        else:
            binary = all(len(c.values) == 1 and np.isin(c.values, (0.0, 1.0)).all() for c in (a, b))
            found[name] = mcnemar(a.values[0], b.values[0]).p if binary else None
    return found


def _verdict(a: str, b: str, test: SeedComparison, adjusted: float, alpha: float) -> str:
    within = f"within {test.bound:g}" if test.equivalent else ""
    if adjusted >= alpha:
        return f"equivalent, {within}" if within else "not separated"
    better = f"{a if test.difference > 0 else b} better"
    notes = [within] if within else []
    if test.this_checkpoint:
        notes.append("this checkpoint")
    elif not test.same_sign:
        notes.append("not in every pair of seeds")
    return f"{better} ({', '.join(notes)})" if notes else better


def pairwise_record(found: Pairwise) -> dict[str, Any]:
    """The comparison as plain values for JSON; unbounded numbers become None."""
    return {
        "target": found.target,
        "task_hash": found.task_hash,
        "metric": found.metric,
        "n_users": found.n_users,
        "test": "paired t over users and seeds, two-sided",
        "correction": found.correction,
        "alpha": found.alpha,
        "family_size": len(found.pairs),
        "reference": found.reference or None,
        "contenders": [
            {
                "label": c.label,
                "method": c.method,
                "imported": any(run.imported is not None for run in c.runs),
                "run_ids": [run.run_id for run in c.runs],
                "seeds": [run.seed for run in c.runs],
                "trainable": c.trainable,
                "mean": c.mean,
                "rank": None
                if c.label not in found.ranks
                else [found.ranks[c.label].best, found.ranks[c.label].worst],
            }
            for c in found.contenders
        ],
        "pairs": [
            {
                "a": pair.a,
                "b": pair.b,
                **finite(asdict(pair.test)),
                "equivalent": pair.test.equivalent,
                "adjusted_p": pair.adjusted_p,
                "secondary": pair.secondary,
                "verdict": pair.verdict,
            }
            for pair in found.pairs
        ],
        "notes": list(found.notes),
    }
