"""What average metrics of one ranking can and cannot be: checks that need no per-user data.

With one relevant item per user, HR@k, NDCG@k and MRR@k are averages of gains over the *same* histogram
of ranks. A row of reported figures is possible if and only if some histogram (shares of users with the
positive at rank 1, 2, ..., or nowhere) has these averages up to rounding: a linear programme. For
NDCG@1, NDCG@3, NDCG@5 and MRR@5, with a = NDCG@3 - NDCG@1 and b = NDCG@5 - NDCG@3, it implies ::

    NDCG@1 <= NDCG@3 <= NDCG@5,   MRR@5 <= NDCG@5
    NDCG@1 + (1/3)/(1/2) a + (1/5)/(1/log2 6) b  <=  MRR@5  <=  NDCG@1 + (1/2)/(1/log2 3) a + (1/4)/(1/log2 5) b

and in addition that the shares sum to one. Ties scored by their expectation keep all this: an expected
gain is an average of gains too. The granularity test is the idea of GRIM (Brown and Heathers, "The GRIM
test", Social Psychological and Personality Science 8(4), 2017), applied to HR@1.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError
from bench.evaluation.metrics import gains, metric_per_user, random_row
from bench.evaluation.outcomes import Outcomes

__all__ = [
    "Conflict",
    "Reported",
    "explain",
    "feasible_range",
    "grim_applies",
    "grim_consistent",
    "is_feasible",
    "random_tolerance",
]

SOLVER_SLACK = 1e-6
"""Added to every slack: the linear programme's own tolerance is 1e-7."""

_NAME = re.compile(r"(hr|ndcg|mrr)@([1-9][0-9]{0,3})|mrr|auc")
_KINDS = ("auc", "hr", "ndcg", "mrr")


@dataclass(frozen=True, slots=True)
class Reported:
    """A printed average.

    Attributes:
        value: as printed, as a share of one.
        slack: how far the true average may lie from it, for example one unit in the last place.
    """

    value: float
    slack: float = 0.0


@dataclass(frozen=True, slots=True)
class Conflict:
    """Figures that no ranking can have together.

    Attributes:
        metrics: a smallest set in conflict (without any of them the others are possible); the last
            one is ``metric``.
        metric: the figure that is compared with what the others allow.
        value: what was reported for it.
        low: least value that the other figures of the set allow, their rounding included.
        high: greatest such value.
        uncut: the conflict vanishes if MRR@k was computed without the cut-off.
    """

    metrics: tuple[str, ...]
    metric: str
    value: float
    low: float
    high: float
    uncut: bool


def is_feasible(figures: Mapping[str, Reported], *, n_candidates: int | None = None) -> bool:
    """Whether some histogram of ranks has all these averages.

    Args:
        figures: by metric: ``hr@k``, ``ndcg@k``, ``mrr@k`` with k from 1 to 9,999, ``mrr`` (no
            cut-off), ``auc`` (checked to lie in [0, 1] only: methods that answer with lists may
            have their AUC from another order).
        n_candidates: candidates per user, >= 1; None = unknown, any rank is possible.

    Raises:
        ConfigError: a metric of another name, a value that is not finite, or a negative slack.
    """
    for metric, figure in figures.items():
        _check(metric, figure)
        tolerance = figure.slack + SOLVER_SLACK
        if not -tolerance <= figure.value <= 1 + tolerance:
            return False
    ranked = {metric: figure for metric, figure in figures.items() if metric != "auc"}
    if not ranked:
        return True
    return _solve(ranked, None, n_candidates) is not None


def feasible_range(
    metric: str, figures: Mapping[str, Reported], *, n_candidates: int | None = None
) -> tuple[float, float] | None:
    """Least and greatest value of ``metric`` that the other figures allow.

    Args:
        metric: the metric in question; its own entry in ``figures`` is ignored.
        figures: as for :func:`is_feasible`.
        n_candidates: as for :func:`is_feasible`.

    Returns:
        ``(low, high)``, or None if the other figures are impossible already.

    Raises:
        ConfigError: as :func:`is_feasible`.
    """
    others = {name: figure for name, figure in figures.items() if name != metric}
    _check(metric, Reported(0.0))
    if not is_feasible(others, n_candidates=n_candidates):
        return None
    ranked = {name: figure for name, figure in others.items() if name != "auc"}
    if metric == "auc" or not ranked:
        return 0.0, 1.0
    low = _solve(ranked, (metric, 1.0), n_candidates)
    high = _solve(ranked, (metric, -1.0), n_candidates)
    if low is None or high is None:
        return None
    return low, -high


def explain(figures: Mapping[str, Reported], *, n_candidates: int | None = None) -> Conflict | None:
    """The smallest conflict among figures, or None if some ranking has them all.

    Single figures and pairs are tried first, then figures are left out one after another as long as
    the rest stays impossible. Of the conflicting figures MRR is compared with what the others allow,
    else the NDCG with the largest k.

    Raises:
        ConfigError: as :func:`is_feasible`.
    """
    if is_feasible(figures, n_candidates=n_candidates):
        return None
    names = _smallest_conflict(figures, n_candidates)
    chosen = {name: figures[name] for name in names}
    metric = names[-1]
    limits = feasible_range(metric, chosen, n_candidates=n_candidates)
    if limits is None:
        raise ConfigError(f"the figures {', '.join(names)} are too close to a bound to be judged.")
    uncut = {("mrr" if _parse(name)[0] == "mrr" else name): figures[name] for name in figures}
    return Conflict(
        tuple(names),
        metric,
        figures[metric].value,
        *limits,
        uncut=metric.startswith("mrr@")
        and sum(_parse(name)[0] == "mrr" for name in figures) == 1
        and is_feasible(uncut, n_candidates=n_candidates),
    )


