"""The root command: verbs, exit codes, and how errors reach the user.

Exit codes: 0 done, 1 a run failed (or a check did), 2 wrong use, 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import errno
import os
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from bench.cli import (
    adapters,
    assets,
    cache,
    candidates,
    check,
    compare,
    data,
    doctor,
    exchange,
    leaderboard,
    lint,
    merge,
    methods,
    new,
    plot,
    results,
    run,
    runs,
)
from bench.errors import BenchError

__all__ = ["RootCommand", "app", "main"]

INTERRUPTED = 130


class RootCommand(TyperGroup):
    """Turns the package's errors into one clean message and the right exit code.

    ``BENCH_DEBUG=1`` lets the exception through, with its traceback.
    """

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; errors end as one message on standard error."""
        try:
            return super().invoke(ctx)
        except BenchError as error:
            if os.environ.get("BENCH_DEBUG"):
                raise
            _complain(str(error))
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            _complain("interrupted; finished runs are stored, the same command goes on from here.")
            raise typer.Exit(INTERRUPTED) from error
        except OSError as error:
            if error.errno != errno.ENOSPC or os.environ.get("BENCH_DEBUG"):
                raise
            where = f" while writing {error.filename}" if error.filename else ""
            _complain(
                f"the disk is full{where}. Nothing half-written was kept; free some space or choose "
                "another folder (BENCH_STORE, BENCH_CACHE) and repeat the command."
            )
            raise typer.Exit(1) from error


def _complain(message: str) -> None:
    typer.echo(f"error: {message}", err=True)


app = typer.Typer(
    cls=RootCommand,
    name="bench",
    help="Fair, reproducible comparisons of sequential recommenders.",
    no_args_is_help=True,
    # Rich help panels cost a markdown parser at start-up and wrap badly in logs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a run failed, 2 wrong use, 130 interrupted.",
)


def _print_version(value: bool) -> None:
    if value:
        from bench import __version__

        typer.echo(f"weavebench {__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Fair, reproducible comparisons of sequential recommenders."""


app.command("run")(run.run)
app.command("methods")(methods.methods)
app.command("domains")(data.domains)
app.command("leaderboard")(leaderboard.leaderboard)
app.command("lint")(lint.lint)
app.command("plot")(plot.plot)
app.command("compare")(compare.compare)
app.add_typer(runs.app, name="runs")
app.add_typer(results.app, name="results")
app.add_typer(data.app, name="data")
app.add_typer(assets.app, name="assets")
app.add_typer(adapters.app, name="adapters")
app.add_typer(cache.app, name="cache")
app.add_typer(candidates.app, name="candidates")
app.command("export-requests")(exchange.export_requests)
app.command("import-scores")(exchange.import_scores)
app.command("check")(check.check)
app.add_typer(new.app, name="new")
app.command("merge")(merge.merge)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the script ``bench``."""
    app(prog_name="bench")
