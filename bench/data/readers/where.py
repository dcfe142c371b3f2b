"""Conditions on rows, as `--where 'rating >= 4'` writes them: one comparison each, no evaluation."""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from bench.data.raw import LineErrors
from bench.data.readers.times import parse_times
from bench.errors import ConfigError

__all__ = ["Condition", "keep_rows", "parse_condition"]

_FORM = re.compile(r"\s*(?:`([^`]+)`|([^\s`<>=!]+))\s*(==|!=|>=|<=|=|>|<)\s*(.*?)\s*", re.DOTALL)
_TIMES = "times of a condition"
_EQUAL = ("==", "=", "!=")
_COMPARE: dict[str, Callable[[Any, Any], Any]] = {
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Condition:
    """One comparison of a column with a value.

    Attributes:
        column: name of the column.
        compare: one of ``== != >= <= > <``.
        value: a number (cells are compared as numbers), or a text; a date that orders (``< 2020-01-31``)
            is compared with the times of the cells.
    """

    column: str
    compare: str
    value: float | str


def parse_condition(text: str) -> Condition:
    """Parse ``COLUMN OP VALUE``; a column with blanks stands in backticks, a text may be quoted.

    ``< <= > >=`` take a number, a date of ISO 8601, or a quoted text: by the order of characters, "10"
    is less than "3,5", which nobody means who writes 3,5.

    Raises:
        ConfigError: anything else.
    """
    form = _FORM.fullmatch(text)
    value = form[4] if form else ""
    quoted = len(value) > 1 and value[0] == value[-1] and value[0] in "'\""
    if form is None or not value or (not quoted and re.search(r"[\s<>=!`'\"]", value)):
        raise ConfigError(
            f"condition {text!r}: expected COLUMN OP VALUE with OP one of {' '.join(_COMPARE)}, for "
            "example 'rating >= 4'; a text with blanks in quotation marks, a column with blanks in "
            "backticks. Several conditions: repeat --where."
        )
    column = form[1] or form[2]
    if quoted:
        return Condition(column, form[3], value[1:-1])
    try:
        number = float(value)
    except ValueError:
        number = math.nan
    if math.isfinite(number):
        return Condition(column, form[3], number)
    if form[3] not in _EQUAL and _date(value) is None:
        raise ConfigError(
            f"condition {text!r}: {value!r} is neither a finite number (with a decimal point) nor a date of "
            f"ISO 8601, and {form[3]} orders these. Put it in quotation marks to compare texts."
        )
    return Condition(column, form[3], value)


def _date(value: str) -> float | None:
    """Seconds of a text that is a date, else None."""
    seconds, dated = parse_times(pl.Series([value], dtype=pl.String))
    return seconds[0] if dated else None


def keep_rows(
    frame: pl.DataFrame, conditions: Sequence[tuple[str, Condition]], errors: LineErrors
) -> tuple[pl.DataFrame, int]:
    """Keep the rows for which every condition holds; an empty cell never does.

    Args:
        frame: ``line_number`` and the columns of the conditions.
        conditions: pairs of a column of ``frame`` and the condition on it.
        errors: told about cells that are no number, or no date, and are compared with one.

    Returns:
        The rows, without the columns of the conditions, and how many were left out.
    """
    left_out = 0
    for name, condition in conditions:
        cell: pl.Expr = pl.col(name).cast(pl.String)
        value, order = condition.value, condition.compare not in _EQUAL
        if isinstance(value, float):
            text = cell.str.strip_chars()
            number = text.cast(pl.Float64, strict=False)
            bad = number.is_null() & (text != "")
            expected = f"a number in column {condition.column!r} (compared by --where)"
            frame = errors.drop(frame, bad, name, expected)
            cell = pl.when(number.is_nan().not_()).then(number)
        elif order and (limit := _date(value)) is not None:
            times, dated = parse_times(frame[name])
            frame = frame.with_columns((times if dated else times.clear(len(times))).alias(_TIMES))
            bad = pl.col(_TIMES).is_null() & (cell.str.strip_chars() != "")
            expected = (
                f"a date like 2023-09-15 in column {condition.column!r} (compared by --where)"
            )
            frame = errors.drop(frame, bad, name, expected)
            cell, value = pl.col(_TIMES), limit
        holds = _COMPARE[condition.compare](cell, pl.lit(value))
        kept = frame.filter(holds.fill_null(value=False)).drop(name, _TIMES, strict=False)
        left_out += frame.height - kept.height
        frame = kept
    return frame, left_out
