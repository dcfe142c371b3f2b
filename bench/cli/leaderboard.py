"""``bench leaderboard``: a table made of stored runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.runs import open_store
from bench.errors import ConfigError, ResultError

__all__ = ["leaderboard"]


class Format(StrEnum):
    """Output formats."""

    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


def leaderboard(
    target: Annotated[str, typer.Option(help="Target domain.")],
    format_: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.MARKDOWN,
) -> None:
    """Print the table of one target, made of stored runs."""
