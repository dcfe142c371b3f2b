"""``bench lint``: whether reported figures can be true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.output import echo, print_json
from bench.cli.protocol_options import StoreOption
from bench.cli.steady import steadily

if TYPE_CHECKING:
    from bench.report.lint import LintReport

__all__ = ["lint"]


@steadily
def lint(
    names: Annotated[
        list[str],
        typer.Argument(
            metavar="FILE|RUN|SUITE...",
            help="Table (CSV, TSV, Markdown, LaTeX, a leaderboard's JSON), run, folder of runs, suite, "
            "or quoted figures such as weaverec-2025.",
        ),
    ],
    n_candidates: Annotated[
        int | None,
        typer.Option(min=1, help="Candidates per user; default: what the table says, else 30."),
    ] = None,
    n_users: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Every row is one run over this many users, without ties: also test that HR@k and "
            "NDCG@1 are whole numbers of users (GRIM).",
        ),
    ] = None,
    slack: Annotated[
        float | None,
        typer.Option(
            min=0, help="How far a figure may be off; default: one unit in its last place."
        ),
    ] = None,
    percent: Annotated[
        bool, typer.Option("--percent", help="Figures in files are percentages.")
    ] = False,
    store: StoreOption = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per source.")
    ] = False,
) -> None:
    """Check whether reported figures can be true.

    They must be possible together, stand for whole numbers of users, and lie above the random row. Exit
    code 1 if something is inconsistent; warnings alone give 0.
    """
    from bench.report.lint import LintOptions
    from bench.report.lint import lint as check
    from bench.runs.store import open_store

    options = LintOptions(n_candidates, n_users, slack)
    opened = open_store(store)
    reports = [r for name in names for r in check(name, opened, options, percent=percent)]
    for report in reports:
        if as_json:
            print_json(report.to_json())
        else:
            _print(report)
    if any(report.n_inconsistent for report in reports):
        raise typer.Exit(1)


def _print(report: LintReport) -> None:
    for finding in report.findings:
        place = f"{report.source}:{finding.line}" if finding.line else report.source
        row = " / ".join(part for part in (finding.target, finding.method) if part)
        echo(
            f"{place}: {finding.severity} [{finding.check}] {row}{': ' if row else ''}"
            f"{finding.message}"
        )
    for note in report.notes:
        echo(f"{report.source}: note: {note}")
    n_warnings = sum(f.severity == "warning" for f in report.findings)
    grim = f", GRIM applied to {report.n_grim}" if report.n_grim else ""
    echo(
        f"{report.source}: {report.n_rows} rows (method x target), {report.n_figures} figures"
        f"{grim}: {report.n_inconsistent} inconsistent, {n_warnings} "
        f"{'warning' if n_warnings == 1 else 'warnings'}"
    )
