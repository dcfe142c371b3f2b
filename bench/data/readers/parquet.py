"""Parquet files: columns picked by name, ids as text, times in their own type."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import polars as pl

from bench.data.readers.columns import Found
from bench.errors import DataError

__all__ = ["read_parquet"]


def read_parquet(
    path: Path, choose: Callable[[list[str]], Found], extra: Sequence[str]
) -> tuple[pl.DataFrame, Found]:
    """Read the columns that ``choose`` finds among the names, and ``extra`` (as ``where N``).

    Returns:
        Columns ``line_number`` (row, from 1), the roles and the extra ones; what was found.

    Raises:
        DataError: no readable Parquet, or a column whose type holds no ids, times or texts.
    """
    try:
        found = choose(list(pl.read_parquet_schema(path)))
        roles = {role: column for role, column in found.columns.items() if column is not None}
        table = pl.read_parquet(path, columns=sorted({*roles.values(), *extra}))
    except FileNotFoundError as error:
        raise DataError(f"{path}: no such file; check the path.") from error
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(
            f"{path}: not a readable Parquet file ({error}); expected Parquet. "
            "Write it again, or convert it to CSV."
        ) from error
    columns = [_column(role, table[column], path).alias(role) for role, column in roles.items()]
    columns += [table[column].alias(f"where {at}") for at, column in enumerate(extra)]
    numbers = pl.int_range(1, table.height + 1, dtype=pl.Int64, eager=True).alias("line_number")
    return pl.DataFrame([numbers, *columns]), found


def _column(role: str, values: pl.Series, path: Path) -> pl.Series:
    kind = values.dtype
    is_text = kind in (pl.String, pl.Categorical, pl.Enum)
    if role == "time":
        fits, expected = (
            is_text or kind.is_numeric() or kind in (pl.Datetime, pl.Date),
            ("a number, a date, a datetime or a text of one of these"),
        )
        if fits:
            return values
    elif role in ("user", "item"):
        fits, expected = is_text or kind.is_integer(), "text or whole numbers"
        if kind.is_float() and bool((values.drop_nulls() % 1 == 0).all()):
            # A missing id makes pandas write whole numbers as floats; the text keeps their ".0".
            return values.cast(pl.Int64).cast(pl.String) + ".0"
        if fits:
            return values.cast(pl.String)
    else:
        expected = "text, or lists of text"
        if kind == pl.List(pl.String):
            return values.list.join(" > ")
        if not kind.is_nested() and kind != pl.Binary:
            return values.cast(pl.String)
    raise DataError(
        f"{path}: column {values.name!r} has type {kind}; expected {expected}. "
        "Cast it before writing the file."
    )
