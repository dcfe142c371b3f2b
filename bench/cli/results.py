"""``bench results``: the merge gate for published results, and the tables made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli.output import echo, print_json

__all__ = ["app"]

app = typer.Typer(
    help="Verify published results and make tables of them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="Folder with results below it.")]


@app.command("verify")
def verify(
    folder: Folder,
    with_data: Annotated[
        bool,
        typer.Option(
            "--with-data",
            help="Also rebuild the tasks from the raw data and compare task, candidate and user hashes.",
        ),
    ] = False,
    data_root: Annotated[
        Path | None,
        typer.Option(help="Folder of the domains for --with-data; default: BENCH_DATA_ROOT."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Recompute every metric from the per-user outcomes.

    Hashes, bounds, users and duplicates are checked, too. Exit code 1 if a check fails.
    """
    from bench.report.verify import against_data, verify_folder
    from bench.runs.store import RunStore

    found = verify_folder(folder)
    imported = [r for r in RunStore(folder).list(damaged=[]) if r.imported is not None]
    problems = list(found.problems)
    if with_data and not problems:
        problems += against_data(RunStore(folder).list(), data_root)
    if as_json:
        print_json(
            {
                "runs": found.n_runs,
                "outcomes": found.n_users,
                "imported": [run.run_id for run in imported],
                "problems": [
                    {"path": str(p.path), "check": p.check, "message": p.message} for p in problems
                ],
            }
        )
    else:
        for problem in problems:
            echo(str(problem), err=True)
        verdict = f"{len(problems)} problems" if problems else "all checks passed"
        echo(f"{found.n_runs:,} results, {found.n_users:,} outcomes recomputed: {verdict}")
        if imported:
            echo(
                f"{len(imported)} of them imported: their figures follow from the stored outcomes; whether "
                "these follow from the scores of the other program, and what it was trained on, is as declared."
            )
    if problems:
        raise typer.Exit(1)


@app.command("tables")
def tables(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Folder that the tables are written to.")],
    check: Annotated[
        bool,
        typer.Option("--check", help="Write nothing; fail if a file differs from what is there."),
    ] = False,
) -> None:
    """Make the leaderboard of every target, and an index.

    The formats are Markdown, LaTeX, CSV and JSON. The same results always give the same bytes. Exit
    code 1 if --check finds a difference.
    """
    from bench.report.committed import differences, render, write

    files = render(folder)
    if check:
        found = differences(files, out)
        for line in found:
            echo(line, err=True)
        if found:
            echo(f"{out} is not what {folder} gives; run `make leaderboards`.", err=True)
            raise typer.Exit(1)
        echo(f"{len(files)} files in {out} are what {folder} gives")
        return
    changed = write(files, out)
    echo(f"wrote {len(changed)} of {len(files)} files to {out}")


@app.command("budgets")
def budgets(
    folder: Folder,
    out: Annotated[Path, typer.Option(help="Markdown file that the page is written to.")],
    check: Annotated[
        bool, typer.Option("--check", help="Write nothing; fail if the file differs.")
    ] = False,
) -> None:
    """Make the page on training budgets.

    It says how much every trained result was trained, and which trainings are too short. Exit code 1 if --check finds a difference.
    """
    from bench.errors import ResultError
    from bench.io import write_bytes
    from bench.report.budgets import budget_page
    from bench.report.committed import COMMAND
    from bench.runs.store import RunStore

    page = budget_page(RunStore(folder).list(), COMMAND).encode()
    same = out.is_file() and out.read_bytes() == page
    if check and not same:
        raise ResultError(f"{out} is not what {folder} gives; run `{COMMAND}`.")
    if not same:
        write_bytes(out, page)
    echo(f"{out} is what {folder} gives" if same else f"wrote {out}")
