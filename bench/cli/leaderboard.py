"""``bench leaderboard``: the table of one target or suite, made of stored runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.complete import domain_names
from bench.cli.output import echo, print_markdown
from bench.cli.run_options import parse_names, parse_users
from bench.cli.runs import open_store
from bench.cli.steady import steadily
from bench.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bench.report.table import Table, TableSet
    from bench.runs.stored import StoredRun

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
            "(ndcg@1 where a method answers with a list)."
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
            "./bench-runs."
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
    """Print the table of one target or suite. Every figure comes from a stored run; nothing is typed."""
    from bench.io import write_text
    from bench.report import leaderboard as report
    from bench.report.reported import load_publication
    from bench.report.suite_table import build_suite, build_targets
    from bench.suites import load_suite

    if (target is None) == (suite is None):
        raise ConfigError(
            "expected either --target DOMAIN or --suite NAME; `bench domains` lists the domains."
        )
    runs = _runs_of(store or [None], published)
    n_users = None if users is None else parse_users(users)
    publication = None if reported is None else load_publication(reported)
    site = out if format_ is Format.HTML and out is not None and not _is_page(out) else None
    shared: dict[str, Any] = {
        "primary": primary,
        "all_configs": all_configs,
        "costs": cost,
        "publication": publication,
        # The pages of a site show every metric, with its interval, and every rank.
        "metrics": _metrics(metrics, site),
        "published": published,
        "ci": ci or site is not None,
        "ranks": ranks or site is not None,
    }
    names = () if target is None else parse_names("--target", target)
    table: Table | TableSet
    if suite is not None:
        if profile is not None or task is not None:
            raise ConfigError("--profile and --task belong to --target; a suite declares its own.")
        table = build_suite(
            runs,
            load_suite(suite),
            scale=scale or "cpu",
            reference=reference,
            users=users,
            **shared,
        )
    elif scale is not None:
        raise ConfigError("--scale belongs to --suite; choose a profile with --profile.")
    elif len(names) > 1:
        if task is not None:
            raise ConfigError("--task belongs to a single --target.")
        table = build_targets(
            runs, names, reference=reference, profile=profile, users=n_users, **shared
        )
    else:
        table = report.build_table(
            runs,
            names[0],
            reference=reference,
            profile=profile,
            users=n_users,
            task=task,
            **shared,
        )
    if site is not None:
        echo(f"wrote {_write_site(table, runs, site)}", err=True)
        return
    writer = {
        Format.MARKDOWN: report.to_markdown,
        Format.LATEX: report.to_latex,
        Format.HTML: report.to_html,
        Format.CSV: report.to_csv,
        Format.JSON: report.to_json,
    }[format_]
    text = writer(table)
    if out is None and format_ is Format.MARKDOWN:
        print_markdown(text)
    elif out is None:
        echo(text, nl=False)
    else:
        write_text(out, text)
        echo(f"wrote {out}", err=True)


def _runs_of(stores: Sequence[Path | None], published: bool) -> list[StoredRun]:
    """The runs of all places, each once; damaged ones are named on standard error.

    Raises:
        ConfigError: published results are wanted and there are none here.
    """
    from bench.runs.rivals import published_folder
    from bench.runs.store import Damage, RunStore

    places = [open_store(store) for store in stores]
    if published:
        folder = published_folder()
        if folder is None:
            raise ConfigError(
                "no published results here: an installed package has none. Name a checkout's "
                "leaderboards/results with BENCH_PUBLISHED, or as another --store."
            )
        places.append(RunStore(folder))
    damaged: list[Damage] = []
    runs: dict[str, StoredRun] = {}
    for place in places:
        for run in place.list(damaged=damaged):
            runs.setdefault(run.run_id, run)
    for found in damaged:
        echo(f"left out: {found.reason}", err=True)
    return list(runs.values())


def _metrics(asked: str | None, site: Path | None) -> tuple[str, ...]:
    """The displayed metrics; the pages of a site show all.

    Raises:
        ConfigError: no name in ``--metrics``, or the option beside a site.
    """
    from bench.evaluation import METRICS
    from bench.report.leaderboard import DISPLAYED

    if site is not None:
        if asked is not None:
            raise ConfigError("--metrics belongs to one table; a site shows every metric.")
        return METRICS
    return DISPLAYED if asked is None else parse_names("--metrics", asked.lower())


def _is_page(path: Path) -> bool:
    """Whether a path means one HTML file; any other is the folder of a site."""
    return path.suffix.lower() in (".html", ".htm") and not path.is_dir()


def _write_site(table: Table | TableSet, runs: Sequence[StoredRun], folder: Path) -> Path:
    from bench.report.companion import report_of_table
    from bench.report.leaderboard import DISPLAYED
    from bench.report.site import Board, write_site
    from bench.report.table import TableSet

    tables = table.tables if isinstance(table, TableSet) else (table,)
    boards = [
        Board(one, tuple(dict.fromkeys([*DISPLAYED, one.primary])), report_of_table(one, runs))
        for one in tables
    ]
    title = table.title if isinstance(table, TableSet) else f"Leaderboard of {table.target}"
    # Intervals and ranks are always shown here, whether or not they were asked for.
    words = [word for word in table.command.split(" ") if word not in ("--ci", "--ranks")]
    command = " ".join([*words, "--format html --out", folder.name])
    return write_site(boards, runs, folder, title=title, command=command)
