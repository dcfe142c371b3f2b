"""``bench data import`` and ``bench data rm``: people's own data come and go."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.complete import reader_names
from bench.cli.output import echo
from bench.cli.protocol_options import OnError, OnErrorOption
from bench.errors import ConfigError

__all__ = ["import_", "remove"]


class Quotes(StrEnum):
    """Whether quotation marks enclose fields."""

    CSV = "csv"
    NONE = "none"


class Repeats(StrEnum):
    """What becomes of several events of one user and item."""

    FIRST = "first"
    KEEP = "keep"


def import_(
    name: Annotated[str, typer.Argument(help="New name of the domain.")],
    inter: Annotated[
        list[Path],
        typer.Argument(
            help="Interactions: .csv, .tsv, .txt, .json, .jsonl, .inter (also .gz, .zip), .parquet; a "
            "folder of parts; several files; or a MovieLens folder or .zip."
        ),
    ],
    items: Annotated[
        Path | None, typer.Option(help="Item table of any of these kinds, with titles.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            metavar="ROLE=COLUMN",
            help="Which column (JSON key, or number from 1) holds user, item, time, title, ...; "
            "time=row: the order of rows; repeatable.",
        ),
    ] = None,
    k_core: Annotated[
        int | None, typer.Option(min=1, help="Drop users and items with fewer events, repeatedly.")
    ] = None,
    namespace: Annotated[
        str | None, typer.Option(help="Id space shared with other domains (leak guard).")
    ] = None,
    group: Annotated[
        str | None, typer.Option(help="Study group: its other members are the default sources.")
    ] = None,
    separator: Annotated[
        str | None,
        typer.Option(
            help="What separates fields: one or more characters, or tab, blank, comma, semicolon, "
            "pipe. Default: found from the file."
        ),
    ] = None,
    quotes: Annotated[
        Quotes | None,
        typer.Option(
            help="csv: marks enclose fields; none: marks are characters. Default: csv if commas or "
            "semicolons separate fields or the header is quoted."
        ),
    ] = None,
    header: Annotated[
        bool | None,
        typer.Option(
            "--header/--no-header",
            help="Whether line 1 of the interactions holds names; without, columns are numbers.",
        ),
    ] = None,
    encoding: Annotated[
        str | None, typer.Option(help="Text encoding. Default: utf-8; of MovieLens its own.")
    ] = None,
    time_format: Annotated[
        str | None,
        typer.Option(help="Form of the times, as of strftime: '%d/%m/%Y %H:%M'."),
    ] = None,
    where: Annotated[
        list[str] | None,
        typer.Option(
            metavar="CONDITION", help="Keep interactions with, say, 'rating >= 4'; repeatable."
        ),
    ] = None,
    sequences: Annotated[
        bool,
        typer.Option("--sequences", help="Each line is a user and all their items, oldest first."),
    ] = False,
    repeats: Annotated[
        Repeats,
        typer.Option(
            help="Of several events of one user and item: the earliest, or refuse to lose any."
        ),
    ] = Repeats.FIRST,
    on_error: OnErrorOption = OnError.RAISE,
    reader: Annotated[
        str | None,
        typer.Option(
            help="Format, one of: {readers}. Default: found from the file.",
            autocompletion=reader_names,
        ),
    ] = None,
    replace: Annotated[bool, typer.Option("--replace", help="Replace an earlier import.")] = False,
) -> None:
    """Import your own interactions under a name.

    `bench run --target NAME` finds them from then on.
    """
    from bench.data.imports import import_domain, import_record
    from bench.data.readers.delimited import SEPARATORS

    domain = import_domain(
        name,
        inter,
        items,
        _mapping(columns or ()),
        k_core=k_core,
        namespace=namespace,
        group=group,
        separator=SEPARATORS.get(separator, separator) if separator else None,
        quotes=quotes.value if quotes else None,
        header=header,
        encoding=encoding,
        time_format=time_format,
        where=where or (),
        sequences=sequences,
        repeats=repeats.value,
        on_error=on_error.value,
        reader=reader,
        replace=replace,
    )
    echo(f"{name}: {domain.n_users:,} users, {domain.n_items:,} items, {domain.n_events:,} events")
    for what in ("duplicates_dropped", "k_core_dropped", "placeholder_titles"):
        if domain.provenance["counts"][what]:
            echo(f"  {what.replace('_', ' ')}: {domain.provenance['counts'][what]}")
    record = import_record(name)
    if record["left_out"]:
        echo(f"  left out by --where: {record['left_out']}")
    for file, count in record["lines_skipped"].items():
        if count:
            echo(f"  lines skipped in {file}: {count}")
    for note in record["notes"]:
        echo(f"  {note}", err=note.startswith("warning:"))


def _mapping(columns: Sequence[str]) -> dict[str, str] | None:
    pairs = {}
    for text in columns:
        role, found, column = text.partition("=")
        if not found or not role or not column:
            raise ConfigError(
                f"--column {text!r}: expected ROLE=COLUMN, for example --column user=reviewer."
            )
        if role in pairs:
            raise ConfigError(f"--column {text!r}: {role!r} is given twice.")
        pairs[role] = column
    return pairs or None


def remove(
    names: Annotated[list[str], typer.Argument(help="Imported or downloaded domains.")],
) -> None:
    """Remove imported or downloaded domains.

    Your own files are not touched.
    """
    from bench.data.imports import remove_import

    for name in names:
        echo(f"{name}: removed {remove_import(name)}")
