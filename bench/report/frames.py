"""Rows as a data frame, of whichever library the caller works with."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from typing import Any

from bench.errors import missing_package, unknown_name

__all__ = ["KINDS", "frame"]

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
        raise missing_package(error) or error from error
    return library.DataFrame({name: [row[name] for row in rows] for name in columns})
