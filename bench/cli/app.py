"""The root command: verbs, exit codes, and how errors reach the user.

Exit codes: 0 done, 1 a run failed (or a check did), 2 wrong use, 130 interrupted with Ctrl-C.
"""

from __future__ import annotations

import errno
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
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
from bench.cli.complete import ListsNames
from bench.cli.faults import debugging, explain
from bench.cli.output import echo
from bench.cli.streams import drop_unwritten, interrupted, one_interrupt, open_streams
from bench.process import launched, quiet_threads
from bench.terminal import printable

__all__ = ["RootCommand", "app", "main"]

_USAGE: type[Exception] = typer.BadParameter.__mro__[2]
"""ClickException: what the parser of the command line raises. Newer versions of typer hold click inside."""

_NO_VALUE = re.compile(r"--[a-z][a-z-]*=$")


class RootCommand(TyperGroup):
    """Turns every exception into one clean message and the right exit code.

    ``BENCH_DEBUG=1`` lets it through, with its traceback.
    """

    def __init__(self, **settings: Any) -> None:
        """Every verb refuses an option that is given twice; the parser would take the last silently."""
        super().__init__(**settings)
        for verb in _verbs(self):
            verb.parse_args = partial(_parse_once, verb, verb.parse_args)

    def make_context(self, info_name: str | None, args: list[str], *rest: Any, **extra: Any) -> Any:
        """Refuse empty words, mostly an unset variable of the shell, and bytes that are no text."""
        # A shell that completes asks with what is typed so far.
        for number, word in enumerate(() if extra.get("resilient_parsing") else args):
            if word == "" or _NO_VALUE.match(word):
                owner = word.rstrip("=") or (args[number - 1] if number else "the first word")
                raise typer.BadParameter(f"the value of {owner} is empty; expected a text.")
            if word != word.encode(errors="replace").decode():
                raise typer.BadParameter(
                    f"{printable(word)} holds bytes that are not UTF-8, which no manifest can name. "
                    "Rename the file."
                )
        with _one_message():  # the help and the version are printed here
            return super().make_context(info_name, args, *rest, **extra)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; errors end as one message on standard error."""
        with _one_message():
            return super().invoke(ctx)


def _verbs(group: Any) -> Iterator[Any]:
    for command in group.commands.values():
        yield from _verbs(command) if hasattr(command, "commands") else (command,)


def _parse_once(verb: Any, parse: Callable[..., list[str]], ctx: Any, args: list[str]) -> list[str]:
    _, _, given = verb.make_parser(ctx).parse_args(args=list(args))
    for option, times in Counter(given).items():
        one = option.param_type_name == "option" and not (option.multiple or option.is_flag)
        if one and times > 1 and not ctx.resilient_parsing:
            raise typer.BadParameter(
                f"{option.opts[0]} is given {times} times; expected once, several values separated by commas."
            )
    return parse(ctx, args)


@contextmanager
def _one_message() -> Iterator[None]:
    try:
        yield
    except (_USAGE, typer.Exit, typer.Abort):
        raise
    except Exception as error:
        # Compiled modules make errors of their own of a Ctrl-C that comes while they are loaded.
        if interrupted():
            raise _ended(KeyboardInterrupt()) from error
        # A reader that went away (`bench ... | head`) is no error; click ends quietly then.
        if debugging() or (isinstance(error, OSError) and error.errno == errno.EPIPE):
            raise
        raise _ended(error) from error
    except (SystemExit, KeyboardInterrupt) as error:
        if debugging() and isinstance(error, SystemExit):
            raise
        raise _ended(error) from error


def _ended(error: BaseException) -> typer.Exit:
    """Tell what happened; the exit code to end with."""
    message, code = explain(error)
    drop_unwritten()
    _complain(message)
    return typer.Exit(code)


def _complain(message: str) -> None:
    echo(f"error: {message}", err=True)


app = typer.Typer(
    cls=RootCommand,
    name="bench",
    help="Fair, reproducible comparisons of sequential recommenders.",
    no_args_is_help=True,
    # Rich help panels cost a markdown parser at start-up and wrap badly in logs.
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Exit codes: 0 done, 1 a run or a check failed, 2 wrong use, 130 interrupted.",
)


def _print_version(value: bool) -> None:
    if value:
        from bench import __version__

        echo(f"weavebench {__version__}")
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
app.command("merge", cls=ListsNames)(merge.merge)
app.command("doctor")(doctor.doctor)


def main() -> None:
    """Entry point of the scripts ``bench`` and ``weavebench``, alone or as one of several processes."""
    with one_interrupt():
        quiet_threads()
        open_streams()
        if not launched():
            app(prog_name="bench")
            return
        from bench.llm.processes import run_as_one

        run_as_one(lambda: app(prog_name="bench"))
