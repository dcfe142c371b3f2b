r"""LaTeX tables to grids of cells: tabular, tabular*, tabularx, tabulary, longtable, array.

Not a TeX engine: macros of the author's own are dropped with their braces kept, which leaves the text
of ``\best{0.31}`` and loses nothing that a figure needs.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from bench.report.lint.grids import LONGEST_CELL, Grid, GridRow

__all__ = ["latex_grids"]

_BEGIN = re.compile(r"\\begin\{(tabular\*?|tabularx|tabulary|longtable|array|tblr)\}")
_TWO_ARGUMENTS = {"tabular*", "tabularx", "tabulary"}
_LABEL = re.compile(r"\\(?:label|caption)\s*\{")
_COMMENT = re.compile(r"(?<!\\)((?:\\\\)*)%.*")
_RULES = re.compile(
    r"\\(?:toprule|midrule|bottomrule|hline|hhline\s*\{[^{}]*\}|endhead|endfirsthead|endfoot|endlastfoot|noalign\s*\{[^{}]*\}"
    r"|specialrule(?:\s*\{[^{}]*\}){3}|c(?:mid)?rule\s*(?:\([^)]*\))?\s*(?:\[[^\]]*\])?\s*\{[^{}]*\}"
    r"|cline\s*\{[^{}]*\}|addlinespace(?:\[[^\]]*\])?|rowcolors?(?:\s*\[[^\]]*\])?(?:\s*\{[^{}]*\})+)(?:\[[^\]]*\])?"
)
_DROPPED = re.compile(
    r"\\(?:cellcolor|color|textcolor|rowcolor|vspace|hspace|vspace\*|hspace\*|footnotemark|cite[a-z]*|label"
    r"|tablefootnote|footnote|tnote|ref|definecolor)\*?\s*(?:\[[^\]]*\])*\s*\{[^{}]*\}"
)
_SCRIPT = re.compile(
    r"(?:\\text(?:super|sub)script|(?<!\\)\^|(?<!\\)_)\s*(?:\{[^{}]*\}|[^\s{\\]|\\[A-Za-z]+)"
)
_WRAPPED = re.compile(r"\\[A-Za-z]+\*?\s*(?:\[[^\]]*\])*\s*\{([^{}]*)\}")
_COMMAND = re.compile(r"\\[A-Za-z]+\*?\s*")
_SPAN = re.compile(r"\\multi(column|row)\s*(?:\[[^\]]*\])?\s*\{\s*(-?\d{1,9})\s*\}")
_MOST_SPANNED = 200
"""Columns or rows that one cell may span; what says more is no table of figures."""
_MOST_CELLS = 2_000
_MOST_TEXT = 2_000_000
"""Characters in all tables of a text together; tables inside tables count again."""
_ROW_END = re.compile(r"\\\\\*?(?:\s*\[[^\]&]*\])?")
_SYMBOLS = {
    r"\pm": "±",
    r"\textpm": "±",
    r"\to": "→",
    r"\rightarrow": "→",
    r"\textrightarrow": "→",
    r"\uparrow": "↑",
    r"\textendash": "–",
    r"\textemdash": "—",
}


def latex_grids(text: str) -> Iterator[Grid]:
    """Every table of a LaTeX file; spanned columns repeat their text, spanned rows too.

    Raises:
        ValueError: tables too large to be tables of figures.
    """
    lines = [_COMMENT.sub(r"\1", line) for line in text.split("\n")]
    source = "\n".join(lines)
    n_read = 0
    for match in _BEGIN.finditer(source):
        end = source.find(rf"\end{{{match[1]}}}", match.end())
        if end < 0:
            end = len(source)
        n_read += end - match.start()
        if n_read > _MOST_TEXT:
            raise ValueError(f"its tables hold more than {_MOST_TEXT:,} characters")
        start = _skip_arguments(source, match.end(), 2 if match[1] in _TWO_ARGUMENTS else 1)
        rows = list(_rows(source[start:end], source.count("\n", 0, start) + 1))
        if rows:
            yield Grid(tuple(_fill_spanned_rows(rows)), _title(source, match.start(), end))


def _skip_arguments(source: str, position: int, count: int) -> int:
    """Position behind optional arguments and ``count`` arguments in braces."""
    while position < len(source):
        rest = source[position:]
        blank = len(rest) - len(rest.lstrip())
        mark = rest[blank : blank + 1]
        if mark == "[":
            position = source.index("]", position) + 1 if "]" in rest else len(source)
        elif mark == "{" and count:
            position, count = _closing(source, position + blank) + 1, count - 1
        else:
            break
    return position


def _closing(source: str, position: int) -> int:
    """Index of the brace that closes the one at ``position`` (or the end of the text)."""
    depth, index = 0, position
    while index < len(source):
        if source[index] == "\\":
            index += 1
        elif source[index] == "{":
            depth += 1
        elif source[index] == "}":
            depth -= 1
            if depth == 0:
                return index
        index += 1
    return len(source)


def _title(source: str, start: int, end: int) -> str:
    """The text of the label or caption inside the same float, label first."""
    float_start = source.rfind(r"\begin{table", 0, start)
    float_end = source.find(r"\end{table", end)
    if float_start < 0 or float_end < 0:
        return ""
    found = {}
    for match in _LABEL.finditer(source, float_start, float_end):
        closing = _closing(source, match.end() - 1)
        found[match[0][1:4]] = source[match.end() : closing]
    if "lab" in found:
        return re.sub(r"^(?:tab|tbl|table)[:.-]", "", found["lab"].strip())
    return _text(found.get("cap", ""))


def _rows(body: str, line: int) -> Iterator[tuple[int, list[tuple[str, int]]]]:
    """Lines of a table as ``(line, [(text, rows spanned)])``."""
    for row_line, raw in _split(body, line):
        cleaned = _RULES.sub(" ", raw)
        if not cleaned.strip():
            continue
        cells: list[tuple[str, int]] = []
        for cell in _split_cells(cleaned):
            text, n_columns, n_rows = _spans(cell)
            cells += [(text, n_rows)] * n_columns
            if len(cells) > _MOST_CELLS:
                raise ValueError(f"line {row_line} has more than {_MOST_CELLS:,} cells")
        if any(text for text, _ in cells):
            yield row_line, cells


def _split(body: str, line: int) -> Iterator[tuple[int, str]]:
    r"""Split at ``\\`` outside braces; yields the line of each row's first visible character."""
    depth = start = index = 0
    while index <= len(body):
        at_end = index == len(body)
        if at_end or (body.startswith("\\\\", index) and depth == 0):
            raw = body[start:index]
            lead = len(raw) - len(_RULES.sub(lambda m: " " * len(m[0]), raw).lstrip())
            yield line + body.count("\n", 0, start + lead), raw
            if at_end:
                return
            tail = _ROW_END.match(body, index)
            index = tail.end() if tail else index + 2
            start = index
            continue
        if body[index] == "\\":
            index += 1
        elif body[index] == "{":
            depth += 1
        elif body[index] == "}":
            depth = max(depth - 1, 0)
        index += 1


