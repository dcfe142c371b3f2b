"""A table as an HTML fragment: one ``<table>`` per block list and its caption, no script, no style."""

from __future__ import annotations

from bench.report.columns import Cell, Column
from bench.report.grid import Section, columns, sections
from bench.report.markup import Child, Element, el, fragment, on_lines
from bench.report.table import Table, TableSet

__all__ = ["to_html"]

_TAGS = {"best": "strong", "second": "u"}


def to_html(table: Table | TableSet) -> str:
    """The table as a fragment to put into a page; ends with a newline.

    Names from plug-ins and domains stay text. Classes are ``bench-table``, ``block-<kind>``, ``figure``,
    ``best`` and ``second``; a figure carries its exact value in ``data-value``.
    """
    if isinstance(table, TableSet):
        parts = [part for one in table.tables for part in _elements(one)]
        return fragment(on_lines(el("section", el("h2", table.title), *parts)))
    return "".join(map(fragment, _elements(table)))


def _elements(table: Table) -> tuple[Element, Element]:
    shown = columns(table)
    drawn = el(
        "table",
        el("caption", table.target),
        el("thead", el("tr", *(_heading(column, table) for column in shown))),
        *(_body(section, shown) for section in sections(table, shown)),
        class_="bench-table",
        data_target=table.target,
    )
    made = el("li", "Made by ", el("code", table.command), "; do not edit.")
    caption = el("ul", *(el("li", line) for line in table.caption), made, class_="bench-caption")
    return on_lines(drawn), on_lines(caption)


def _heading(column: Column, table: Table) -> Element:
    kind = None if column.is_text else "figure"
    return el("th", column.heading(table), scope="col", class_=kind)


def _body(section: Section, shown: tuple[Column, ...]) -> Element:
    title = section.block.title
    lines = [
        el("tr", *map(_cell, shown, cells), title=row.provenance or None)
        for row, cells in section.lines
    ]
    head = el("tr", el("th", title, colspan=len(shown), scope="rowgroup")) if title else None
    return on_lines(el("tbody", head, *lines, class_=f"block-{section.block.kind}"))


def _cell(column: Column, cell: Cell) -> Element:
    text: Child = el(_TAGS[cell.mark], cell.text) if cell.mark else cell.text
    parts = (text, el("sup", cell.signs) if cell.signs else None)
    if column.key == "method":
        return el("th", *parts, scope="row")
    if column.is_text:
        return el("td", *parts)
    names = " ".join(["figure", *([cell.mark] if cell.mark else [])])
    value = None if cell.exact is None else repr(cell.exact)
    return el("td", *parts, class_=names, data_value=value)
