"""Checks of the scores of a fitted method."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.methods import Requests, Scores
from bench.testing.results import CheckFailed
from bench.testing.session import Fitted, Session

__all__ = [
    "check_batches",
    "check_candidate_order",
    "check_empty_history",
    "check_form",
    "check_repeatable",
    "check_row_order",
    "check_set_sizes",
    "check_unseen_items",
    "different",
    "distance",
    "same_scores",
]

TOLERANCE = 1e-4
"""Largest allowed difference of scores between batches or candidate orders, relative to the
largest score if that is above 1."""


def check_form(session: Session) -> str:
    """Returns Scores: float32 or float64, shape (requests, candidates), finite; slots in range."""
    scores = session.score(session.base(), session.requests)
    require_form(session, scores, session.requests)
    return ""


def require_form(session: Session, scores: Scores, requests: Requests) -> None:
    """Fail unless ``scores`` has the form that the evaluator accepts."""
    if not isinstance(scores, Scores):
        raise CheckFailed(f"score returned {type(scores).__name__}; expected bench.methods.Scores.")
    values, expected = scores.values, requests.candidates.shape
    if (
        not isinstance(values, np.ndarray)
        or values.shape != expected
        or values.dtype not in (np.float32, np.float64)
    ):
        found = (
            f"{values.dtype} {values.shape}"
            if isinstance(values, np.ndarray)
            else type(values).__name__
        )
        raise CheckFailed(
            f"Scores.values is {found}; expected a NumPy array, float32 or float64 {expected}: one "
            "score per candidate."
        )
    if np.isinf(values).any():
        raise CheckFailed(
            f"{int(np.isinf(values).any(axis=1).sum())} of {len(values)} rows hold infinite scores; "
            "scores must be finite (clip them, or use a large finite number for a mask)."
        )
    unranked = int(np.isnan(values).any(axis=1).sum())
    if unranked and not session.capabilities.may_leave_unranked:
        raise CheckFailed(
            f"{unranked} of {len(values)} rows hold NaN; a diverged model would count as misses. Only a "
            "method whose capabilities say may_leave_unranked may return NaN."
        )
    slots = scores.slots
    if slots is not None and (
        slots.dtype != np.int16
        or slots.ndim != 2
        or len(slots) != len(requests)
        or int(slots.min(initial=0)) < -3
        or int(slots.max(initial=0)) >= expected[1]
    ):
        raise CheckFailed(
            f"Scores.slots is {slots.dtype} {slots.shape} with values from {slots.min(initial=0)} to "
            f"{slots.max(initial=0)}; expected int16, shape ({expected[0]}, k), candidate positions or "
            "-1 duplicate, -2 not a candidate, -3 empty."
        )


def check_repeatable(session: Session) -> str:
    """Scoring the same requests twice gives bit-equal scores."""
    fitted = session.base()
    first, second = session.values(fitted), session.values(fitted)
    if not np.array_equal(first, second, equal_nan=True):
        raise CheckFailed(
            f"two calls of score on the same requests differ in {different(first, second)}. "
            "Switch dropout and sampling off while scoring, or key the draws by user and item."
        )
    return ""


def check_batches(session: Session) -> str:
    """A row's scores do not depend on which other rows are scored with it."""
    fitted, requests = session.base(), session.requests
    whole = session.values(fitted)
    singly = [session.values(fitted, requests.take(np.array([row]))) for row in range(6)]
    pieces = [session.values(fitted, chunk) for chunk in requests.chunks(7)]
    difference = max(
        distance(whole[:6], np.concatenate(singly)), distance(whole, np.concatenate(pieces))
    )
    if difference > TOLERANCE:
        raise CheckFailed(
            f"scores of a row change by up to {difference:.2g} with the batch it is in; expected at "
            f"most {TOLERANCE}. Look for padding that is not masked, batch normalisation in training "
            "mode, or statistics over the batch."
        )
    return f"largest difference {difference:.1g}"


def check_row_order(session: Session) -> str:
    """Scores follow the order of the requests."""
    fitted, requests = session.base(), session.requests
    order = np.random.default_rng(0).permutation(len(requests))
    difference = distance(
        session.values(fitted)[order], session.values(fitted, requests.take(order))
    )
    if difference > TOLERANCE:
        raise CheckFailed(
            f"with the requests in another order the rows' scores differ by up to {difference:.2g}. If "
            "you sort rows by length for speed, put the scores back in the order of the requests."
        )
    return ""


