"""MIND (news): impressions of several news each become events of the clicked ones."""

from __future__ import annotations

import polars as pl

from bench.data.readers.times import parse_times

__all__ = ["clicks"]


def clicks(frame: pl.DataFrame, time_format: str | None) -> pl.DataFrame:
    """Events of a behaviors file.

    The history of a user (the same in each of their lines, oldest first, without times) comes before
    their first impression, one second apart; then every news clicked (``N1-1``) at the time of its
    impression.

    Args:
        frame: columns ``line_number``, ``user``, ``time``, ``history`` and ``impressions``.
        time_format: strftime directives of ``time``.

    Returns:
        Columns ``line_number``, ``user``, ``item``, ``time`` (float64 seconds; null: no time).
    """
    frame = frame.with_columns(parse_times(frame["time"], time_format)[0].alias("seconds"))
    first = pl.col("seconds").min().over("user")
    seen = frame.with_columns(first.alias("start")).filter(pl.col("user").is_first_distinct())
    seen = seen.with_columns(pl.col("history").str.strip_chars().str.split(" ").alias("item"))
    back = pl.int_ranges(pl.col("item").list.len(), 0, step=-1)
    seen = seen.with_columns(back.alias("back")).explode("item", "back")
    seen = seen.with_columns((pl.col("start") - pl.col("back")).alias("seconds"))
    chosen = frame.with_columns(
        pl.col("impressions").str.strip_chars().str.split(" ").alias("item")
    )
    chosen = chosen.explode("item").filter(pl.col("item").str.ends_with("-1"))
    chosen = chosen.with_columns(pl.col("item").str.strip_suffix("-1"))
    columns = ("line_number", "user", "item", pl.col("seconds").alias("time"))
    events = pl.concat([seen.filter(pl.col("item") != "").select(columns), chosen.select(columns)])
    return events.sort("line_number", maintain_order=True)
