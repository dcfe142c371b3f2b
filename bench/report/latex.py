r"""A table as LaTeX for a paper: ``booktabs`` rules, escaped names, aligned stars.

Only ``booktabs`` and ``graphicx`` are needed (the latter fits a wide table to the page). A star takes
no width (``\rlap``), so that figures with and without one stay aligned.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from bench.report.columns import EM_RULE, EN_RULE, Cell, Column, family_title
from bench.report.grid import cells_of, columns, sections
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
    "¶": r"\ensuremath{\mathparagraph}",
    "‖": r"\ensuremath{\Vert}",
    "→": r"\ensuremath{\rightarrow}",
    "\u00a0": "~",
}
_WIDE = 9
"""Columns that need both columns of a paper."""

_PANEL = 16
"""Columns of figures that stay legible side by side: four targets with four metrics."""

_SPREAD = r"{{\scriptsize\,\ensuremath{{\pm}}\,{}}}"


@dataclass(frozen=True, slots=True)
class _Tabular:
    """Column specification, lines of the head and lines of the body."""

    spec: str
    head: Sequence[str]
    body: Sequence[str]


@dataclass(frozen=True, slots=True)
class _WideLine:
    """A row over several targets: its names, and its cells by target."""

    opens_family: bool
    names: Sequence[str]
    groups: Sequence[Sequence[str]]


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

    Several targets become one wide table, with a group of columns each; if side by side they would
    not be legible, it goes on in further floats of the same number. The preamble needs
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
    head = " & ".join(_heading(column, table) for column in shown) + r" \\"
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
    return _environment(
        [_Tabular(spec, [head], body)],
        f"{table.target}.",
        table.caption,
        table.target,
        table.command,
        wide=len(shown) >= _WIDE,
    )


def _wide(group: TableSet) -> str:
    tables = group.tables
    own = {"seeds"} if _seeds_differ(tables) else set()
    parts = {kind: _wide_lines(tables, kind, own) for kind in ("main", "other-users", "reported")}
    panels = [_panel(tables, parts, chunk, own) for chunk in _chunks(tables)]
    shared, of_one = _captions(tables)
    title = f"{group.title.rstrip('.')}."
    return _environment(panels, title, [*shared, *of_one], group.name, group.command, wide=True)


def _chunks(tables: Sequence[Table]) -> list[range]:
    """Targets that share a row of columns: as many as stay legible, the panels alike."""
    width = max(len(_group_columns(table, ())) for table in tables)
    most = max(1, _PANEL // width)
    n_panels = -(-len(tables) // most)
    size = -(-len(tables) // n_panels)
    return [range(i, min(i + size, len(tables))) for i in range(0, len(tables), size)]


def _panel(
    tables: Sequence[Table], parts: Mapping[str, Sequence[_WideLine]], chunk: range, own: set[str]
) -> _Tabular:
    heads, rules = ["Family", "Method", *(() if "seeds" in own else ("S",))], []
    spec, titles, position = "llr"[: len(heads)], [""] * len(heads), len(heads) + 1
    for index in chunk:
        shown = _group_columns(tables[index], own)
        spec += "r" * len(shown)
        titles.append(rf"\multicolumn{{{len(shown)}}}{{c}}{{{_name(tables[index].target)}}}")
        heads += [_heading(column, tables[index]) for column in shown]
        rules.append(rf"\cmidrule(lr){{{position}-{position + len(shown) - 1}}}")
        position += len(shown)
    head = [" & ".join(titles) + r" \\", " ".join(rules), " & ".join(heads) + r" \\"]
    body: list[str] = []
    for kind, lines in parts.items():
        if not lines:
            continue
        if body:
            body.append(r"\midrule")
        blocks = [_block(table, kind) for table in tables]
        title = next((block.title for block in blocks if block and block.title), "")
        if title:
            body.append(rf"\multicolumn{{{position - 1}}}{{l}}{{\textit{{{_name(title)}}}}} \\")
        for number, line in enumerate(lines):
            if number and line.opens_family:
                body.append(r"\addlinespace")
            cells = [*line.names, *(cell for index in chunk for cell in line.groups[index])]
            body.append(" & ".join(cells) + r" \\")
    return _Tabular(spec, head, body)


def _seeds_differ(tables: Sequence[Table]) -> bool:
    """Whether some row has other numbers of seeds on other targets."""
    counts: dict[tuple[str, str], set[int]] = {}
    for table in tables:
        for row in table.rows:
            if row.seeds:
                counts.setdefault(row.key, set()).add(len(row.seeds))
    return any(len(found) > 1 for found in counts.values())


def _group_columns(table: Table, own: Collection[str]) -> list[Column]:
    """The columns that every target has its own of, those of ``own`` too."""
    return [column for column in columns(table) if column.per_target or column.key in own]


def _block(table: Table, kind: str) -> Block | None:
    return next((block for block in table.blocks if block.kind == kind), None)


def _wide_lines(tables: Sequence[Table], kind: str, own: set[str]) -> list[_WideLine]:
    """One line per row key, with em rules if a target lacks the row."""
    blocks = [_block(table, kind) for table in tables]
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

    lines: list[_WideLine] = []
    family: str | None = None
    # Quoted rows keep the order of their source.
    for key in found if kind == "reported" else sorted(found, key=order):
        first = next(row for row in found[key] if row is not None)
        opens = first.family != family
        title = family_title(first.family) if opens else ""
        family = first.family
        label = first.label + (f" [{first.profile}]" if first.profile and len(profiles) > 1 else "")
        flags = {flag for row in found[key] if row is not None for flag in row.flags}
        signs = "".join(sign for flag, sign in FLAGS.items() if flag in flags)
        cells = [
            _name(title),
            _name(label) + (rf"\textsuperscript{{{escape_latex(signs)}}}" if signs else ""),
        ]
        if "seeds" not in own:
            counts = [len(row.seeds) for row in found[key] if row is not None and row.seeds]
            cells.append(str(counts[0]) if counts else escape_latex(EN_RULE))
        groups = [
            _group_cells(table, row, own) for table, row in zip(tables, found[key], strict=True)
        ]
        lines.append(_WideLine(opens, cells, groups))
    return lines


def _group_cells(table: Table, row: Row | None, own: set[str]) -> list[str]:
    shown = _group_columns(table, own)
    if row is None:
        return [escape_latex(EM_RULE if column.is_metric else EN_RULE) for column in shown]
    return [
        _cell(cell, pad=table.with_intervals and column.key == table.primary)
        for column, cell in zip(shown, cells_of(table, row, shown), strict=True)
    ]


def _captions(tables: Sequence[Table]) -> tuple[list[str], list[str]]:
    """Sentences that all tables share, and the others behind the target's name."""
    shared = [line for line in tables[0].caption if all(line in t.caption for t in tables[1:])]
    own = []
    for table in tables:
        lines = [line for line in table.caption if line not in shared]
        if lines:
            own.append(f"{table.target}: {' '.join(lines)}")
    return shared, own


