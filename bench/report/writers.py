"""A table as Markdown, CSV or JSON; the same table always gives the same bytes."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from tabulate import tabulate

from bench.report.columns import COLUMNS, METRICS, Cell, Column
from bench.report.grid import columns, sections
from bench.report.table import Row, Table, TableSet
from bench.terminal import json_safe, one_line

__all__ = ["escape_markdown", "to_csv", "to_json", "to_markdown"]

_FORMULA = ("=", "+", "-", "@")
_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")


def to_markdown(table: Table | TableSet) -> str:
    """The table as Markdown without HTML, with its caption; ends with a newline."""
    if isinstance(table, TableSet):
        head = f"## {escape_markdown(table.title)}\n\n"
        return head + "\n".join(to_markdown(one) for one in table.tables)
    shown = columns(table)
    parts = [f"### {escape_markdown(table.target)}", ""]
    for section in sections(table, shown):
        if section.block.title:
            parts += ["---", "", f"{escape_markdown(section.block.title)}:", ""]
        # Quoted rows have nothing but figures.
        kept = [
            place
            for place, column in enumerate(shown)
            if section.block.kind != "reported" or column.is_metric or column.key == "method"
        ]
        body = [[_cell(cells[place], shown[place]) for place in kept] for _, cells in section.lines]
        headers = [shown[place].heading(table) for place in kept]
        align = ["left" if shown[place].is_text else "right" for place in kept]
        parts += [
            tabulate(body, headers, tablefmt="pipe", colalign=align, disable_numparse=True),
            "",
        ]
    parts += [f"- {escape_markdown(line)}" for line in table.caption]
    parts += [f"- Made by `{table.command.replace('`', '')}`; do not edit."]
    return "\n".join(parts) + "\n"


def _cell(cell: Cell, column: Column) -> str:
    mark = {"best": "**", "second": "_"}.get(cell.mark or "", "")
    text = f"{mark}{escape_markdown(cell.text) if column.is_text else cell.text}{mark}"
    if not cell.signs:
        return text
    # A sign belongs to the figure; behind a name a blank keeps it apart.
    return text + (" " if cell.exact is None else "") + escape_markdown(cell.signs)


def escape_markdown(text: str) -> str:
    """Text that Markdown shows as it is, also inside a table."""
    return _SPECIAL.sub(r"\\\1", text.replace("\n", " "))


def to_csv(table: Table | TableSet) -> str:
    """One line per row with full precision, RFC 4180 quoting and LF line ends.

    The columns ``task_hash`` and ``candidates_hash`` are in every line, so that lines of several
    tables can be joined without losing what may be compared.
    """
    tables = table.tables if isinstance(table, TableSet) else (table,)
    metrics = tuple(dict.fromkeys(metric for one in tables for metric in one.metrics))
    with_intervals = any(one.with_intervals for one in tables)
    header = ["target", "task_hash", "candidates_hash", "block"]
    for column in COLUMNS:
        header += column.csv_names
        if column is METRICS:
            ends = ("", "_low", "_high") if with_intervals else ("",)
            header += [f"{metric}{end}" for metric in metrics for end in ends]
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(header)
    for one in tables:
        for block in one.blocks:
            for row in block.rows:
                target = as_text(one.target)
                start = [target, one.task_hash, one.candidates_hash]
                if block.kind == "reported":
                    start = [target, "", ""]
                writer.writerow([*start, block.kind, *_csv_cells(row, metrics, with_intervals)])
    return stream.getvalue()


def _csv_cells(row: Row, metrics: Sequence[str], with_intervals: bool) -> list[Any]:
    cells: list[Any] = []
    for column in COLUMNS:
        if column is METRICS:
            cells += _csv_figures(row, metrics, with_intervals)
            continue
        names, value = column.csv_names, column.value(row)
        if value == column.absent:
            cells += [""] * len(names)
        else:
            cells += map(_csv_cell, value if len(names) > 1 else [value] * len(names))
    return cells


def _csv_figures(row: Row, metrics: Sequence[str], with_intervals: bool) -> Iterator[str]:
    for metric in metrics:
        figure = row.figures.get(metric)
        yield "" if figure is None else repr(figure.mean)
        if with_intervals:
            ends = figure.ci95 if figure is not None else None
            yield from ("", "") if ends is None else map(repr, ends)


def _csv_cell(value: Any) -> Any:
    if isinstance(value, tuple):
        value = " ".join(map(str, value))
    return as_text(value) if isinstance(value, str) else repr(value)


def as_text(text: str) -> str:
    """A text for a CSV cell that no spreadsheet takes for a formula: behind ``'`` if it begins like one.

    Formulas begin with ``=``, ``+``, ``-`` or ``@``. Numbers are no texts. Control characters become
    escapes, for a carriage return would end the line and others drive a terminal.
    """
    shown = one_line(text)
    return f"'{shown}" if shown.startswith(_FORMULA) else shown


def to_json(table: Table | TableSet) -> str:
    """The whole table with full precision: sorted keys, two blanks of indent, a final newline."""
    value: dict[str, Any]
    if isinstance(table, TableSet):
        value = {"suite": table.name, "title": table.title, "command": table.command}
        value["tables"] = [_json_table(one) for one in table.tables]
    else:
        value = _json_table(table)
    text = json.dumps(value, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False)
    return json_safe(text) + "\n"


def _json_table(table: Table) -> dict[str, Any]:
    return {
        "target": table.target,
        "protocol": dict(table.protocol),
        "primary": table.primary,
        "metrics": list(table.metrics),
        "caption": list(table.caption),
        "command": table.command,
        "significance": asdict(table.significance) if table.significance else None,
        "blocks": [
            {
                "title": block.title,
                "comparable": block.comparable,
                "kind": block.kind,
                "rows": [_json_row(table, row) for row in block.rows],
            }
            for block in table.blocks
        ],
    }


def _json_row(table: Table, row: Row) -> dict[str, Any]:
    figures: dict[str, dict[str, Any]] = {}
    for metric in table.metrics:
        figure = row.figures.get(metric)
        if figure is None:
            continue
        figures[metric] = {"mean": figure.mean, "mark": row.marks.get(metric)}
        if figure.ci95 is not None:
            figures[metric]["ci95"] = list(figure.ci95)
    found: dict[str, Any] = {"metrics": figures}
    for column in COLUMNS:
        value = column.value(row)
        kept = column.in_json == "always" or (
            column.in_json == "present" and value != column.absent
        )
        if column is not METRICS and kept:
            *groups, name = column.key.split(".")
            place = found
            for group in groups:
                place = place.setdefault(group, {})
            place[name] = list(value) if isinstance(value, tuple) else value
    return found
