"""``bench cache``: list, verify, rm: what was made once and is kept to be used again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.output import echo, human_bytes, print_json, print_table

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["app"]

app = typer.Typer(
    help="List, verify and delete what is in the cache. That is prepared domains, vectors of texts, first "
    "stages and converted models, made when needed.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


def _size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


@app.command("list")
def list_(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Show what is in the cache, and its size.

    Adapters and assets have verbs of their own.
    """
    from bench.io import cache_root
    from bench.sealed import KINDS, entries

    rows = [
        (KINDS[kind], folder.name, _size(folder))
        for kind, folders in entries().items()
        for folder in folders
    ]
    if as_json:
        print_json([{"kind": kind, "name": name, "bytes": size} for kind, name, size in rows])
    elif rows:
        print_table(
            ("what", "name", "size"), [(kind, name, human_bytes(size)) for kind, name, size in rows]
        )
    else:
        echo(f"Nothing in {cache_root()} yet.")


@app.command("verify")
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names from `bench cache list`; default: all.")
    ] = None,
) -> None:
    """Compare every file with its SHA-256.

    Exit code 1 if one differs.
    """
    from bench.errors import ResultError
    from bench.sealed import entries, intact, locate

    every = [folder for folders in entries().values() for folder in folders]
    damaged = False
    for folder in [locate(name) for name in names] if names else every:
        try:
            state = "intact" if intact(folder) else "of an earlier version, without checksums"
        except ResultError as error:
            damaged, state = True, "damaged"
            echo(f"  {error}", err=True)
        echo(f"{folder.name}: {state}")
    if damaged:
        raise typer.Exit(1)


@app.command("rm")
def rm(
    names: Annotated[
        list[str] | None, typer.Argument(help="Names from `bench cache list`.")
    ] = None,
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished",
            help="Delete what interrupted and killed processes left; what a process works on is kept.",
        ),
    ] = False,
) -> None:
    """Delete entries, damaged ones too.

    What is needed again is made again.
    """
    from bench.errors import ConfigError
    from bench.sealed import clean, locate, remove

    if not names and not unfinished:
        raise ConfigError("nothing to delete: name entries, or give --unfinished.")
    removed = [locate(name) for name in dict.fromkeys(names or ())]
    for folder in removed:
        remove(folder)
    for folder in [*removed, *(clean() if unfinished else ())]:
        echo(f"removed {folder}")