def _split_cells(row: str) -> list[str]:
    cells, depth, start, index = [], 0, 0, 0
    while index < len(row):
        mark = row[index]
        if mark == "\\":
            index += 1
        elif mark == "{":
            depth += 1
        elif mark == "}":
            depth = max(depth - 1, 0)
        elif mark == "&" and depth == 0:
            cells.append(row[start:index])
            start = index + 1
        index += 1
    return [*cells, row[start:]]


def _spans(cell: str) -> tuple[str, int, int]:
    """Text of a cell, and how many columns and rows it spans (rows upwards if negative)."""
    spans = {"column": 1, "row": 1}
    if len(cell) > LONGEST_CELL:
        return " ".join(cell.split()), 1, 1
    while match := _SPAN.search(cell):
        count = max(-_MOST_SPANNED, min(int(match[2]), _MOST_SPANNED))
        spans[match[1]] = count if match[1] == "row" and count else max(count, 1)
        position = _skip_arguments(cell, match.end(), 1)
        opening = cell.find("{", position)
        if opening < 0:
            cell = cell[: match.start()] + cell[position:]
            break
        closing = _closing(cell, opening)
        cell = cell[: match.start()] + cell[opening + 1 : closing] + cell[closing + 1 :]
    return _text(cell), spans["column"], spans["row"]


def _text(cell: str) -> str:
    """Text of a cell without commands, mathematics and braces."""
    text = cell.replace("\\\\", " ").replace("$", "") if "\\$" not in cell else cell
    text = re.sub(r"\\[,;:!/ ]", " ", text)
    for command, symbol in _SYMBOLS.items():
        text = re.sub(re.escape(command) + r"(?![A-Za-z])", symbol, text)
    text = _DROPPED.sub("", text)
    previous = None
    while previous != text:
        previous = text
        text = _SCRIPT.sub(_keep_spread, text)
        text = _WRAPPED.sub(r"\1", text)
    text = _COMMAND.sub("", text)
    text = re.sub(r"\\([&%$#_{}])", r"\1", re.sub(r"(?<!\\)[{}]", "", text))
    text = text.replace("---", "—").replace("--", "–").replace("~", " ").replace("\\", "")
    return re.sub(r"\s+", " ", text).strip()


def _keep_spread(match: re.Match[str]) -> str:
    """A sub- or superscript goes, except one that holds a spread (``_{± .002}``)."""
    return " ± " if "±" in match[0] else ""


def _fill_spanned_rows(rows: list[tuple[int, list[tuple[str, int]]]]) -> list[GridRow]:
    r"""Repeat text in the empty cells below it (``\multirow{2}``) or above it (``\multirow{-2}``)."""
    texts = [[text for text, _ in cells] for _, cells in rows]
    for index, (_, cells) in enumerate(rows):
        for column, (text, n_rows) in enumerate(cells):
            step = 1 if n_rows > 0 else -1
            for other in range(index + step, index + n_rows, step):
                if 0 <= other < len(texts) and column < len(texts[other]):
                    texts[other][column] = texts[other][column] or text
    return [GridRow(line, tuple(row)) for (line, _), row in zip(rows, texts, strict=True)]
