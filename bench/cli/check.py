"""``bench check METHOD``: the conformance kit on one method."""

from __future__ import annotations

from typing import Annotated

import typer

__all__ = ["check"]


def check(
    method: Annotated[
        str, typer.Argument(metavar="METHOD", help="A name, recbole:MODEL or file.py:Class.")
    ],
    profile: Annotated[str, typer.Option(help="Profile of the configuration.")] = "cpu",
    set_: Annotated[
        list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change one key.")
    ] = None,
) -> None:
    """Check that a method keeps the contract; exit 1 where it does not, saying what is wrong."""
    from bench.methods.config import parse_set, resolve_config
    from bench.methods.registry import resolve
    from bench.testing import check_method

    cls = resolve(method)
    config = resolve_config(cls, profile=profile, overrides=parse_set(set_ or ()))
    results = check_method(cls, config)
    del results
