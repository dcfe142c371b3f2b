"""Which method of a table earns the star, and whom a declared reference is beaten by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.errors import unknown_name
from bench.evaluation.corrections import Correction, adjust
from bench.evaluation.seeds import SeedComparison, compare_seeds

__all__ = ["StarVerdict", "beats_reference", "star_family"]

SeedValues = Mapping[str, NDArray[np.float64]]


@dataclass(frozen=True, slots=True)
class StarVerdict:
    """Whether a method of a table is marked, and why.

    Attributes:
        star: the mark.
        p: largest p-value over the rivals, seeds included; None if no valid test exists.
        adjusted_p: ``p`` after the correction; None if ``p`` is.
        p_users: largest p-value over the rivals of the users alone ("this checkpoint"); None for a
            method that was not compared.
        reason: why there is no star, as a clause for a footnote; "" with a star.
        rival: the rival with the largest p-value; "" for a method that was not compared.
        family_size: number of p-values that were corrected together.
    """

    star: bool
    p: float | None
    adjusted_p: float | None
    p_users: float | None
    reason: str
    rival: str
    family_size: int


@dataclass(frozen=True, slots=True)
class _Leader:
    method: str
    hardest: str
    p: float
    p_users: float
    same_sign: bool
    single_seed: tuple[str, ...]


def star_family(
    values: Mapping[str, SeedValues],
    trainable: Mapping[str, bool],
    *,
    alpha: float = 0.05,
    correction: Correction = "holm",
) -> dict[tuple[str, str], StarVerdict]:
    """Decide the stars of one table: who beats *every* rival, target by target.

    On each target only the method with the highest mean can be starred. Its p-value is the largest
    over all rivals of :func:`compare_seeds`; these are corrected over the table's targets. A star
    also needs the same sign for all pairs of seeds, and more than one seed of the method and of
    every trainable rival. A target whose test is missing enters the correction with p = 1, so that
    it cannot make the others look better.

    Args:
        values: by target, then method: float64, shape ``(S, n)``, all over the target's users.
        trainable: by method: whether another training seed would change it.
        alpha: level, in (0, 1).
        correction: over the targets.

    Returns:
        By (target, method), in the order of ``values``.

    Raises:
        ResultError: matrices that do not fit together.
        ConfigError: ``trainable`` lacks a method, or an unknown correction.
    """
    leaders = {target: _leader(methods, trainable) for target, methods in values.items()}
    raw = [1.0 if leader is None or leader.single_seed else leader.p for leader in leaders.values()]
    adjusted = dict(zip(leaders, adjust(raw, correction).tolist(), strict=True))
    verdicts = {}
    for target, methods in values.items():
        leader = leaders[target]
        for method in methods:
            verdicts[target, method] = _verdict(
                method, leader, adjusted[target], len(leaders), alpha
            )
    return verdicts


def beats_reference(
    values: Mapping[str, SeedValues],
    trainable: Mapping[str, bool],
    reference: str,
    *,
    alpha: float = 0.05,
    correction: Correction = "holm",
) -> dict[tuple[str, str], StarVerdict]:
    """Decide the marks ``^``: which methods are better than a reference named beforehand.

    The family is every comparison with the reference in the table, over methods and targets. The
    mark needs a positive difference, the same sign for all pairs of seeds, and more than one seed of
    both methods if they are trainable. Arguments and result as :func:`star_family`; the reference
    itself and targets without it have no entry.
    """
    found: dict[tuple[str, str], SeedComparison] = {}
    for target, methods in values.items():
        if reference in methods:
            for method in methods:
                if method != reference:
                    found[target, method] = _compare(methods, trainable, method, reference)
    raw = [1.0 if test.this_checkpoint else test.p for test in found.values()]
    verdicts = {}
    for (key, test), adjusted in zip(found.items(), adjust(raw, correction).tolist(), strict=True):
        if test.this_checkpoint:
            reason = _one_seed(_single_seed(values[key[0]], trainable, (key[1], reference)))
        elif test.difference <= 0.0:
            reason = f"not above {reference}"
        elif not test.same_sign:
            reason = f"the sign against {reference} differs between seeds"
        elif adjusted >= alpha:
            reason = f"adjusted p = {adjusted:.2g} against {reference}"
        else:
            reason = ""
        known = not test.this_checkpoint
        verdicts[key] = StarVerdict(
            star=not reason,
            p=test.p if known else None,
            adjusted_p=adjusted if known else None,
            p_users=test.p_users,
            reason=reason,
            rival=reference,
            family_size=len(found),
        )
    return verdicts


def _leader(methods: SeedValues, trainable: Mapping[str, bool]) -> _Leader | None:
    """The best method of a target and its hardest rival; None without a rival."""
    if len(methods) < 2:
        return None
    best = max(sorted(methods), key=lambda name: float(np.mean(methods[name])))
    tests = {rival: _compare(methods, trainable, best, rival) for rival in methods if rival != best}
    hardest = max(tests, key=lambda rival: (tests[rival].p, rival))
    return _Leader(
        method=best,
        hardest=hardest,
        p=tests[hardest].p,
        p_users=max(test.p_users for test in tests.values()),
        same_sign=all(test.same_sign and test.difference > 0.0 for test in tests.values()),
        single_seed=_single_seed(methods, trainable, methods),
    )


def _compare(methods: SeedValues, trainable: Mapping[str, bool], a: str, b: str) -> SeedComparison:
    return compare_seeds(
        methods[a],
        methods[b],
        trainable_a=_is_trainable(trainable, a),
        trainable_b=_is_trainable(trainable, b),
    )


def _is_trainable(trainable: Mapping[str, bool], method: str) -> bool:
    if method not in trainable:
        raise unknown_name("method", method, trainable)
    return trainable[method]


def _single_seed(
    methods: SeedValues, trainable: Mapping[str, bool], names: Sequence[str] | SeedValues
) -> tuple[str, ...]:
    return tuple(sorted(m for m in names if _is_trainable(trainable, m) and len(methods[m]) == 1))


def _one_seed(methods: Sequence[str]) -> str:
    return f"one training seed of {', '.join(methods)}"


def _verdict(
    method: str, leader: _Leader | None, adjusted: float, family_size: int, alpha: float
) -> StarVerdict:
    if leader is None:
        return StarVerdict(False, None, None, None, "no rival", "", family_size)
    if method != leader.method:
        reason = f"not the best, which is {leader.method}"
        return StarVerdict(False, None, None, None, reason, "", family_size)
    known = not leader.single_seed
    if not known:
        reason = _one_seed(leader.single_seed)
    elif not leader.same_sign:
        reason = "the sign of a difference is not the same for all pairs of seeds"
    elif adjusted >= alpha:
        reason = f"adjusted p = {adjusted:.2g} against {leader.hardest}"
    else:
        reason = ""
    return StarVerdict(
        star=not reason,
        p=leader.p if known else None,
        adjusted_p=adjusted if known else None,
        p_users=leader.p_users,
        reason=reason,
        rival=leader.hardest,
        family_size=family_size,
    )
