"""One rule for times: the kind of most values, empty cells decide nothing."""

from __future__ import annotations

import datetime

import polars as pl
import pytest

from bench.data.readers.delimited import Dialect
from bench.data.readers.tabular import TableOptions, read_tabular
from bench.data.readers.times import is_time, parse_times
from bench.errors import ConfigError, DataError

DAY = 86_400.0


@pytest.mark.parametrize(
    ("texts", "numbers"),
    [
        (["", "1970-01-02", "1970-01-03"], [None, DAY, 2 * DAY]),
        (["N/A", "1970-01-02", None, "1970-01-03T00:00:00Z"], [None, DAY, None, 2 * DAY]),
        (["", "5", " 6.5 "], [None, 5.0, 6.5]),
        (["7", "1970-01-02", "1970-01-03"], [None, DAY, 2 * DAY]),  # a number of another unit
        (["7", "8", "1970-01-03"], [7.0, 8.0, None]),
        (["1970-01-02", "7"], [DAY, None]),
        (["7", "1970-01-02"], [7.0, None]),
        (["1970-01-02 00:00:00.250", "1970-01-02T01:00:00+01:00"], [DAY + 0.25, DAY]),
        (["1.5E+3", "nan", "inf", "1e999"], [1500.0, None, None, None]),
        (["", None], [None, None]),
    ],
)
def test_the_kind_of_most_values_counts(texts, numbers):
    assert parse_times(pl.Series(texts, dtype=pl.String))[0].to_list() == numbers


def test_a_format_names_the_form():
    days = parse_times(pl.Series(["02/01/1970", "03/01/1970", "", "1970-01-02"]), "%d/%m/%Y")[0]
    assert days.to_list() == [DAY, 2 * DAY, None, None]
    zoned = parse_times(pl.Series(["Fri Jan 02 01:00:00 +0100 1970"]), "%a %b %d %H:%M:%S %z %Y")[0]
    assert zoned.to_list() == [DAY]
    assert is_time("3:05 PM 2/1/1970", "%I:%M %p %d/%m/%Y")
    assert not is_time("soon")


def test_parquet_times_of_any_type(tmp_path):
    when = datetime.datetime(1970, 1, 2)  # noqa: DTZ001 - naive means UTC here
    for values, seconds in (
        (["1970-01-02", None, "1970-01-03"], [DAY, 2 * DAY]),
        (["5", "6", "x"], [5.0, 6.0]),
        ([when, None, when], [DAY, DAY]),
        ([1, 2, None], [1.0, 2.0]),
    ):
        path = tmp_path / "e.parquet"
        ids = {"user_id": ["u"] * 3, "item_id": ["a", "b", "c"]}
        pl.DataFrame({**ids, "timestamp": values}).write_parquet(path)
        raw = read_tabular(path, on_error="skip")
        assert raw.events["time"].to_list() == seconds
        assert raw.skipped == {"e.parquet": 1}


@pytest.mark.parametrize(
    ("form", "said"), [("dd/mm/yyyy", "names no part"), ("%I %p %d/%m/%Y", "cannot be used")]
)
def test_a_format_that_no_text_has_is_refused(tmp_path, form, said):
    with pytest.raises(ConfigError, match=said):
        read_tabular(tmp_path / "e.csv", options=TableOptions(Dialect(time_format=form)))


def test_times_that_a_spreadsheet_rounded_are_named(tmp_path):
    path = tmp_path / "e.csv"
    path.write_text(
        "user_id,item_id,timestamp\nu,i,1.58869E+12\nu,j,1.58869E+12\nv,i,1.58870E+12\n"
    )
    (note,) = read_tabular(path).notes
    assert note.startswith("warning: 3 times are in scientific notation ('1.58869E+12'")
    assert "2 distinct times are left" in note


def test_files_of_one_import_have_times_of_one_kind(tmp_path):
    numbers, dates = tmp_path / "n.csv", tmp_path / "d.csv"
    numbers.write_text("user_id,item_id,timestamp\nu,i,1588690000000\n")
    dates.write_text("user_id,item_id,timestamp\nu,j,2020-05-06\n")
    with pytest.raises(DataError, match=r"d\.csv: the times are dates, but numbers in .*n\.csv"):
        read_tabular([numbers, dates])
