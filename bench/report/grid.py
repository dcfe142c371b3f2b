"""A table as titled columns and text cells: what the Markdown, LaTeX and HTML writers share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report.table import FAMILIES, FLAGS, SIGNS, Block, Mark, Row, Table

__all__ = [
    "EM_RULE",
    "EN_RULE",
    "Cell",
    "Column",
    "Section",
    "cells_of",
    "columns",
    "family_title",
    "rank_text",
    "sections",
]

EM_RULE = "—"
"""Stands where a figure is missing; the caption says why."""

EN_RULE = "–"
"""Stands where a cell does not apply, such as the seeds of a row that was never trained."""

_TITLES = {**FAMILIES, "missing": "No stored run"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        key: ``family``, ``method``, ``profile``, ``seeds``, ``users``, a metric, ``interval``,
            ``rank``, ``own``, ``total`` or ``memory``.
        title: its heading.
        is_text: whether it is aligned to the left.
        is_metric: whether its cells are figures with marks.
    """

    key: str
    title: str
    is_text: bool = False
    is_metric: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell.

    Attributes:
        text: as displayed, not escaped for any format.
        mark: best or second best of its column.
        signs: what stands behind it.
        exact: the value in full precision, or None.
        spread: half the width of the 95 % interval, as displayed, or "".
    """

    text: str
    mark: Mark | None = None
    signs: str = ""
    exact: float | None = None
    spread: str = ""


@dataclass(frozen=True, slots=True)
class Section:
    """A block with its cells: per row, the row and one cell per column."""

    block: Block
    lines: tuple[tuple[Row, tuple[Cell, ...]], ...]


def columns(table: Table) -> tuple[Column, ...]:
    """The columns of a table, in order."""
    found = [Column("family", "Family", is_text=True), Column("method", "Method", is_text=True)]
    if len({row.profile for row in table.rows if row.profile}) > 1:
        found.append(Column("profile", "Profile", is_text=True))
    found += [Column("seeds", "S"), Column("users", "n")]
    found += [Column(metric, metric.upper(), is_metric=True) for metric in table.metrics]
    if table.with_intervals:
        found.append(Column("interval", f"{table.primary.upper()} 95 % CI"))
    if table.with_ranks:
        found.append(Column("rank", "Rank"))
    if table.with_costs:
        found += [Column("own", "Own s"), Column("total", "Total s"), Column("memory", "Peak MB")]
    return tuple(found)


def sections(table: Table, shown: Sequence[Column] | None = None) -> Iterator[Section]:
    """The blocks of a table with their cells; a family is named in its first row only."""
    chosen = columns(table) if shown is None else shown
    for block in table.blocks:
        lines = []
        family: str | None = None
        for row in block.rows:
            first = row.family != family
            family = row.family
            lines.append((row, cells_of(table, row, chosen, first)))
        yield Section(block, tuple(lines))


def cells_of(
    table: Table, row: Row, shown: Sequence[Column], with_family: bool = True
) -> tuple[Cell, ...]:
    """The cells of one row of ``table``."""
    return tuple(_cell(table, row, column.key, with_family) for column in shown)


def family_title(family: str) -> str:
    """Title of a family in a table."""
    return _TITLES.get(family, family)


def rank_text(row: Row) -> str:
    """The places that a row may hold, such as ``1`` or ``2–4``."""
    if row.rank is None:
        return EN_RULE
    best, worst = row.rank
    return str(best) if best == worst else f"{best}{EN_RULE}{worst}"


def _cell(table: Table, row: Row, key: str, first: bool) -> Cell:
    if key in table.metrics:
        return _figure(table, row, key)
    if key == "family":
        return Cell(family_title(row.family) if first else "")
    if key == "method":
        return Cell(row.label, signs="".join(s for flag, s in FLAGS.items() if flag in row.flags))
    if key == "profile":
        return Cell(row.profile or EN_RULE)
    if key == "seeds":
        return Cell(str(len(row.seeds)) if row.seeds else EN_RULE)
    if key == "users":
        return Cell(f"{row.n_users:,}" if row.n_users else EN_RULE)
    if key == "interval":
        figure = row.figures.get(table.primary)
        if figure is None or figure.ci95 is None or not row.seeds:
            return Cell(EN_RULE)
        return Cell(f"[{figure.ci95[0]:.4f}, {figure.ci95[1]:.4f}]")
    if key == "rank":
        return Cell(rank_text(row))
    value = {"own": row.cost.own, "total": row.cost.total, "memory": row.cost.memory_mb}[key]
    return Cell(EN_RULE if value is None else f"{value:,.0f}" if value >= 10 else f"{value:.1f}")


def _figure(table: Table, row: Row, metric: str) -> Cell:
    figure = row.figures.get(metric)
    if figure is None:
        return Cell(EM_RULE)
    signs = spread = ""
    if metric == table.primary:
        signs = "".join(sign for name, sign in SIGNS.items() if name in row.signs)
        if table.with_intervals and figure.ci95 is not None and row.seeds:
            spread = f"{(figure.ci95[1] - figure.ci95[0]) / 2:.4f}"
    return Cell(figure.shown, row.marks.get(metric), signs, figure.mean, spread)
