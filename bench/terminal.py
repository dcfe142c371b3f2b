"""Text for a terminal: titles, names, paths and files of anybody must not drive it.

Control characters can move the cursor, change colours, rename the window or hide a line; marks of
writing direction can make a text read as another one. They are shown as escapes instead.
"""

from __future__ import annotations

import re
import sys
import textwrap
from collections.abc import Iterable, Sequence
from typing import IO, Any

__all__ = ["echo", "json_safe", "one_line", "printable", "text_table"]

_NARROWEST = 12
"""Characters below which a column is not wrapped: the words would fall to pieces."""

# C0 but for tab and line feed, DEL, C1, marks of direction, line and paragraph separators, halves of
# surrogate pairs (which no encoding can print), and the byte-order mark.
_UNSAFE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff\ud800-\udfff]"
)


def printable(text: str) -> str:
    r"""``text`` with every character that could drive a terminal as an escape such as ``\x1b``."""
    return _UNSAFE.sub(_escape, text)


def one_line(text: str) -> str:
    r"""As :func:`printable`, with line feeds and tabs as ``\n`` and ``\t``: for cells and names."""
    return printable(text).replace("\n", "\\n").replace("\t", "\\t")


def json_safe(text: str) -> str:
    r"""A JSON text with such characters as ``\u001b``: the same value, which no terminal obeys."""
    return _UNSAFE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _escape(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def echo(text: object = "", *, err: bool = False, nl: bool = True) -> None:
    """Print to standard output, or standard error; what the stream's encoding lacks is escaped."""
    import typer

    stream: IO[str] = sys.stderr if err else sys.stdout
    shown, encoding = printable(str(text)), getattr(stream, "encoding", None) or "utf-8"
    shown = shown.encode(encoding, "backslashreplace").decode(encoding)
    typer.echo(shown, err=err, nl=nl)


def text_table(
    headers: Sequence[str], rows: Iterable[Sequence[Any]], wide: int | None = None
) -> str:
    """A plain table, without a final newline.

    Args:
        headers: titles of the columns.
        rows: cells; None is shown as nothing.
        wide: characters that fit. Long cells are wrapped; if that is not enough, every row becomes a
            list of its cells. None = the table is as wide as its cells.
    """
    from tabulate import tabulate

    head = [one_line(title) for title in headers]
    body = [["" if cell is None else one_line(str(cell)) for cell in row] for row in rows]
    # Tabulate keeps two characters more than a heading.
    padded = [f"{title}  " for title in head]
    widths: list[int] | None = [max(map(len, column)) for column in zip(padded, *body, strict=True)]
    if widths is not None and wide is not None and _total(widths) > wide:
        widths = _narrowed(widths, wide)
        if widths is None:
            return "\n\n".join(_record(head, row) for row in body)
        body = [
            ["\n".join(textwrap.wrap(c, w)) for c, w in zip(r, widths, strict=True)] for r in body
        ]
        head = ["\n".join(textwrap.wrap(c, w - 2)) for c, w in zip(head, widths, strict=True)]
    return tabulate(body, headers=head, tablefmt="simple", disable_numparse=True)


def _total(widths: Sequence[int]) -> int:
    return sum(widths) + 2 * (len(widths) - 1)


def _narrowed(widths: Sequence[int], wide: int) -> list[int] | None:
    """The widths with the widest made narrower until they fit; None if they cannot."""
    found = list(widths)
    while _total(found) > wide:
        widest = max(range(len(found)), key=found.__getitem__)
        if found[widest] <= _NARROWEST:
            return None
        found[widest] -= 1
    return found


def _record(head: Sequence[str], row: Sequence[str]) -> str:
    """One row as lines of name and cell."""
    left = max(map(len, head))
    return "\n".join(
        f"{title:<{left}}  {cell}".rstrip() for title, cell in zip(head, row, strict=True)
    )
