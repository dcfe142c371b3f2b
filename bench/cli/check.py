"""``bench check METHOD``: the conformance kit on one method."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from bench.cli.output import echo, human_seconds, print_json
from bench.errors import MissingExtraError

__all__ = ["check"]

_SHOWN = {"pass": "passed ", "fail": "FAILED ", "skip": "skipped"}


def check(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="A name, recbole:MODEL or file.py:Class.")
    ],
    profile: Annotated[str, typer.Option(help="Profile of the configuration.")] = "cpu",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set", metavar="KEY=VALUE", help="Change one configuration key; repeatable."
        ),
    ] = None,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="CHECK", help="Only this check; repeatable."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check that a method keeps the contract.

    Exit code 1 if it does not; the output says what is wrong. The outcome of all checks of a plugin is
    remembered: its runs carry it, and tables mark runs without a pass.

    A method that cannot be fitted here, because something optional is missing, is not checked
    (exit code 2).
    """
    from bench.enclosure import enclose_import, record_conformance
    from bench.methods.config import parse_set, resolve_config
    from bench.methods.registry import resolve
    from bench.testing import check_method

    with enclose_import(method):
        cls = resolve(method)
    config = resolve_config(cls, profile=profile, overrides=parse_set(set_ or ()))
    results = check_method(cls, config, profile=profile, checks=only)
    unfitted = next((r for r in results if r.id == "fits" and r.status == "skip"), None)
    if only is None and unfitted is None:
        record_conformance(cls, config, [r.id for r in results if r.status == "fail"])
    if as_json:
        print_json([asdict(result) for result in results])
    else:
        for result in results:
            reason = f": {result.reason}" if result.reason else ""
            took = f" ({human_seconds(result.seconds)})" if result.seconds >= 1 else ""
            echo(f"{_SHOWN[result.status]} {result.id}{took}{reason}")
        counts = {state: sum(r.status == state for r in results) for state in _SHOWN}
        echo(
            f"{cls.name}: {counts['pass']} passed, {counts['fail']} failed, "
            f"{counts['skip']} skipped."
        )
    if any(result.status == "fail" for result in results):
        raise typer.Exit(1)
    if unfitted is not None:
        raise MissingExtraError(f"{cls.name} was not checked: {unfitted.reason}")
