"""Text of anybody in a terminal: shown, not obeyed."""

from __future__ import annotations

import ast
import io
import json
import sys
from pathlib import Path

import pytest

import bench
from bench.terminal import echo, json_safe, one_line, printable

HOSTILE = "\x1b]0;owned\x07\x1b[2J\x9b31m\u202ered\u2066\r\x00\x7f\udce9\ufeff"


def test_control_characters_are_shown_as_escapes():
    shown = printable(HOSTILE + " caf\u00e9 \u5bff\u53f8\tx\n")
    assert shown == (
        "\\x1b]0;owned\\x07\\x1b[2J\\x9b31m\\u202ered\\u2066\\x0d\\x00\\x7f\\udce9\\ufeff"
        " caf\u00e9 \u5bff\u53f8\tx\n"
    )
    assert one_line("a\nb\tc") == "a\\nb\\tc"


def test_json_keeps_its_value():
    value = {"title": HOSTILE.replace("\udce9", "")}
    text = json_safe(json.dumps(value, ensure_ascii=False))
    assert json.loads(text) == value
    assert all(" " <= character <= "\x7e" for character in text)


def test_what_the_stream_cannot_encode_is_escaped(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    echo("NDCG \u00b1 0.1 \u5bff")
    stream.flush()
    assert stream.buffer.getvalue() == b"NDCG \\xb1 0.1 \\u5bff\n"


def calls(path: Path) -> set[str]:
    """Functions that a module calls, by their last two names."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            found.add(ast.unparse(node.func))
    return found


@pytest.mark.parametrize(
    "path", sorted((Path(bench.__file__).parent / "cli").glob("*.py")), ids=lambda path: path.name
)
def test_the_command_line_prints_through_one_function(path):
    raw = {"typer.echo", "typer.secho", "click.echo", "print", "sys.stdout.write"}
    assert not calls(path) & raw, "use bench.cli.output.echo"
