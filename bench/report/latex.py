r"""A table as LaTeX for a paper: ``booktabs`` rules, escaped names, aligned stars.

Only ``booktabs`` and ``graphicx`` are needed (the latter fits a wide table to the page). A star takes
no width (``\rlap``), so that figures with and without one stay aligned.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from bench.report.grid import (
    EM_RULE,
    EN_RULE,
    Cell,
    Column,
    cells_of,
    columns,
    family_title,
    sections,
)
from bench.report.table import FLAGS, Block, Row, Table, TableSet, family_key

__all__ = ["escape_latex", "to_latex"]

_ESCAPES = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\char34{}",
    "`": r"\`{}",
    "—": r"---",
    "–": r"--",
    "±": r"\ensuremath{\pm}",
    "†": r"\ensuremath{\dagger}",
    "‡": r"\ensuremath{\ddagger}",
    "§": r"\ensuremath{\mathsection}",
    "→": r"\ensuremath{\rightarrow}",
    "\u00a0": "~",
}
_WIDE = 9
_SPREAD = r"{{\scriptsize\,\ensuremath{{\pm}}\,{}}}"


def escape_latex(text: str) -> str:
    """Text that LaTeX prints as it is; control characters become blanks.

    Characters outside ASCII that are not named here are kept: they need a UTF-8 engine and a font
    that has them.
    """
    plain = "".join(_ESCAPES.get(c, c if c.isprintable() else " ") for c in text)
    # Two hyphens of a name would become a dash.
    return re.sub("-(?=-)", "-{}", plain) if "--" in text else plain


def to_latex(table: Table | TableSet) -> str:
    r"""The table as a ``table`` or ``table*`` environment; ends with a newline.

    Several targets become one wide table, with a group of columns each. The preamble needs
    ``\usepackage{booktabs,graphicx}``.
    """
    if isinstance(table, TableSet) and len(table.tables) == 1:
        table = table.tables[0]
    if isinstance(table, TableSet):
        return _wide(table)
    shown = columns(table)
    # The spread stands beside the figure here; an interval column would double the width.
    shown = tuple(column for column in shown if column.key != "interval")
    spec = "".join("l" if column.is_text else "r" for column in shown)
    head = " & ".join(_heading(column) for column in shown) + r" \\"
    body: list[str] = []
    for index, section in enumerate(sections(table, shown)):
        if index:
            body.append(r"\midrule")
        if section.block.title:
            body.append(
                rf"\multicolumn{{{len(shown)}}}{{l}}{{\textit{{{_name(section.block.title)}}}}} \\"
            )
        for number, (_, cells) in enumerate(section.lines):
            if number and cells[0].text:
                body.append(r"\addlinespace")
            text = [
                _cell(cell, pad=table.with_intervals and column.key == table.primary)
                for column, cell in zip(shown, cells, strict=True)
            ]
            body.append(" & ".join(text) + r" \\")
    caption = [f"{table.target}."]
    return _environment(
        spec, [head], body, caption, table.caption, table.target, table.command, len(shown)
    )


def _wide(group: TableSet) -> str:
    tables = group.tables
    spec, titles, heads, rules = "llr", ["", "", ""], ["Family", "Method", "S"], []
    position = 4
    for table in tables:
        group_columns = _group_columns(table)
        width = len(group_columns)
        spec += "r" * width
        titles.append(rf"\multicolumn{{{width}}}{{c}}{{{_name(table.target)}}}")
        heads += [_heading(column) for column in group_columns]
        rules.append(rf"\cmidrule(lr){{{position}-{position + width - 1}}}")
        position += width
    head = [" & ".join(titles) + r" \\", " ".join(rules), " & ".join(heads) + r" \\"]
    body: list[str] = []
    for kind in ("main", "other-users", "reported"):
        blocks = [_block(table, kind) for table in tables]
        lines = _wide_lines(tables, blocks)
        if not lines:
            continue
        if body:
            body.append(r"\midrule")
        title = next((block.title for block in blocks if block and block.title), "")
        if title:
            body.append(rf"\multicolumn{{{position - 1}}}{{l}}{{\textit{{{_name(title)}}}}} \\")
        body += lines
    shared, own = _captions(tables)
    return _environment(
        spec,
        head,
        body,
        [f"{group.title.rstrip('.')}."],
        [*shared, *own],
        group.name,
        group.command,
        position,
    )


def _group_columns(table: Table) -> list[Column]:
    """The columns that every target has its own of."""
    own = ("rank", "own", "total", "memory")
    return [column for column in columns(table) if column.is_metric or column.key in own]


def _block(table: Table, kind: str) -> Block | None:
    return next((block for block in table.blocks if block.kind == kind), None)


def _wide_lines(tables: Sequence[Table], blocks: Sequence[Block | None]) -> list[str]:
    """One line per row key, with an em rule where a target lacks the row."""
    found: dict[tuple[str, str], list[Row | None]] = {}
    for index, block in enumerate(blocks):
        for row in block.rows if block else ():
            found.setdefault(row.key, [None] * len(tables))[index] = row
    # A method without runs on one target only has a row already.
    present = {row.method for rows in found.values() for row in rows if row and row.figures}
    for key in [key for key in found if key[1] == "" and key[0] in present]:
        if not any(row and row.figures for row in found[key]):
            del found[key]
    profiles = {profile for _, profile in found if profile}
    quoted = any(block is not None and block.kind == "reported" for block in blocks)

    def order(key: tuple[str, str]) -> tuple[tuple[int, str], float, str, str]:
        # Rows without a figure on any target stay in the order in which they were found.
        rows = [row for row in found[key] if row is not None]
        means = [
            row.figures[table.primary].mean
            for table, row in zip(tables, found[key], strict=True)
            if row is not None and table.primary in row.figures
        ]
        if not means:
            return (family_key(rows[0].family), 1.0, "", "")
        return (family_key(rows[0].family), -sum(means) / len(means), *key)

    lines: list[str] = []
    family: str | None = None
    # Quoted rows keep the order of their source.
    for key in found if quoted else sorted(found, key=order):
        first = next(row for row in found[key] if row is not None)
        if family is not None and first.family != family:
            lines.append(r"\addlinespace")
        title = family_title(first.family) if first.family != family else ""
        family = first.family
        label = first.label + (f" [{first.profile}]" if first.profile and len(profiles) > 1 else "")
        flags = {flag for row in found[key] if row is not None for flag in row.flags}
        signs = "".join(sign for flag, sign in FLAGS.items() if flag in flags)
        cells = [
            _name(title),
            _name(label) + (rf"\textsuperscript{{{escape_latex(signs)}}}" if signs else ""),
        ]
        counts = dict.fromkeys(
            len(row.seeds) for row in found[key] if row is not None and row.seeds
        )
        cells.append(", ".join(map(str, counts)) or escape_latex(EN_RULE))
        for table, own in zip(tables, found[key], strict=True):
            group = _group_columns(table)
            if own is None:
                cells += [escape_latex(EM_RULE if c.is_metric else EN_RULE) for c in group]
                continue
            cells += [
                _cell(cell, pad=table.with_intervals and column.key == table.primary)
                for column, cell in zip(group, cells_of(table, own, group), strict=True)
            ]
        lines.append(" & ".join(cells) + r" \\")
    return lines


def _captions(tables: Sequence[Table]) -> tuple[list[str], list[str]]:
    """Sentences that all tables share, and the others behind the target's name."""
    shared = [line for line in tables[0].caption if all(line in t.caption for t in tables[1:])]
    own = []
    for table in tables:
        lines = [line for line in table.caption if line not in shared]
        if lines:
            own.append(f"{table.target}: {' '.join(lines)}")
    return shared, own


