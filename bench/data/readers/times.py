"""Times of any source as seconds, or numbers of the source's own unit: one rule for all readers."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import polars as pl

from bench.errors import ConfigError

__all__ = ["EXPECTED_TIME", "check_time_format", "is_time", "time_numbers"]

EXPECTED_TIME = "a finite number, or a date like 2023-09-15T19:14:33Z,"


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


def time_numbers(times: pl.Series, time_format: str | None = None) -> pl.Series:
    """Float64 of every time; null where a value is none.

    Text holds numbers or dates of ISO 8601 (without zone: UTC), which become seconds since 1970.
    A column is of one kind, that of most of its values (of the first where both are as many): a
    number beside dates has another unit and is none. Empty cells decide nothing.

    Args:
        times: text, numbers, or dates and times of Parquet.
        time_format: strftime directives of a text column; None: numbers or ISO 8601.
    """
    if times.dtype.is_numeric():
        return _finite(times.cast(pl.Float64))
    if isinstance(times.dtype, pl.Datetime) or times.dtype == pl.Date:
        return times.cast(pl.Datetime("us")).dt.timestamp("us").cast(pl.Float64) / 1e6
    text = times.cast(pl.String).str.strip_chars()
    if time_format is not None:
        parsed = text.str.to_datetime(time_format, strict=False)
        return parsed.dt.timestamp("us").cast(pl.Float64) / 1e6
    numbers = _finite(text.cast(pl.Float64, strict=False))
    others = text.filter(numbers.is_null() & text.is_not_null()).unique().to_list()
    known = {value: seconds for value in others if (seconds := _iso_seconds(value)) is not None}
    if not known:
        return numbers
    dates = text.replace_strict(known, default=None, return_dtype=pl.Float64)
    n_numbers, n_dates = numbers.count(), dates.count()
    if n_numbers == n_dates:
        first = numbers.is_not_null().arg_max() or 0
        return numbers if first < (dates.is_not_null().arg_max() or 0) else dates
    return numbers if n_numbers > n_dates else dates


def is_time(text: str, time_format: str | None = None) -> bool:
    """Whether one text is a time, by the rule of :func:`time_numbers`."""
    return time_numbers(pl.Series([text], dtype=pl.String), time_format).count() == 1


def _finite(numbers: pl.Series) -> pl.Series:
    return numbers.set(~numbers.is_finite().fill_null(value=False), None)


def _iso_seconds(text: str) -> float | None:
    try:
        when = datetime.fromisoformat(text)
        seconds = (when if when.tzinfo else when.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds if math.isfinite(seconds) else None
