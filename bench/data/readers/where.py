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
from bench.errors import ConfigError

__all__ = ["Condition", "keep_rows", "parse_condition"]

_FORM = re.compile(r"\s*(?:`([^`]+)`|([^\s`<>=!]+))\s*(==|!=|>=|<=|=|>|<)\s*(.*?)\s*", re.DOTALL)
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
        value: a number (cells are compared as numbers) or a text.
    """

    column: str
    compare: str
    value: float | str


def parse_condition(text: str) -> Condition:
    """Parse ``COLUMN OP VALUE``; a column with blanks stands in backticks, a text may be quoted.

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
        return Condition(column, form[3], value)
    return Condition(column, form[3], number if math.isfinite(number) else value)


def keep_rows(
    frame: pl.DataFrame, conditions: Sequence[tuple[str, Condition]], errors: LineErrors
) -> tuple[pl.DataFrame, int]:
    """Keep the rows for which every condition holds; an empty cell never does.

    Args:
        frame: ``line_number`` and the columns of the conditions.
        conditions: pairs of a column of ``frame`` and the condition on it.
        errors: told about cells that are no number and are compared with one.

    Returns:
        The rows, without the columns of the conditions, and how many were left out.
    """
    left_out = 0
    for name, condition in conditions:
        cell: pl.Expr = pl.col(name).cast(pl.String)
        if isinstance(condition.value, float):
            text = cell.str.strip_chars()
            number = text.cast(pl.Float64, strict=False)
            bad = number.is_null() & (text != "")
            expected = f"a number in column {condition.column!r} (compared by --where)"
            frame = errors.drop(frame, bad, name, expected)
            cell = pl.when(number.is_nan().not_()).then(number)
        holds = _COMPARE[condition.compare](cell, pl.lit(condition.value))
        kept = frame.filter(holds.fill_null(value=False)).drop(name)
        left_out += frame.height - kept.height
        frame = kept
    return frame, left_out
