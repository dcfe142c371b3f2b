"""Ranks as intervals: which places a method may hold, given which differences are significant."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bench.errors import unknown_name
from bench.evaluation.corrections import Correction, adjust
from bench.evaluation.seeds import compare_seeds

__all__ = ["RankInterval", "rank_intervals"]


@dataclass(frozen=True, slots=True)
class RankInterval:
    """The places that a method may hold among k, 1 being the best.

    Attributes:
        best: 1 plus the number of methods that are significantly better.
        worst: k minus the number of methods that are significantly worse.
        better: names of the methods that are significantly better, sorted.
        worse: names of the methods that are significantly worse, sorted.
    """

    best: int
    worst: int
    better: tuple[str, ...]
    worse: tuple[str, ...]

    def __str__(self) -> str:
        return str(self.best) if self.best == self.worst else f"{self.best}-{self.worst}"


def rank_intervals(
    values: Mapping[str, NDArray[np.float64]],
    trainable: Mapping[str, bool],
    *,
    alpha: float = 0.05,
    correction: Correction = "holm",
    checkpoints: bool = False,
) -> dict[str, RankInterval]:
    """Best and worst rank of each method, from all pairwise comparisons.

    With Holm's correction all intervals hold at once with probability ``1 - alpha`` at least: each
    pair is one comparison of the family of k (k - 1) / 2.

    Args:
        values: by method: float64, shape ``(S, n)``, over the same users.
        trainable: by method: whether another training seed would change it.
        alpha: level, in (0, 1).
        correction: over the pairs.
        checkpoints: also decide pairs in which a trainable method has one seed, by the test of users
            alone: the ranks are then those of *these checkpoints*. Otherwise such pairs stay open.

    Raises:
        ResultError: matrices over different users.
        ConfigError: ``trainable`` lacks a method, or an unknown correction.
    """
    for name in values:
        if name not in trainable:
            raise unknown_name("method", name, trainable)
    pairs = list(combinations(values, 2))
    tests = [
        compare_seeds(values[a], values[b], trainable_a=trainable[a], trainable_b=trainable[b])
        for a, b in pairs
    ]
    raw = [1.0 if test.this_checkpoint and not checkpoints else test.p for test in tests]
    better: dict[str, set[str]] = {name: set() for name in values}
    worse: dict[str, set[str]] = {name: set() for name in values}
    for (a, b), test, p in zip(pairs, tests, adjust(raw, correction).tolist(), strict=True):
        if p < alpha and test.difference != 0.0:
            winner, loser = (a, b) if test.difference > 0.0 else (b, a)
            better[loser].add(winner)
            worse[winner].add(loser)
    k = len(values)
    return {
        name: RankInterval(
            1 + len(better[name]),
            k - len(worse[name]),
            tuple(sorted(better[name])),
            tuple(sorted(worse[name])),
        )
        for name in values
    }
