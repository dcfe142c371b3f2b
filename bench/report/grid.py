"""A table as titled columns and text cells: what the Markdown, LaTeX and HTML writers share."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from bench.report.columns import COLUMNS, METRICS, Cell, Column, metric_column
from bench.report.table import Block, Row, Table

__all__ = ["Section", "cells_of", "columns", "sections"]


@dataclass(frozen=True, slots=True)
class Section:
    """A block with its cells: per row, the row and one cell per column."""

    block: Block
    lines: tuple[tuple[Row, tuple[Cell, ...]], ...]


def columns(table: Table) -> tuple[Column, ...]:
    """The columns of a table, in order."""
    found: list[Column] = []
    for column in COLUMNS:
        if column is METRICS:
            found += map(metric_column, table.metrics)
        elif column.title and column.when(table):
            found.append(column)
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
    return tuple(
        Cell("") if column.key == "family" and not with_family else column.drawn(table, row)
        for column in shown
    )
