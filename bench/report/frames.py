"""Rows as a data frame, of whichever library the caller works with; tables as such rows."""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from typing import Any

from bench.errors import MissingExtraError, missing_package, unknown_name
from bench.report.columns import COLUMNS, METRICS
from bench.report.table import Row, Table

__all__ = ["KINDS", "frame", "table_frame"]

KINDS = ("pandas", "polars")
"""Libraries of data frames."""


def frame(rows: Sequence[Mapping[str, Any]], columns: Sequence[str], kind: str = "pandas") -> Any:
    """Rows as a data frame.

    Args:
        rows: one mapping per row; numbers that are missing are NaN.
        columns: their keys, in order; also the columns of a frame without rows.
        kind: one of :data:`KINDS`.

    Raises:
        ConfigError: another kind.
        MissingExtraError: the library is not installed.
    """
    if kind not in KINDS:
        raise unknown_name("kind of data frame", kind, KINDS)
    try:
        library = importlib.import_module(kind)
    except ImportError as error:
        missing = missing_package(error)
        if missing is None:
            raise
        other = f" Or name another kind of data frame: {', '.join(k for k in KINDS if k != kind)}."
        raise MissingExtraError(f"{missing}{other}") from error
    return library.DataFrame({name: [row[name] for row in rows] for name in columns})


def table_frame(tables: Sequence[Table], kind: str = "pandas") -> Any:
    """The columns of CSV, with one row per row of a table and metric.

    ``metric``, ``mean``, ``lo`` and ``hi`` stand where CSV has the metrics; metrics that a row lacks have none.

    Args:
        tables: the tables.
        kind: one of :data:`KINDS`.

    Raises:
        ConfigError, MissingExtraError: as :func:`frame`.
    """
    names = ["target", "task_hash", "block"]
    for column in COLUMNS:
        names += ("metric", "mean", "lo", "hi") if column is METRICS else column.csv_names
    rows = []
    for one in tables:
        for block in one.blocks:
            task_hash = "" if block.kind == "reported" else one.task_hash
            start = {"target": one.target, "task_hash": task_hash, "block": block.kind}
            for row in block.rows:
                told = {**start, **_told(row)}
                for metric, figure in row.figures.items():
                    low, high = figure.ci95 or (math.nan, math.nan)
                    rows.append(
                        {**told, "metric": metric, "mean": figure.mean, "lo": low, "hi": high}
                    )
    return frame(rows, names, kind)


def _told(row: Row) -> dict[str, Any]:
    """What CSV tells of a row besides its figures; None for what it lacks."""
    told: dict[str, Any] = {}
    for column in COLUMNS:
        names, value = column.csv_names, column.value(row)
        if value == column.absent:
            value = None
        parts = (value,) * len(names) if len(names) < 2 or value is None else value
        told |= zip(names, map(_joined, parts), strict=True)
    return told


def _joined(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, tuple) else value
