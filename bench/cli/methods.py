"""``bench methods [NAME]``: what can be run, and the options of one method."""

from __future__ import annotations

import json
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.complete import method_names
from bench.cli.output import echo, print_json, print_table

if TYPE_CHECKING:
    from bench.methods.registry import MethodInfo

__all__ = ["methods"]

WIDTH = 100

WITHOUT_TORCH = (
    "torch is not installed: methods that count items run; those that train need pip install "
    "'weavebench[models]', those that read texts or use a language model 'weavebench[llm]'."
)


def methods(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A method, recbole:MODEL or file.py:Class; default: list them all.",
            autocompletion=method_names,
        ),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the methods, or describe one with its options."""
    from importlib.util import find_spec

    from bench.methods import registry
    from bench.methods.listing import listings

    if name is not None:
        info = registry.describe(name)
        if as_json:
            print_json(asdict(info))
        else:
            _print_info(info)
        return
    if as_json:
        infos, problems = registry.describe_all()
        print_json([asdict(info) for info in infos])
    else:
        listed, problems = listings()
        print_table(
            ("method", "family", "what it is"),
            [(one.name, one.family.value, one.summary) for one in listed],
        )
        more = [found for found in registry.names() if found.startswith("recbole:")]
        if more:
            echo(f"\nFurther models of RecBole: {', '.join(more)}")
        echo("\nYour own: bench new method NAME. Options of one: bench methods NAME.")
        if find_spec("torch") is None:
            echo(f"\n{WITHOUT_TORCH}")
    # What one absent package takes away is one warning.
    named: dict[str, list[str]] = {}
    for problem in problems:
        named.setdefault(f"({problem.origin}): {problem.reason}", []).append(problem.name)
    for reason, found in named.items():
        echo(f"warning: {', '.join(found)} {reason}", err=True)


def _print_info(info: MethodInfo) -> None:
    echo(f"{info.name}, version {info.version}, {info.family.value}, {info.origin}")
    echo(info.summary)
    if info.capabilities is not None:
        flags = [key.replace("_", " ") for key, on in asdict(info.capabilities).items() if on]
        echo(f"Capabilities: {', '.join(flags) or 'none'}")
    for domain, reason in info.known_below_popularity.items():
        echo(f"Known to rank below popularity on {domain}: {reason}")
    if not info.fields:
        echo("It has no configuration keys.")
        return
    profiles = sorted(info.profiles)
    echo("\nConfiguration keys (--set key=value), with the value of each profile:")
    rows = []
    for field in info.fields:
        default = "required" if field.required else field.default
        values = [info.profiles[profile].get(field.name, default) for profile in profiles]
        rows.append((field.name, field.type, *map(_as_set, values)))
    print_table(("key", "type", *profiles), rows)
    echo()
    for field in info.fields:
        text = f"{field.name}: {field.description.replace('``', '')}"
        echo(textwrap.fill(text, WIDTH, subsequent_indent="    ", break_on_hyphens=False))


def _as_set(value: Any) -> str:
    """A value as ``--set`` takes it."""
    return value if isinstance(value, str) and value else json.dumps(value, ensure_ascii=False)
