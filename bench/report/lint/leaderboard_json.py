"""Rows of the JSON that ``bench leaderboard --format json`` writes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bench.documents import parse_json
from bench.errors import DataError
from bench.report.lint.figures import STORED_UNIT, Cell, ReportedRow, parse_cell

__all__ = ["read_json_rows"]


def read_json_rows(text: str, source: str) -> list[ReportedRow]:
    """Rows with figures, of the table of one target or of a suite.

    Args:
        text: content of the file.
        source: its name in messages.

    Raises:
        DataError: not such a JSON.
    """
    try:
        value = parse_json(text)
        tables = value.get("tables", [value])
        return [
            _json_row(table, row, quoted=block.get("kind") == "reported")
            for table in tables
            for block in table["blocks"]
            for row in block["rows"]
            if row["metrics"]
        ]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"{source}: not the JSON of a leaderboard ({type(error).__name__}: {error}). Expected what "
            "`bench leaderboard --format json` writes; other tables as CSV, Markdown or LaTeX."
        ) from error


def _json_row(table: Mapping[str, Any], row: Mapping[str, Any], *, quoted: bool) -> ReportedRow:
    n_candidates, tied = table["protocol"]["n_candidates"], row.get("share_tied")
    figures = {}
    for name, figure in row["metrics"].items():
        text = repr(float(figure["mean"]))
        # Quoted figures have the digits that were printed; ours are rounded to twelve.
        unit = parsed.unit if quoted and (parsed := parse_cell(text)) else STORED_UNIT
        figures[name] = Cell(float(figure["mean"]), unit, text)
    return ReportedRow(
        str(table["target"]),
        str(row["label"]),
        0,
        figures,
        n_users=int(row["n_users"]) or None,
        n_seeds=len(row["seeds"]) or None,
        share_tied=None if tied is None else float(tied),
        n_candidates=n_candidates if isinstance(n_candidates, int) else None,
    )
