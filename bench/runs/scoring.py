"""From a fitted method and a request set to outcomes: chunked, checked, resumable."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np

from bench.errors import BenchError, MethodError
from bench.methods import Capabilities, Scores
from bench.protocol.types import Requests

__all__ = ["check_candidates", "check_scores", "chunk_rows", "merge_diagnostics", "method_phase"]

_MAX_ROWS = 2048
_MAX_CELLS = 8_000_000


def chunk_rows(n_candidates: int) -> int:
    """Rows per chunk: at most 2,048, and at most 8 million scores (32 MB) at once."""
    return max(1, min(_MAX_ROWS, _MAX_CELLS // max(1, n_candidates)))


def check_candidates(capabilities: Capabilities, n_candidates: int, owner: str) -> None:
    """Refuse a request set that is wider than the method can score.

    Raises:
        MethodError: more candidates than ``max_candidates``.
    """
    bound = capabilities.max_candidates
    if bound is not None and n_candidates > bound:
        raise MethodError(
            f"{owner} can score at most {bound} candidates per user; this request set has "
            f"{n_candidates}. Use fewer negatives (--n-negatives {bound - 1}) or no full ranking."
        )


def check_scores(
    scores: object, requests: Requests, capabilities: Capabilities, owner: str
) -> None:
    """Check type, shape and dtype of an answer; the evaluator checks the values.

    Raises:
        MethodError: with the method's name, what came and what was expected.
    """
    if not isinstance(scores, Scores):
        raise MethodError(
            f"{owner}: score() returned {type(scores).__name__}, expected bench.methods.Scores."
        )
    expected = requests.candidates.shape
    values = scores.values
    if not isinstance(values, np.ndarray):
        raise MethodError(
            f"{owner}: Scores.values is {type(values).__name__}, expected a float32 NumPy array of "
            f"shape {expected}."
        )
    if values.shape != expected or values.dtype != np.float32:
        raise MethodError(
            f"{owner}: Scores.values is {values.dtype} of shape {values.shape}, expected float32 of "
            f"shape {expected} (one row per request, one column per candidate)."
        )
    slots = scores.slots
    if slots is None:
        return
    if not capabilities.may_leave_unranked:
        raise MethodError(
            f"{owner}: score() returned slots, but capabilities(config).may_leave_unranked is False. "
            "Declare it for configurations that generate lists."
        )
    if not isinstance(slots, np.ndarray) or slots.dtype != np.int16 or slots.ndim != 2:
        found = f"{getattr(slots, 'dtype', type(slots).__name__)} {getattr(slots, 'shape', '')}"
        raise MethodError(f"{owner}: Scores.slots is {found}, expected int16 of shape (n, k).")
    if len(slots) != expected[0]:
        raise MethodError(
            f"{owner}: Scores.slots has {len(slots)} rows for {expected[0]} requests."
        )


def merge_diagnostics(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add the counters of one chunk to those of the run, in place.

    Numbers are summed, nested mappings merged; other values are kept, and where chunks differ they
    become a list of the distinct ones.
    """
    for key, value in more.items():
        if isinstance(value, np.generic):
            value = value.item()
        if isinstance(value, Mapping):
            nested = into.setdefault(key, {})
            if isinstance(nested, dict):
                merge_diagnostics(nested, value)
                continue
        if key not in into:
            into[key] = value
        elif _is_number(value) and _is_number(into[key]):
            into[key] = into[key] + value
        elif into[key] != value:
            known = into[key] if isinstance(into[key], list) else [into[key]]
            into[key] = known if value in known else [*known, value]


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


@contextmanager
def method_phase(label: str, phase: str) -> Iterator[None]:
    """Name method and phase in errors that are not this package's own."""
    try:
        yield
    except (BenchError, OSError, MemoryError):
        raise
    except (Exception, SystemExit) as error:
        raise MethodError(
            f"{label}: {phase}() failed with {type(error).__name__}: {error}. "
            "The log has the traceback; `bench check` tests a method on small data."
        ) from error
