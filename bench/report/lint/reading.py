"""Grids of cells to rows of figures: which column is which metric, which row is which method.

Three layouts are read: one line per method with metrics as columns (also several targets side by side,
under a line of group names), one line per method and target, and metrics as rows with methods as
columns.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench.errors import DataError
from bench.report.lint.figures import Cell, ReportedRow, ReportedTable, metric_name, parse_cell
from bench.report.lint.grids import Grid, GridRow, csv_grids, guess_format, markdown_grids
from bench.report.lint.latex import latex_grids
from bench.report.lint.leaderboard_json import read_json_rows

__all__ = ["read_table"]

_LONGEST_TEXT = 5_000_000
_MOST_DIGITS = 9

_CUT = re.compile(r"@\s*([1-9][0-9]{0,3})")
_KIND_ONLY = re.compile(r"ndcg|hr|hits?|hit rate|hit ratio|recall|mrr", re.I)
_MISSING = re.compile(r"(?:[-–—/]|n/?a|nan|none|null|oom|)", re.I)
_SIGNS = " \t*^†‡§¶‖#∗⋆★"
_DERIVED = re.compile(
    r"(?:[%Δ↑+]\s*)?(?:rel(?:ative|\.)?\s*)?(?:improv(?:e(?:ments?)?)?\.?|impr?\.|impr|gains?|delta|p[- ]?values?|δ)(?![\w-]).*",
    re.I,
)
_N_CANDIDATES = re.compile(r"(?<!to )(?<![\d,.])(\d{1,3}(?:,\d{3})+|\d+) candidates per user")

_COLUMNS: Mapping[str, str] = {
    **dict.fromkeys(("target", "dataset", "domain", "data", "target domain"), "target"),
    **dict.fromkeys(("label",), "label"),
    **dict.fromkeys(("method", "model", "methods", "models", "algorithm", "approach"), "method"),
    **dict.fromkeys(("n", "n_users", "users", "#users", "n users"), "users"),
    **dict.fromkeys(("s", "seeds", "#seeds", "n_seeds"), "seeds"),
    **dict.fromkeys(("metric", "metrics", "measure"), "metric"),
    **dict.fromkeys(("n_candidates", "candidates"), "candidates"),
}
_NOT_A_NAME = {"family", "type", "category", "group", "profile", "block", "task_hash", "flags"}


@dataclass(slots=True)
class _Builder:
    percent: bool
    rows: list[ReportedRow] = field(default_factory=list)
    unread: list[tuple[int, str]] = field(default_factory=list)

    def cell(self, text: str, line: int) -> Cell | None:
        if _MISSING.fullmatch(text):
            return None
        parsed = parse_cell(text, percent=self.percent)
        if parsed is None:
            self.unread.append((line, text))
        return parsed


def read_table(text: str, source: str, *, suffix: str = "", percent: bool = False) -> ReportedTable:
    """Read every table of a text.

    Args:
        text: content of a CSV, TSV, Markdown or LaTeX file, or JSON of ``bench leaderboard``.
        source: its name in messages.
        suffix: ending of the file's name, for example ``.tex``; unknown endings are guessed from the
            content.
        percent: figures without a sign are percentages.

    Raises:
        DataError: no table with a column or row of metrics (the message says what was looked for), or
            a text too large or too odd to be a table of figures.
    """
    if len(text) > _LONGEST_TEXT:
        raise DataError(
            f"{source}: {len(text):,} characters, at most {_LONGEST_TEXT:,} are read. Cut the file down to "
            "the table of figures."
        )
    builder = _Builder(percent)
    kind = guess_format(suffix, text)
    if kind == "json":
        builder.rows += read_json_rows(text, source)
    else:
        grids = {"csv": csv_grids, "markdown": markdown_grids, "latex": latex_grids}[kind]
        try:
            declared = _declared_candidates(text)
            for grid in grids(text):
                _read_grid(grid, declared, builder)
        except (ValueError, ArithmeticError, RecursionError, csv.Error) as error:
            raise DataError(
                f"{source}: not a table that can be read as {kind} ({error}). Cut the file down to the "
                "table of figures."
            ) from error
    if not builder.rows:
        raise DataError(
            f"{source}: no figures found (read as {kind}). Expected a table whose columns or rows are "
            "named NDCG@k, MRR@k, HR@k (also N@k, M@k, H@k, Recall@k) or AUC, with numbers."
        )
    return ReportedTable(source, tuple(builder.rows), tuple(builder.unread))


def _declared_candidates(text: str) -> int | None:
    numbers = (number.replace(",", "") for number in _N_CANDIDATES.findall(text))
    found = {int(number) for number in numbers if len(number) <= _MOST_DIGITS}
    return found.pop() if len(found) == 1 and min(found) >= 1 else None


def _read_grid(grid: Grid, declared: int | None, builder: _Builder) -> None:
    header: dict[int, str] | None = None
    before = len(builder.rows)
    above: list[GridRow] = []
    names: list[str] = []
    groups: dict[int, str] = {}
    target = ""
    for row, following in zip(grid.rows, (*grid.rows[1:], None), strict=True):
        metrics = _header_metrics(row, above)
        if metrics and not (following and _has_cuts(following)):
            header = metrics
            names = _column_names(row, above, metrics)
            groups = _groups(metrics, above)
            target, above = "", []
            continue
        if header is None or not any(_is_figure(row, column) for column in header):
            above = [*above[-1:], row]
            continue
        above = []
        roles = _roles(names)
        target = _text_of(row, roles.get("target")) or target
        method = _method(row, names, roles, header)
        if _DERIVED.fullmatch(method):
            continue
        for group, columns in _by_group(header, groups).items():
            cells = {
                metric: cell
                for column, metric in columns.items()
                if (cell := builder.cell(_at(row, column), row.line)) is not None
            }
            if cells:
                builder.rows.append(
                    ReportedRow(
                        target=" ".join(x for x in (target, group) if x) or grid.title,
                        method=method,
                        line=row.line,
                        figures=cells,
                        n_users=_count(_text_of(row, roles.get("users"))),
                        n_seeds=_n_seeds(_text_of(row, roles.get("seeds")), names, roles),
                        n_candidates=_count(_text_of(row, roles.get("candidates"))) or declared,
                    )
                )
    if len(builder.rows) == before:
        _read_transposed(grid, declared, builder)


def _header_metrics(row: GridRow, above: Sequence[GridRow]) -> dict[int, str]:
    """Metrics by column if a row is a header; cut-offs alone take the metric from above."""
    found: dict[int, str] = {}
    for column, text in enumerate(row.cells):
        name = metric_name(text)
        if name is None and (cut := _CUT.fullmatch(text)) and above:
            kind = _nearest(above[-1], column, lambda x: bool(_KIND_ONLY.fullmatch(x)))
            name = metric_name(f"{kind}@{cut[1]}")
        if name is not None:
            found[column] = name
    # A row of figures under metrics holds numbers; a line of a transposed table names one metric.
    others = [text for column, text in enumerate(row.cells) if column not in found]
    if any(parse_cell(text) and "." in text for text in others):
        return {}
    return found


def _has_cuts(row: GridRow) -> bool:
    return any(_CUT.fullmatch(text) for text in row.cells)


def _column_names(row: GridRow, above: Sequence[GridRow], metrics: Mapping[int, str]) -> list[str]:
    """Names of the columns; one that stands a line higher (spanning two lines) counts too."""
    names = list(row.cells)
    for upper in reversed(above):
        for column, text in enumerate(upper.cells):
            if column < len(names) and column not in metrics and not names[column]:
                names[column] = text
    return names


def _groups(metrics: Mapping[int, str], above: Sequence[GridRow]) -> dict[int, str]:
    """Group name by column, from the line above the metrics; "" if a lone group has none.

    Names that span columns are repeated in each (LaTeX), or stand over the first (Markdown, CSV).
    """
    columns = sorted(metrics)
    blocks: list[list[int]] = []
    for column in columns:
        fresh = not blocks or any(metrics[c] == metrics[column] for c in blocks[-1])
        if fresh:
            blocks.append([])
        blocks[-1].append(column)
    uppers = [row for row in above if not any(map(_KIND_ONLY.fullmatch, row.cells))]
    upper = uppers[-1] if uppers else GridRow(0, ())
    result: dict[int, str] = {}
    for number, block in enumerate(blocks, start=1):
        name = _nearest(upper, block[0], bool, columns[0])
        name = name or (f"group {number}" if len(blocks) > 1 else "")
        if name in result.values():
            name = f"{name} ({number})"
        result.update(dict.fromkeys(block, name))
    return result


def _nearest(row: GridRow, column: int, accept: Any, first: int = 0) -> str:
    """The cell above ``column``, or the nearest one to its left that is not empty."""
    for position in range(min(column, len(row.cells) - 1), first - 1, -1):
        if row.cells[position]:
            return row.cells[position] if accept(row.cells[position]) else ""
    return ""


def _by_group(header: Mapping[int, str], groups: Mapping[int, str]) -> dict[str, dict[int, str]]:
    result: dict[str, dict[int, str]] = {}
    for column, metric in header.items():
        result.setdefault(groups.get(column, ""), {})[column] = metric
    return result


def _roles(names: Sequence[str]) -> dict[str, int]:
    roles: dict[str, int] = {}
    for column, name in enumerate(names):
        if role := _COLUMNS.get(name.strip().lower()):
            roles.setdefault(role, column)
    return roles


def _method(
    row: GridRow, names: Sequence[str], roles: Mapping[str, int], header: Mapping[int, str]
) -> str:
    for role in ("label", "method"):
        if text := _text_of(row, roles.get(role)):
            return text
    taken = {*header, *roles.values()}
    texts = [
        text
        for column, text in enumerate(row.cells)
        if column not in taken
        and text
        and (column >= len(names) or names[column].strip().lower() not in _NOT_A_NAME)
        and parse_cell(text) is None
        and column < max(header)
    ]
    return texts[-1].strip(_SIGNS) if texts else f"line {row.line}"


def _read_transposed(grid: Grid, declared: int | None, builder: _Builder) -> None:
    """Metrics as rows, methods as columns; the first line names the methods."""
    lines = [
        (row, column, metric)
        for row in grid.rows
        for column, text in enumerate(row.cells)
        if (metric := metric_name(text)) is not None
    ]
    if not lines or not grid.rows:
        return
    names, target = grid.rows[0].cells, ""
    tables: dict[tuple[str, int, int], dict[str, Cell]] = {}
    firsts: dict[tuple[str, int, int], int] = {}
    block = 0
    for row, metric_column, metric in lines:
        label = next((x for x in reversed(row.cells[:metric_column]) if x), "")
        if label and label != target:
            target, block = label, block + 1
        for column in range(metric_column + 1, len(row.cells)):
            if column < len(names) and _DERIVED.fullmatch(names[column].strip(_SIGNS)):
                continue
            cell = builder.cell(row.cells[column], row.line)
            if cell is None:
                continue
            key = (target, block, column)
            if metric in tables.get(key, {}):
                block += 1
                key = (target, block, column)
            tables.setdefault(key, {})[metric] = cell
            firsts.setdefault(key, row.line)
    for key, cells in tables.items():
        column = key[2]
        method = names[column].strip(_SIGNS) if column < len(names) else ""
        builder.rows.append(
            ReportedRow(
                key[0] or grid.title,
                method or f"column {column + 1}",
                firsts[key],
                cells,
                n_candidates=declared,
            )
        )


def _at(row: GridRow, column: int) -> str:
    return row.cells[column] if column < len(row.cells) else ""


def _is_figure(row: GridRow, column: int) -> bool:
    return parse_cell(_at(row, column)) is not None


def _text_of(row: GridRow, column: int | None) -> str:
    return "" if column is None else _at(row, column).strip(_SIGNS)


def _count(text: str) -> int | None:
    digits = re.sub(r"[,\s']", "", text)
    return int(digits) if digits.isdecimal() and int(digits) > 0 else None


def _n_seeds(text: str, names: Sequence[str], roles: Mapping[str, int]) -> int | None:
    """Number of seeds: a count under ``S``, a list of seeds under ``seeds``."""
    if not text or "seeds" not in roles:
        return None
    if names[roles["seeds"]].strip().lower() == "seeds":
        return len(text.split()) or None
    return _count(text)
