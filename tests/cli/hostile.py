"""Hostile values for any parameter of any verb, and good ones for the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer

from bench.cli import app

__all__ = ["ESCAPE", "GOOD", "commands", "hostile_files", "hostile_words", "words_of"]

ESCAPE = "\x1b]0;owned\x07\x1b[2J\u202edren\x9b31m"
LAUGHS = "a0: &a0 [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 20)
)


def hostile_files(folder: Path) -> dict[str, Path]:
    """Files that no reader expects, by what is wrong with them."""
    contents: dict[str, bytes] = {
        "deep.json": b"[" * 100_000,
        "huge.json": b'{"a": ' + b"9" * 5000 + b"}",
        "nan.json": b'{"a": NaN, "format": 1e999}',
        "list.json": b"[1]",
        "laughs.yaml": LAUGHS.encode(),
        "cycle.yaml": b"methods: &m [*m]\n",
        "deep.yaml": b"[" * 3000,
        "huge.yaml": b"a: " + b"9" * 5000,
        "latin.yaml": b"title: caf\xe9\n",
        "binary.csv": b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR",
        "latin.csv": b"user_id,item_id,timestamp\ncaf\xe9,i,1\n",
        "long.csv": b"user_id,item_id,timestamp\n" + b"u" * 200_000 + b",i,1\n",
        "spans.tex": b"\\begin{tabular}{lr}\nM & NDCG@5 \\\\\n\\multicolumn{99999999}{c}{x} & 1 \\\\\n",
        "empty.csv": b"",
        "exits.py": b"import sys\nsys.exit(0)\n",
        "raises.py": b"raise RuntimeError('\x1b[2J')\n",
        "syntax.py": b"class (\n",
        "noise.npz": b"PK\x03\x04" + b"\x00" * 50,
        "noise.parquet": b"PAR1" + b"\xff" * 50 + b"PAR1",
        "noise.tar.gz": b"\x1f\x8b\x08\x00" + b"\xff" * 50,
        "adapter_config.json": b'{"r": 1e999}',
    }
    found = {}
    for name, content in contents.items():
        found[name] = folder / name
        found[name].write_bytes(content)
    found["folder.csv"] = folder / "folder.csv"
    found["folder.csv"].mkdir()
    run = folder / "run"
    run.mkdir()
    (run / "manifest.json").write_text(json.dumps({"format": 1, "run_id": ESCAPE}))
    found["run"] = run
    loop = folder / "loop.csv"
    loop.symlink_to(loop)
    found["loop.csv"] = loop
    return found


def hostile_words() -> dict[str, str]:
    """Words that no option expects."""
    return {
        "empty": "",
        "blank": " ",
        "commas": ",,",
        "escape": ESCAPE,
        "long name": "n" * 300,
        "long path": "/".join(["n" * 200] * 30),
        "absent": "no/such/place.csv",
        "below a file": "/etc/hostname/x.csv",
        "no permission": "/proc/x/y.csv",
        "digits": "9" * 5000,
        "infinity": "1e400",
        "negative": "-1",
        "surrogate": "caf\udce9",
    }


GOOD: dict[str, str] = {
    "method": "random",
    "target": "tiny",
    "name": "tiny",
    "names": "tiny",
    "run": "0",
    "runs": "0",
    "folder": ".",
    "out": "made.csv",
    "file": "absent.csv",
    "inter": "absent.csv",
    "source": "absent.tar.gz",
    "adapters": "absent",
}
"""What a required parameter gets while another one is tried."""


def commands(
    group: Any = None, path: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every verb with the words that call it."""
    group = typer.main.get_command(app) if group is None else group
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def words_of(path: tuple[str, ...], command: Any, tried: str, value: str) -> list[str]:
    """A call of the verb with ``value`` for the parameter ``tried``, and good values for the rest."""
    words = [*path, *(["--plan"] if path == ("run",) else [])]
    for parameter in command.params:
        if parameter.name != tried and not parameter.required:
            continue
        given = value if parameter.name == tried else GOOD[parameter.name]
        if parameter.param_type_name == "argument":
            words.append(given)
        else:
            words.append(f"{parameter.opts[-1]}={given}")
    return words