def _heading(column: Column) -> str:
    return escape_latex(column.title)


def _name(text: str) -> str:
    return escape_latex(text)


def _cell(cell: Cell, *, pad: bool = False) -> str:
    """A cell; with ``pad`` a figure without a spread keeps its place among those with one."""
    if cell.text in (EM_RULE, EN_RULE):
        return escape_latex(cell.text)
    text = escape_latex(cell.text)
    if cell.mark == "best":
        text = rf"\textbf{{{text}}}"
    elif cell.mark == "second":
        text = rf"\underline{{{text}}}"
    if cell.spread:
        text += _SPREAD.format(cell.spread)
    elif pad:
        text += r"\phantom{" + _SPREAD.format("0.0000") + "}"
    if cell.signs:
        signs = escape_latex(cell.signs).replace("*", r"\ensuremath{*}")
        raised = rf"\textsuperscript{{{signs}}}"
        # A sign behind a figure must not push it out of its column; behind a name it may.
        text += raised if cell.exact is None else rf"\rlap{{{raised}}}"
    return text


def _environment(
    spec: str,
    head: Sequence[str],
    body: Sequence[str],
    title: Sequence[str],
    notes: Sequence[str],
    label: str,
    command: str,
    width: int,
) -> str:
    name = "table*" if width >= _WIDE else "table"
    slug = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in label)
    command = command.replace("\n", " ")
    return "\n".join(
        [
            f"% Made by `{command}`; do not edit. Needs \\usepackage{{booktabs,graphicx}}.",
            rf"\begin{{{name}}}[t]",
            r"\centering",
            rf"\caption{{{' '.join(_name(text) for text in title)}}}",
            rf"\label{{tab:{slug}}}",
            r"\begingroup\setlength{\tabcolsep}{4pt}",
            r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
            rf"\begin{{tabular}}{{@{{}}{spec}@{{\hspace{{1em}}}}}}",
            r"\toprule",
            *head,
            r"\midrule",
            *body,
            r"\bottomrule",
            r"\end{tabular}}",
            r"\endgroup",
            "",
            r"\vspace{2pt}",
            r"\begin{minipage}{\linewidth}"
            + (r"\scriptsize" if width >= _WIDE else r"\footnotesize"),
            *(_name(note) + r"\par" for note in notes),
            r"\end{minipage}",
            rf"\end{{{name}}}",
            "",
        ]
    )
