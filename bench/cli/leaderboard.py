"""``bench leaderboard``: the table of one target or suite, made of stored runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.complete import domain_names
from bench.cli.output import echo, print_markdown
from bench.cli.run_options import parse_names, parse_users
from bench.cli.runs import readable
from bench.cli.steady import steadily
from bench.errors import ConfigError

if TYPE_CHECKING:
    from bench import Leaderboard, Runs

__all__ = ["leaderboard"]


class Format(StrEnum):
    """Output formats."""

    MARKDOWN = "markdown"
    LATEX = "latex"
    HTML = "html"
    CSV = "csv"
    JSON = "json"


@steadily
def leaderboard(
    target: Annotated[
        str | None,
        typer.Option(
            metavar="D[,D2]",
            help="Target domain; several: one family of tests.",
            autocompletion=domain_names,
        ),
    ] = None,
    suite: Annotated[
        str | None, typer.Option(help="All targets of a suite as one table, instead of --target.")
    ] = None,
    scale: Annotated[
        str | None, typer.Option(help="Scale of the suite: embedded, cpu (default) or paper.")
    ] = None,
    format_: Annotated[Format, typer.Option("--format", help="Output format.")] = Format.MARKDOWN,
    primary: Annotated[
        str | None,
        typer.Option(
            help="Metric that is tested and sorts the rows; default: the suite's, else ndcg@5 "
            "(ndcg@1 if a method answers with a list)."
        ),
    ] = None,
    metrics: Annotated[
        str | None,
        typer.Option(
            metavar="M[,M2]",
            help="Metrics in columns, such as ndcg@10,hr@10; default: ndcg@1,ndcg@3,ndcg@5,mrr@5. The "
            "primary one is always shown.",
        ),
    ] = None,
    reference: Annotated[
        str | None, typer.Option(help="Method that the sign ^ refers to; default: the suite's.")
    ] = None,
    reported: Annotated[
        str | None,
        typer.Option(help="Quote the figures of a publication below a rule, e.g. weaverec-2025."),
    ] = None,
    profile: Annotated[
        str | None, typer.Option(help="Only this profile; default: all that have runs.")
    ] = None,
    users: Annotated[
        str | None,
        typer.Option(
            metavar="full|N", help="All test users, or the subset of N; default: the suite's, full."
        ),
    ] = None,
    task: Annotated[
        str | None,
        typer.Option(help="First digits of a task hash; default: the standard protocol."),
    ] = None,
    all_configs: Annotated[
        bool,
        typer.Option("--all-configs", help="Also configurations other than the default ones."),
    ] = False,
    ci: Annotated[bool, typer.Option("--ci", help="Print 95 % bootstrap intervals.")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Print seconds and peak memory.")] = False,
    ranks: Annotated[
        bool,
        typer.Option("--ranks", help="Print best and worst place, given what is significant."),
    ] = False,
    store: Annotated[
        list[Path] | None,
        typer.Option(
            help="Folder of stored runs; repeatable, all go into one table; default: BENCH_STORE, "
            "else ./bench-runs."
        ),
    ] = None,
    published: Annotated[
        bool,
        typer.Option(
            "--published",
            help="Also published results: BENCH_PUBLISHED, else those of the checkout that bench runs "
            "from.",
        ),
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option(
            help="Write to this file instead; with --format html also a folder, for a whole site."
        ),
    ] = None,
) -> None:
    """Print the table of one target or suite.

    Every figure comes from a stored run; nothing is typed.
    """
    from bench import table
    from bench.evaluation import METRICS
    from bench.io import write_text
    from bench.report.options import DISPLAYED

    if (target is None) == (suite is None):
        raise ConfigError(
            "expected either --target DOMAIN or --suite NAME; `bench domains` lists the domains."
        )
    site = out if format_ is Format.HTML and out is not None and not _is_page(out) else None
    if site is not None and metrics is not None:
        raise ConfigError("--metrics belongs to one table; a site shows every metric.")
    shown = DISPLAYED if metrics is None else parse_names("--metrics", metrics.lower())
    runs = readable(store or None, published=published)
    board = table(
        runs,
        None if target is None else parse_names("--target", target),
        suite=suite,
        scale=scale,
        primary=primary,
        # The pages of a site show every metric, with its interval, and every rank.
        metrics=METRICS if site is not None else shown,
        reference=reference,
        reported=reported,
        profile=profile,
        users=None if users is None else parse_users(users) or "full",
        task=task,
        all_configs=all_configs,
        ci=ci or site is not None,
        costs=cost,
        ranks=ranks or site is not None,
    )
    if site is not None:
        echo(f"wrote {_write_site(board, runs, site)}", err=True)
        return
    text = getattr(board, f"to_{format_.value}")()
    if out is None and format_ is Format.MARKDOWN:
        print_markdown(text)
    elif out is None:
        echo(text, nl=False)
    else:
        write_text(out, text)
        echo(f"wrote {out}", err=True)


def _is_page(path: Path) -> bool:
    """Whether a path means one HTML file; any other is the folder of a site."""
    return path.suffix.lower() in (".html", ".htm") and not path.is_dir()


def _write_site(board: Leaderboard, runs: Runs, folder: Path) -> Path:
    from bench.report.companion import report_of_table
    from bench.report.options import DISPLAYED
    from bench.report.site import Board, write_site
    from bench.report.table import TableSet

    table = board.table
    boards = [
        Board(one, tuple(dict.fromkeys([*DISPLAYED, one.primary])), report_of_table(one, runs))
        for one in board.tables
    ]
    title = table.title if isinstance(table, TableSet) else f"Leaderboard of {table.target}"
    # Intervals and ranks are always shown here, whether or not they were asked for.
    words = [word for word in table.command.split(" ") if word not in ("--ci", "--ranks")]
    command = " ".join([*words, "--format html --out", folder.name])
    return write_site(boards, runs, folder, title=title, command=command)
