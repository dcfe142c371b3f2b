"""A table as an HTML fragment: one ``<table>`` per block list and its caption, no script, no style."""

from __future__ import annotations

from html import escape

from bench.report.columns import Cell, Column
from bench.report.grid import Section, columns, sections
from bench.report.table import Table, TableSet

__all__ = ["to_html"]

_TAGS = {"best": ("<strong>", "</strong>"), "second": ("<u>", "</u>")}


def to_html(table: Table | TableSet) -> str:
    """The table as a fragment to put into a page; ends with a newline.

    Every text is escaped, so that names from plug-ins and domains stay text. Classes are
    ``bench-table``, ``block-<kind>``, ``figure``, ``best`` and ``second``; a figure carries its exact
    value in ``data-value``.
    """
    if isinstance(table, TableSet):
        parts = [f"<section>\n<h2>{escape(table.title)}</h2>\n"]
        parts += [to_html(one) for one in table.tables]
        return "".join([*parts, "</section>\n"])
    shown = columns(table)
    head = "".join(_heading(column, table) for column in shown)
    parts = [
        f'<table class="bench-table" data-target="{escape(table.target)}">',
        f"<caption>{escape(table.target)}</caption>",
        f"<thead><tr>{head}</tr></thead>",
    ]
    for section in sections(table, shown):
        parts += _body(section, shown)
    parts.append("</table>")
    parts.append('<ul class="bench-caption">')
    parts += [f"<li>{escape(line)}</li>" for line in table.caption]
    parts.append(f"<li>Made by <code>{escape(table.command)}</code>; do not edit.</li>")
    parts.append("</ul>")
    return "\n".join(parts) + "\n"


def _heading(column: Column, table: Table) -> str:
    kind = "" if column.is_text else ' class="figure"'
    return f'<th scope="col"{kind}>{escape(column.heading(table))}</th>'


def _body(section: Section, shown: tuple[Column, ...]) -> list[str]:
    lines = [f'<tbody class="block-{section.block.kind}">']
    if section.block.title:
        lines.append(
            f'<tr><th colspan="{len(shown)}" scope="rowgroup">{escape(section.block.title)}</th></tr>'
        )
    for row, cells in section.lines:
        title = f' title="{escape(row.provenance)}"' if row.provenance else ""
        text = "".join(_cell(column, cell) for column, cell in zip(shown, cells, strict=True))
        lines.append(f"<tr{title}>{text}</tr>")
    return [*lines, "</tbody>"]


def _cell(column: Column, cell: Cell) -> str:
    text = escape(cell.text)
    if cell.mark:
        before, after = _TAGS[cell.mark]
        text = f"{before}{text}{after}"
    if cell.signs:
        text += f"<sup>{escape(cell.signs)}</sup>"
    if column.key == "method":
        return f'<th scope="row">{text}</th>'
    if column.is_text:
        return f"<td>{text}</td>"
    names = " ".join(["figure", *([cell.mark] if cell.mark else [])])
    value = "" if cell.exact is None else f' data-value="{cell.exact!r}"'
    return f'<td class="{names}"{value}>{text}</td>'