def grim_applies(slack: float, n_users: int) -> bool:
    """Whether HR@1 over ``n_users`` is coarser than its rounding: for 4 decimals below 10,000 users."""
    return n_users >= 1 and 2 * slack * n_users < 1


def grim_consistent(value: float, slack: float, n_users: int) -> bool:
    """Whether ``value`` is a whole number of users over ``n_users``, up to rounding.

    Only for HR@k (or NDCG@1, MRR@1, which equal HR@1) of one run without ties: then every user counts
    0 or 1.

    Args:
        value: the reported share.
        slack: half a unit in its last place.
        n_users: users averaged over, >= 1.
    """
    return abs(round(value * n_users) / n_users - value) <= slack + 1e-12


def random_tolerance(
    metric: str, n_candidates: int, n_users: int | None, *, slack: float = 0.0
) -> tuple[float, float]:
    """Closed form of a scorer that knows nothing, and how far a row of it may lie from that.

    Args:
        metric: ``hr@k``, ``ndcg@k``, ``mrr@k`` or ``auc``.
        n_candidates: candidates per user, >= 1.
        n_users: users averaged over; None = unknown (then only the rounding is allowed for).
        slack: rounding of the reported figure.

    Returns:
        Expected value, and the slack plus three standard errors of a run that breaks ties at random.

    Raises:
        ConfigError: unknown metric or no candidates.
    """
    expected = random_row(n_candidates, [metric])[metric]
    if n_users is None:
        return expected, slack
    ranks = np.arange(n_candidates, dtype=np.int32)
    sizes = np.full(n_candidates, n_candidates, dtype=np.int32)
    each = metric_per_user(
        Outcomes(ranks, np.zeros_like(ranks), sizes, np.ones(n_candidates, dtype=np.bool_)), metric
    )
    return expected, slack + 3 * float(each.std()) / math.sqrt(max(n_users, 1))


def _smallest_conflict(figures: Mapping[str, Reported], n_candidates: int | None) -> list[str]:
    ordered = sorted(figures, key=_order)
    for size in (1, 2):
        for group in combinations(ordered, size):
            if not is_feasible({m: figures[m] for m in group}, n_candidates=n_candidates):
                return list(group)
    kept = ordered
    for name in reversed(_reading_order(ordered)):
        fewer = [m for m in kept if m != name]
        if not is_feasible({m: figures[m] for m in fewer}, n_candidates=n_candidates):
            kept = fewer
    return kept


def _reading_order(names: Sequence[str]) -> list[str]:
    """The figures of the usual tables first: they are the last to be left out."""
    usual = ("ndcg@1", "mrr@5", "ndcg@5", "ndcg@3")
    return [*(m for m in usual if m in names), *(m for m in names if m not in usual)]


def _order(metric: str) -> tuple[int, float]:
    kind, k = _parse(metric)
    return _KINDS.index(kind), k


def _parse(metric: str) -> tuple[str, float]:
    match = _NAME.fullmatch(metric)
    if match is None:
        raise ConfigError(
            f"unknown metric {metric!r}; expected hr@k, ndcg@k, mrr@k, mrr (no cut-off) or auc."
        )
    return (match[1], int(match[2])) if match[1] else (metric, math.inf)


def _check(metric: str, figure: Reported) -> None:
    _parse(metric)
    if not math.isfinite(figure.value) or not figure.slack >= 0:
        raise ConfigError(
            f"{metric} is {figure.value!r} with slack {figure.slack!r}; expected a finite value and "
            "a slack of 0 or more."
        )


def _solve(
    figures: Mapping[str, Reported],
    objective: tuple[str, float] | None,
    n_candidates: int | None,
) -> float | None:
    """Minimise ``weight * metric`` over all histograms with these averages; None = there is none."""
    from scipy.optimize import linprog

    names = [*figures, *([objective[0]] if objective else [])]
    depth = max((int(k) for _, k in map(_parse, names) if k < math.inf), default=1) + 1
    if n_candidates is not None:
        depth = min(depth, n_candidates)
    rows = np.array([_gains(name, depth) for name in figures])
    values = np.array([figure.value for figure in figures.values()])
    slack = np.array([figure.slack + SOLVER_SLACK for figure in figures.values()])
    cost = np.zeros(depth + 1) if objective is None else objective[1] * _gains(objective[0], depth)
    # An objective can make the solver miss a region that is a single point: try again a little wider.
    for widening in (0.0,) if objective is None else (0.0, SOLVER_SLACK):
        solution = linprog(
            cost,
            A_ub=np.vstack([rows, -rows]),
            b_ub=np.concatenate([values + slack, slack - values]) + widening,
            A_eq=np.ones((1, depth + 1)),
            b_eq=[1.0],
            bounds=(0, None),
            method="highs",
        )
        if solution.status == 0:
            return float(solution.fun)
    return None


def _gains(metric: str, depth: int) -> NDArray[np.float64]:
    """Gains at ranks 1 to ``depth`` and, last, of a miss or of any later rank.

    Beyond every cut-off all ranks gain 0, except under MRR without a cut-off: there a later rank
    gains between 0 and the gain at ``depth``, which mixtures of the last two entries cover.
    """
    kind, k = _parse(metric)
    gain = gains(kind, int(min(k, depth)))
    return np.append(gain, np.zeros(depth + 1 - len(gain)))