def _heading(column: Column, table: Table) -> str:
    return escape_latex(column.heading(table))


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
    tabulars: Sequence[_Tabular],
    title: str,
    notes: Sequence[str],
    label: str,
    command: str,
    *,
    wide: bool,
) -> str:
    """A float per tabular, under one number; the notes stand below the last."""
    slug = "".join(c if c.isascii() and (c.isalnum() or c in "-.") else "-" for c in label)
    command = command.replace("\n", " ")
    lines = [f"% Made by `{command}`; do not edit. Needs \\usepackage{{booktabs,graphicx}}."]
    name = "table*" if wide else "table"
    for number, tabular in enumerate(tabulars, start=1):
        first, last = number == 1, number == len(tabulars)
        part = "" if len(tabulars) == 1 else f" Part {number} of {len(tabulars)}."
        lines += [rf"\begin{{{name}}}[t]", r"\centering"]
        lines += [] if first else [r"\addtocounter{table}{-1}"]
        lines += [rf"\caption{{{_name(title + part)}}}"]
        lines += [rf"\label{{tab:{slug}}}"] if first else []
        lines += [r"\begingroup\setlength{\tabcolsep}{4pt}", *_tabular(tabular), r"\endgroup"]
        lines += _notes(notes, wide) if last else []
        lines += [rf"\end{{{name}}}", ""]
    return "\n".join(lines)


def _notes(notes: Sequence[str], wide: bool) -> list[str]:
    return [
        "",
        r"\vspace{2pt}",
        r"\begin{minipage}{\linewidth}" + (r"\scriptsize" if wide else r"\footnotesize"),
        *(_name(note) + r"\par" for note in notes),
        r"\end{minipage}",
    ]


def _tabular(one: _Tabular) -> list[str]:
    return [
        r"\resizebox{\ifdim\width>\linewidth\linewidth\else\width\fi}{!}{%",
        rf"\begin{{tabular}}{{@{{}}{one.spec}@{{\hspace{{1em}}}}}}",
        r"\toprule",
        *one.head,
        r"\midrule",
        *one.body,
        r"\bottomrule",
        r"\end{tabular}}",
    ]
