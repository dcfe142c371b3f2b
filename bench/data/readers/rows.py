"""From columns as they stand in a file to events and items: the one place that calls a row bad."""

from __future__ import annotations

import polars as pl

from bench.data.raw import EVENT_SCHEMA, LineErrors
from bench.data.readers.times import parse_times

__all__ = ["events_of", "items_of"]


def _blank(column: str) -> pl.Expr:
    return pl.col(column).fill_null("").str.strip_chars() == ""


def events_of(
    frame: pl.DataFrame,
    errors: LineErrors,
    times: pl.Series | None = None,
    *,
    expected: str = "a finite number",
) -> pl.DataFrame:
    """Reject rows without usable ids or time.

    Args:
        frame: columns ``line_number``, ``user`` and ``item`` (str), ``time`` (any type).
        errors: told about empty ids, ids with control characters and times that are none.
        times: the times parsed, null if there is none; None: the column holds numbers.
        expected: what a time should have been, for messages.

    Returns:
        The columns of ``EVENT_SCHEMA`` in the order of rows, malformed ones left out.
    """
    seconds = parse_times(frame["time"], numbers=True)[0] if times is None else times
    frame = frame.with_columns(seconds.alias("seconds"))
    for column in ("user", "item"):
        frame = errors.drop(frame, _blank(column), column, f"a non-empty {column} id")
        # No atomic file could hold such an id.
        odd = pl.col(column).str.contains(r"[\x00-\x1f\x7f]")
        frame = errors.drop(
            frame, odd, column, f"a {column} id without tabs, line ends or controls"
        )
    frame = errors.drop(frame, pl.col("seconds").is_null(), "time", f"{expected} as time")
    return frame.select("user", "item", time="seconds").cast(dict(EVENT_SCHEMA))  # type: ignore[arg-type]


def items_of(frame: pl.DataFrame, errors: LineErrors, *, what: str = "item") -> pl.DataFrame:
    """Reject rows without an id and further rows of one id.

    Args:
        frame: columns ``line_number``, ``item`` and texts.
        errors: told about them.
        what: how messages call an item.

    Returns:
        Columns ``item``, ``title`` and the other texts, "" if there is none.
    """
    frame = errors.drop(frame, _blank("item"), "item", f"a non-empty {what} id")
    again = ~pl.col("item").is_first_distinct()
    frame = errors.drop(frame, again, "item", f"one row per {what} (this id has one above)")
    if "title" not in frame.columns:
        frame = frame.with_columns(pl.lit("").alias("title"))
    return frame.drop("line_number").with_columns(pl.all().cast(pl.String).fill_null(""))
