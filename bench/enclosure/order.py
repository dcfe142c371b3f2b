"""Candidates in a secret order, and sets that nobody can compute, for methods that know the public rule.

Candidate sets follow a published rule (``docs/protocol.md``), so that everybody can draw them again. A
method that knows the raw user ids could draw them too, and learn which candidate is the positive.
"""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from bench.methods import Requests, Scores

__all__ = ["known_formula", "restored", "shuffled"]

FEWEST_USERS = 20
CLEAR = 5.0
"""Standard errors by which the public sets must be better: chance does that once in three million runs."""
_LEAST = 0.02


def shuffled(
    requests: Requests, rng: np.random.Generator
) -> tuple[Requests, NDArray[np.intp] | None]:
    """The requests with every row's candidates in a random order, and that order.

    None stands for the order as it was: the whole catalogue comes by item index and says nothing.
    """
    candidates = requests.candidates
    if candidates.strides[0] == 0 or not len(candidates):
        return requests, None
    order = np.argsort(rng.random(candidates.shape), axis=1)
    moved = np.take_along_axis(candidates, order, axis=1)
    return replace(requests, candidates=moved), order


def restored(scores: Scores, order: NDArray[np.intp] | None) -> Scores:
    """The answer to :func:`shuffled` requests, as of the requests themselves."""
    if order is None:
        return scores
    values = np.empty_like(scores.values)
    np.put_along_axis(values, order, scores.values, axis=1)
    slots = scores.slots
    if slots is not None:
        named = np.take_along_axis(order, np.maximum(slots, 0).astype(np.intp), axis=1)
        slots = np.where(slots >= 0, named, slots).astype(np.int16)
    return replace(scores, values=values, slots=slots)


def known_formula(public: NDArray[np.float64], secret: NDArray[np.float64]) -> str:
    """What to say if a method is better on sets of the public rule than on secret ones; "" if it is not.

    Both kinds are drawn alike, so that an honest method has the same expectation on them.

    Args:
        public: a metric of every user on the public sets, float64, shape ``(n,)``.
        secret: the same users on sets drawn with a secret seed.
    """
    differences = public - secret
    n = len(differences)
    mean = float(differences.mean()) if n else 0.0
    if n < FEWEST_USERS or mean < _LEAST:
        return ""
    error = float(differences.std(ddof=1)) / math.sqrt(n)
    if error > 0 and mean / error < CLEAR:
        return ""
    return (
        f"knows the public rule of candidate sets: over {n} users its NDCG@5 is {public.mean():.3f} on the "
        f"sets of the task and {secret.mean():.3f} on sets drawn alike from a secret seed. "
        "A score must follow from the history and the candidate, never from where the positive stands or "
        "which negatives are drawn"
    )
