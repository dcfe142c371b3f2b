"""JSON values, metric records and Parquet bytes: the small pure parts of what a run writes."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.evaluation import METRICS, Outcomes, summarise, tie_report
from bench.io import canonical_json

__all__ = ["jsonable", "metrics_record", "per_user_bytes", "utc_now"]


def utc_now() -> str:
    """The time as ISO 8601 in UTC, whole seconds, for example ``2025-01-31T12:00:00Z``."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def per_user_bytes(users: NDArray[np.int32], outcomes: Outcomes) -> bytes:
    """Canonical user index and outcome columns as Parquet; equal input gives equal bytes."""
    frame = pl.DataFrame({"user": users.astype(np.int32), **outcomes.to_columns()})
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", compression_level=3, statistics=False)
    return buffer.getvalue()


def metrics_record(outcomes: Outcomes, metrics: Sequence[str] = METRICS) -> dict[str, Any]:
    """Metrics with their 95 % intervals, and how much ties matter."""
    return {
        "n_users": len(outcomes),
        "metrics": {
            name: {"mean": s.mean, "ci95": [s.ci95[0], s.ci95[1]]}
            for name, s in summarise(outcomes, metrics).items()
        },
        "ties": jsonable(asdict(tie_report(outcomes, metrics))),
    }


def jsonable(value: Any) -> Any:
    """NumPy scalars, paths and tuples as plain JSON values; everything else must be JSON already.

    Raises:
        TypeError: the value has no JSON form.
        ValueError: NaN or infinity.
    """
    if isinstance(value, Mapping):
        return {str(k): jsonable(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [jsonable(v) for v in value]
    if isinstance(value, (np.generic, np.ndarray)):
        return jsonable(value.tolist())
    if isinstance(value, Path):
        return str(value)
    canonical_json(value)
    return value
