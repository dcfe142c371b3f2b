"""Times of any source as seconds, or numbers of the source's own unit: one rule for all readers."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import polars as pl

from bench.errors import ConfigError

__all__ = ["check_time_format", "expected_time", "is_time", "parse_times"]

_EXPECTED = "a finite number, or a date like 2023-09-15T19:14:33Z (another form: --time-format),"


def check_time_format(time_format: str | None) -> None:
    """Reject a format that no text could have.

    Raises:
        ConfigError: no ``%`` directive, or some that do not fit together.
    """
    if time_format is None:
        return
    problem = "" if "%" in time_format else " names no part of a date"
    try:
        pl.Series(["1970"]).str.to_datetime(time_format, strict=False)
    except pl.exceptions.ComputeError as error:
        problem = f" cannot be used ({str(error).splitlines()[0]})"
    if problem:
        raise ConfigError(
            f"time format {time_format!r}{problem}; expected directives as of strftime, for example "
            "'%d/%m/%Y %H:%M'."
        )


def expected_time(time_format: str | None = None) -> str:
    """What a time should have been, for messages."""
    return _EXPECTED if time_format is None else f"the form {time_format!r} (--time-format)"


def parse_times(
    times: pl.Series, time_format: str | None = None, *, numbers: bool = False
) -> tuple[pl.Series, bool]:
    """Float64 of every time, null if a value is none; and whether they are dates.

    Text holds numbers or dates of ISO 8601 (without zone: UTC), which become seconds since 1970.
    A column is of one kind, that of most of its values (of the first if both are as many): a
    number beside dates has another unit and is none. Empty cells decide nothing.

    Args:
        times: text, numbers, or dates and times of Parquet.
        time_format: strftime directives of a text column; None: numbers or ISO 8601.
        numbers: whether text can only hold numbers.
    """
    if times.dtype.is_numeric():
        return _finite(times.cast(pl.Float64)), False
    if isinstance(times.dtype, pl.Datetime) or times.dtype == pl.Date:
        return times.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6, True
    text = times.cast(pl.String).str.strip_chars()
    if time_format is not None:
        parsed = text.str.to_datetime(time_format, strict=False)
        return parsed.dt.timestamp("us").cast(pl.Float64) / 1e6, True
    plain = _finite(text.cast(pl.Float64, strict=False))
    others = [] if numbers else text.filter(plain.is_null() & text.is_not_null()).unique().to_list()
    known = {value: seconds for value in others if (seconds := _iso_seconds(value)) is not None}
    if not known:
        return plain, False
    dates = text.replace_strict(known, default=None, return_dtype=pl.Float64)
    n_plain, n_dates = plain.count(), dates.count()
    if n_plain == n_dates:
        dated = (dates.is_not_null().arg_max() or 0) < (plain.is_not_null().arg_max() or 0)
    else:
        dated = n_dates > n_plain
    return (dates, True) if dated else (plain, False)


def is_time(text: str, time_format: str | None = None) -> bool:
    """Whether one text is a time, by the rule of :func:`parse_times`."""
    return parse_times(pl.Series([text], dtype=pl.String), time_format)[0].count() == 1


def _finite(numbers: pl.Series) -> pl.Series:
    return numbers.set(~numbers.is_finite().fill_null(value=False), None)


def _iso_seconds(text: str) -> float | None:
    try:
        when = datetime.fromisoformat(text)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None
