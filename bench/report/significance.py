"""The tests behind the signs of a table: one family over all of its targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.errors import unknown_name
from bench.evaluation.corrections import Correction
from bench.evaluation.rank_intervals import rank_intervals
from bench.evaluation.seeds import compare_seeds
from bench.evaluation.stars import StarVerdict, beats_reference, star_family
from bench.report.rows import Measured
from bench.report.table import Significance, Table

__all__ = ["ALPHA", "CORRECTION", "TEST", "Draft", "with_signs"]

ALPHA = 0.05
CORRECTION: Correction = "holm"
TEST = "paired t-test with seed variance"
_DIGITS = 6


@dataclass(frozen=True, slots=True, eq=False)
class Draft:
    """A table whose signs are not decided yet, with what decides them.

    Attributes:
        table: the table.
        measured: the rows of its main block that have figures.
    """

    table: Table
    measured: tuple[Measured, ...]


def with_signs(drafts: Sequence[Draft], reference: str | None = None) -> tuple[Table, ...]:
    """Decide ``*`` and ``^`` for tables that are printed together.

    Args:
        drafts: one per target.
        reference: label or method name of the declared reference; None = no ``^``.

    Returns:
        The tables with signs and :class:`~bench.report.table.Significance`, in the given order.

    Raises:
        ConfigError: no row of any table is the reference.
    """
    values: dict[str, Mapping[str, NDArray[np.float64]]] = {}
    trainable: dict[str, bool] = {}
    for draft in drafts:
        named = {one.row.name: one for one in draft.measured}
        values[draft.table.target] = {key: one.values for key, one in named.items()}
        for key, one in named.items():
            # A label can mean a trained model on one target only if it does on all.
            trainable[key] = trainable.get(key, False) or one.trainable
    stars = star_family(values, trainable, alpha=ALPHA, correction=CORRECTION)
    chosen = None if reference is None else _reference(drafts, reference)
    above = (
        {}
        if chosen is None
        else beats_reference(values, trainable, chosen, alpha=ALPHA, correction=CORRECTION)
    )
    return tuple(_signed(draft, values, trainable, stars, above, chosen) for draft in drafts)


def _reference(drafts: Sequence[Draft], reference: str) -> str:
    rows = [one.row for draft in drafts for one in draft.measured]
    for key in ("name", "label", "method"):
        found = sorted({row.name for row in rows if getattr(row, key) == reference})
        if found:
            return found[0]
    raise unknown_name("reference", reference, [row.method for row in rows])


def _signed(
    draft: Draft,
    values: Mapping[str, Mapping[str, NDArray[np.float64]]],
    trainable: Mapping[str, bool],
    stars: Mapping[tuple[str, str], StarVerdict],
    above: Mapping[tuple[str, str], StarVerdict],
    reference: str | None,
) -> Table:
    table = draft.table
    target = table.target
    ranks = rank_intervals(values[target], trainable, alpha=ALPHA, correction=CORRECTION)
    signs, places = {}, {}
    for one in draft.measured:
        found = ranks[one.row.name]
        places[one.row.key] = (found.best, found.worst)
        key = (target, one.row.name)
        earned = ["star"] if stars[key].star else []
        earned += ["above"] if key in above and above[key].star else []
        signs[one.row.key] = tuple(earned)
    blocks = tuple(
        replace(
            block,
            rows=tuple(
                replace(row, signs=signs.get(row.key, ()), rank=places.get(row.key))
                if block.kind == "main"
                else row
                for row in block.rows
            ),
        )
        for block in table.blocks
    )
    record = _record(draft, values[target], trainable, stars, len(above), reference)
    return replace(table, blocks=blocks, significance=record)


def _record(
    draft: Draft,
    values: Mapping[str, NDArray[np.float64]],
    trainable: Mapping[str, bool],
    stars: Mapping[tuple[str, str], StarVerdict],
    n_above: int,
    reference: str | None,
) -> Significance:
    target = draft.table.target
    rows = {one.row.name: one.row for one in draft.measured}
    # The leader is the one method that has a rival in its verdict.
    leader = next((key for key in rows if stars[target, key].rival), None)
    verdict = stars[target, leader or next(iter(rows))]
    record = Significance(
        test=TEST,
        correction=CORRECTION,
        alpha=ALPHA,
        family=verdict.family_size,
        leader=None if leader is None else rows[leader].key,
        p=_rounded(verdict.p),
        p_users=_rounded(verdict.p_users),
        adjusted_p=_rounded(verdict.adjusted_p),
        rival=None,
        starred=verdict.star,
        reason=verdict.reason,
        reference=reference,
        reference_family=n_above,
    )
    if leader is None:
        return record
    tests = {
        rival: compare_seeds(
            values[leader],
            values[rival],
            trainable_a=trainable[leader],
            trainable_b=trainable[rival],
        )
        for rival in rows
        if rival != leader
    }
    # p-values below the smallest number are all 0: then the nearest rival is the one to name.
    hardest = max(tests, key=lambda rival: (tests[rival].p, -tests[rival].difference, rival))
    test = tests[hardest]
    return replace(
        record,
        rival=rows[hardest].key,
        difference=_rounded(test.difference),
        minimum_detectable=_rounded(test.minimum_detectable),
    )


def _rounded(value: float | None) -> float | None:
    """Six significant digits: processors differ in the last bits of a p-value. None if not finite."""
    return float(f"{value:.{_DIGITS}g}") if value is not None and np.isfinite(value) else None