def check_candidate_order(session: Session) -> str:
    """A candidate's score does not depend on its place among the candidates."""
    fitted, requests = session.base(), session.requests
    n, c = requests.candidates.shape
    order = np.random.default_rng(1).permuted(np.tile(np.arange(c), (n, 1)), axis=1)
    moved = np.take_along_axis(requests.candidates, order, axis=1)
    shuffled = replace(requests, candidates=moved)
    plain = session.score(fitted, requests).values
    difference = distance(
        np.take_along_axis(plain, order, axis=1), session.score(fitted, shuffled).values
    )
    if difference > TOLERANCE:
        raise CheckFailed(
            f"with the candidates in another order their scores differ by up to {difference:.2g}. The "
            "order of the array means nothing; if a prompt needs one, derive it from user and item."
        )
    return ""


def check_set_sizes(session: Session) -> str:
    """Works with any number of candidates, and with the whole catalogue."""
    fitted, requests = session.base(), session.requests
    bound = session.capabilities.max_candidates
    few = replace(requests, candidates=requests.candidates[:, :5])
    require_form(session, session.score(fitted, few), few)
    n_items = session.small_task.n_items
    if bound is not None and bound < n_items:
        return f"at most {bound} candidates declared; 5 tried"
    every = np.broadcast_to(np.arange(n_items, dtype=np.int32), (len(requests), n_items))
    full = replace(requests, candidates=every)
    scores = session.score(fitted, full)
    require_form(session, scores, full)
    if scores.slots is not None:
        return "slots are not compared between set sizes"
    if session.capabilities.compares_candidates:
        return "compares_candidates: scores of different sets are not compared"
    rows = np.take_along_axis(scores.values, requests.candidates.astype(np.int64), axis=1)
    difference = distance(rows, session.score(fitted, requests).values)
    if difference > TOLERANCE and not session.capabilities.may_leave_unranked:
        raise CheckFailed(
            f"a candidate's score among the whole catalogue differs by up to {difference:.2g} from its "
            "score among 30; expected the same. Do not normalise over the candidates; a method that reads "
            "them together declares `compares_candidates`."
        )
    return ""


def check_unseen_items(session: Session) -> str:
    """Items that were never trained on can be scored, as candidates and in histories."""
    fitted = session.fit("tripwire", lambda: session.tripwire.task)
    wire = session.tripwire
    n = 8
    unseen = wire.test[:n].astype(np.int32)
    history = Sequences(np.arange(n + 1, dtype=np.int64) * 2, np.repeat(unseen, 2))
    candidates = np.stack([np.arange(n, dtype=np.int32), unseen[::-1]], axis=1)
    times = np.arange(2 * n, dtype=np.float64)
    requests = Requests(wire.task.target, np.arange(n, dtype=np.int32), history, candidates, times)
    require_form(session, session.score(fitted, requests), requests)
    return ""


def check_empty_history(session: Session) -> str:
    """A request with an empty history gets scores too (popularity, a prior, or zeros)."""
    requests = session.requests.take(np.arange(4))
    first = int(requests.history.offsets[1])
    emptied = Sequences(
        np.concatenate([[0, 0], requests.history.offsets[2:] - first]),
        requests.history.items[first:],
    )
    times = None if requests.timestamps is None else requests.timestamps[first:]
    changed = replace(requests, history=emptied, timestamps=times)
    fitted = session.base()
    scores = session.score(fitted, changed)
    require_form(session, scores, changed)
    difference = distance(scores.values[1:], session.score(fitted, requests).values[1:])
    if difference > TOLERANCE:
        raise CheckFailed(
            f"one empty history changes the scores of other rows by up to {difference:.2g}; handle "
            "rows of length 0 apart from their neighbours."
        )
    return ""


def same_scores(session: Session, one: Fitted, other: Fitted) -> str:
    """Say how two fitted methods differ on the small task; empty if they are bit-equal."""
    first, second = session.values(one), session.values(other)
    if np.array_equal(first, second, equal_nan=True):
        return ""
    return different(first, second)


def distance(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> float:
    """Largest difference, relative to the largest score if that is above 1."""
    if not np.array_equal(np.isnan(a), np.isnan(b)):
        return float("inf")
    scale = max(1.0, float(np.nanmax(np.abs(a), initial=0.0)))
    return float(np.nanmax(np.abs(a.astype(np.float64) - b), initial=0.0)) / scale


def different(a: NDArray[np.floating[Any]], b: NDArray[np.floating[Any]]) -> str:
    """How two score matrices differ, for messages."""
    rows = int((~((a == b) | (np.isnan(a) & np.isnan(b)))).any(axis=1).sum())
    return f"{rows} of {len(a)} rows, by up to {distance(a, b):.2g}"
