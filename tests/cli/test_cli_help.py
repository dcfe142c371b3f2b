"""The help as a reader of it sees it: whole sentences in a terminal of 80 columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import typer

from bench.cli.app import app


def _groups(command: Any, name: str = "bench") -> Iterator[Any]:
    if hasattr(command, "commands"):
        yield pytest.param(command, id=name)
        for word, verb in command.commands.items():
            yield from _groups(verb, f"{name} {word}")


@pytest.mark.parametrize("group", [*_groups(typer.main.get_command(app))])
def test_no_summary_is_cut_off(group):
    context = typer.Context(group, info_name="bench", terminal_width=80)
    _, _, listing = group.get_help(context).partition("\nCommands:\n")
    lines = listing.splitlines()
    for name in group.commands:
        (line,) = [line for line in lines if line.split()[:1] == [name]]
        assert line.endswith(".")
        assert not line.endswith("..."), line
        assert len(line) < 80, line
