"""What is known of a request set before it is scored, and what is counted while it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from bench.errors import MethodError
from bench.methods import Capabilities, Method
from bench.runs.records import jsonable

__all__ = ["check_candidates", "json_diagnostics", "merge_diagnostics", "training_report"]


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


def merge_diagnostics(into: dict[str, Any], more: Mapping[str, Any]) -> None:
    """Add the counters of one chunk to those of the run, in place.

    Numbers are summed, nested mappings merged; other values are kept, and if chunks differ they
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


def training_report(method: Method) -> Any:
    """What a method tells about its training: ``report`` with ``as_dict()``, if it has one."""
    as_dict = getattr(getattr(method, "report", None), "as_dict", None)
    return jsonable(as_dict()) if callable(as_dict) else None


def json_diagnostics(diagnostics: object, owner: str) -> dict[str, Any]:
    """Diagnostics as JSON values. A training report is no counter and has its own field."""
    try:
        values = jsonable(diagnostics)
    except (TypeError, ValueError) as error:
        raise MethodError(
            f"{owner}: Scores.diagnostics is not JSON ({error}). Use numbers, texts, lists and "
            "mappings only, and neither NaN nor infinity."
        ) from error
    if not isinstance(values, dict):
        raise MethodError(
            f"{owner}: Scores.diagnostics is {type(diagnostics).__name__}, expected a mapping."
        )
    return {key: value for key, value in values.items() if key != "training"}


def _is_number(value: object) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)
