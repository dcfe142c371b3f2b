"""``bench leaderboard``: the table of one target, made of stored runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.run_options import parse_users
from bench.cli.runs import open_store

__all__ = ["leaderboard"]


class Format(StrEnum):
    """Output formats."""

    MARKDOWN = "markdown"
    CSV = "csv"
    JSON = "json"


def leaderboard(
    target: Annotated[str, typer.Option(help="Target domain.")],
    format_: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.MARKDOWN,
    primary: Annotated[str, typer.Option(help="Metric that sorts the rows.")] = "ndcg@5",
    profile: Annotated[
        str | None, typer.Option(help="Only this profile; default: all that have runs.")
    ] = None,
    users: Annotated[
        str, typer.Option(metavar="full|N", help="All test users, or the subset of N users.")
    ] = "full",
    task: Annotated[
        str | None,
        typer.Option(help="First digits of a task hash; default: the standard protocol."),
    ] = None,
    all_configs: Annotated[
        bool,
        typer.Option("--all-configs", help="Also configurations other than the default ones."),
    ] = False,
    ci: Annotated[bool, typer.Option("--ci", help="Print 95 % bootstrap intervals.")] = False,
    store: Annotated[
        Path | None, typer.Option(help="Folder of stored runs; default: BENCH_STORE, ./bench-runs.")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Write to this file instead.")] = None,
) -> None:
    """Print the table of one target. Every figure comes from a stored run; nothing is typed."""
    from bench.io import write_text
    from bench.report import leaderboard as report
    from bench.runs.store import Damage

    damaged: list[Damage] = []
    table = report.build_table(
        open_store(store).list(damaged=damaged),
        target,
        primary=primary,
        profile=profile,
        users=parse_users(users),
        task=task,
        all_configs=all_configs,
        ci=ci,
    )
    for found in damaged:
        typer.echo(f"left out: {found.reason}", err=True)
    writer = {
        Format.MARKDOWN: report.to_markdown,
        Format.CSV: report.to_csv,
        Format.JSON: report.to_json,
    }[format_]
    text = writer(table)
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
        typer.echo(f"wrote {out}", err=True)
