"""Text for a terminal: titles, names, paths and files of anybody must not drive it.

Control characters can move the cursor, change colours, rename the window or hide a line; marks of
writing direction can make a text read as another one. They are shown as escapes instead.
"""

from __future__ import annotations

import re
import sys
from typing import IO

__all__ = ["echo", "json_safe", "one_line", "printable"]

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
