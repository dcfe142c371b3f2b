"""Conditions on rows: parsed, never evaluated."""

from __future__ import annotations

import datetime as dt

import polars as pl
import pytest

from bench.data.raw import LineErrors
from bench.data.readers.where import Condition, keep_rows, parse_condition
from bench.errors import ConfigError, DataError


@pytest.mark.parametrize(
    ("text", "condition"),
    [
        ("rating >= 4", Condition("rating", ">=", 4.0)),
        ("rating>4.5", Condition("rating", ">", 4.5)),
        ("Book-Rating != 0", Condition("Book-Rating", "!=", 0.0)),
        ("verified == true", Condition("verified", "==", "true")),
        ("`main cat` = 'All Beauty'", Condition("main cat", "=", "All Beauty")),
        ('size == "12"', Condition("size", "==", "12")),
        ("date < 2020-01-01", Condition("date", "<", "2020-01-01")),
        ("x == nan", Condition("x", "==", "nan")),
    ],
)
def test_one_comparison(text, condition):
    assert parse_condition(text) == condition


@pytest.mark.parametrize(
    "text", ["", "rating", "rating >=", ">= 4", "rating >= 4 and x == 1", "a < b < c", "x == f('y')", "two words > 3", "rating => 4"]
)  # fmt: skip
def test_anything_else_is_refused(text):
    with pytest.raises(ConfigError, match="expected COLUMN OP VALUE"):
        parse_condition(text)


@pytest.mark.parametrize(
    ("cells", "text", "kept"),
    [
        (["3", "4", " 5.0 ", "", None, "nan"], "r >= 4", [1, 2]),
        (["3", "4", ""], "r != 4", [0]),
        ([3, 4, None], "r < 4", [0]),
        ([True, False, None], "r == true", [0]),
        (["2019-12-31", "2020-01-02", ""], "r >= 2020-01-01", [1]),
        (["2020-01-01T05:00:00+09:00", "2020-01-01T00:00:00Z"], "r < 2020-01-01", [0]),
        ([dt.date(2019, 12, 31), dt.date(2020, 1, 2), None], "r < 2020-01-01", [0]),
        (["a", "m", "z", ""], "r >= 'm'", [1, 2]),
    ],
)
def test_rows_for_which_it_holds_are_kept(cells, text, kept):
    frame = pl.DataFrame({"line_number": list(range(len(cells))), "where 0": cells})
    rows, left_out = keep_rows(frame, [("where 0", parse_condition(text))], LineErrors("f"))
    assert rows.columns == ["line_number"]
    assert rows["line_number"].to_list() == kept
    assert left_out == len(cells) - len(kept)


@pytest.mark.parametrize("value", ["3,5", "four", "1e999", "nan"])
def test_only_numbers_dates_and_quoted_texts_are_ordered(value):
    """As texts, 10 would be less than "3,5"."""
    with pytest.raises(
        ConfigError, match=f"'{value}' is neither a finite number .* quotation marks"
    ):
        parse_condition(f"r >= {value}")
    assert parse_condition(f"r >= '{value}'").value == value


def test_numbers_are_not_compared_with_a_date():
    frame = pl.DataFrame({"line_number": [7, 8], "where 0": ["1600000000", "1500000000"]})
    condition = [("where 0", parse_condition("r < 2020-01-01"))]
    with pytest.raises(DataError, match=r"f, line 7: found '1600000000'; expected a date like"):
        keep_rows(frame, condition, LineErrors("f"))
    errors = LineErrors("f", "skip")
    assert keep_rows(frame, condition, errors)[0].is_empty()
    assert errors.count == 2


def test_a_cell_that_is_no_number_is_a_bad_row():
    frame = pl.DataFrame({"line_number": [7, 8], "where 0": ["four", "5"]})
    with pytest.raises(
        DataError, match=r"f, line 7: found 'four'; expected a number in column 'r'"
    ):
        keep_rows(frame, [("where 0", parse_condition("r > 4"))], LineErrors("f"))
    errors = LineErrors("f", "skip")
    rows, left_out = keep_rows(frame, [("where 0", parse_condition("r > 4"))], errors)
    assert (rows["line_number"].to_list(), left_out, errors.count) == ([8], 0, 1)
