"""``bench domains`` and ``bench data``: list, show, download, import, rm, verify, stats."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.complete import ListsNames
from bench.cli.data_import import import_, remove
from bench.cli.output import echo, human_bytes, print_json, print_table
from bench.cli.protocol_options import DataRoot
from bench.errors import unknown_name

if TYPE_CHECKING:
    from bench.data.catalogue import CatalogueEntry

__all__ = ["app", "domains"]

app = typer.Typer(
    help="List, download, import and describe data sets.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]

app.command("import", cls=ListsNames)(import_)
app.command("rm")(remove)


def domains(
    name: Annotated[str | None, typer.Argument(help="One domain; default: list them all.")] = None,
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """List the domains, or describe one.

    The list says which of them are on this machine.
    """
    if name is not None:
        stats(name, data_root=data_root, as_json=as_json)
        return
    from bench.data.catalogue import CATALOGUE
    from bench.data.load import is_available, known_names

    rows = []
    for known in known_names(data_root):
        entry = CATALOGUE.get(known)
        rows.append(
            {
                "name": known,
                "here": is_available(known, data_root=data_root),
                "group": entry.group if entry else None,
                "title": entry.title if entry else "imported",
            }
        )
    if as_json:
        print_json(rows)
        return
    print_table(
        ("domain", "here", "study group", "title"),
        [(r["name"], "yes" if r["here"] else "no", r["group"], r["title"]) for r in rows],
    )
    if not any(row["here"] for row in rows):
        echo("\nThe embedded domains need no download by hand: bench assets pull ml-100k")


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the catalogue and what was imported here.

    The catalogue names official pages and expected counts.
    """
    from bench.data.catalogue import CATALOGUE
    from bench.data.imports import import_record, imported_names

    imports = [import_record(name) for name in imported_names()]
    if as_json:
        own = [{"kind": "import", **record} for record in imports]
        print_json([*(asdict(entry) for entry in CATALOGUE.values()), *own])
        return
    rows: list[tuple[Any, ...]] = [
        (entry.name, entry.group, *(_counts(entry) or ("", "", "")), entry.homepage)
        for entry in CATALOGUE.values()
    ]
    for record in imports:
        counts = record.get("counts", {})
        figures = (f"{counts[c]:,}" if c in counts else "" for c in ("users", "items", "events"))
        names = [source["name"] for source in record["sources"]]
        files = ", ".join(names[:2]) + f" and {len(names) - 2} more" * (len(names) > 2)
        rows.append(
            (record["name"], record["options"]["group"], *figures, f"imported from {files}")
        )
    print_table(("domain", "study group", "users", "items", "events", "official page"), rows)
    echo("\nFiles and terms of one: bench data show NAME")


def _counts(entry: CatalogueEntry) -> tuple[str, str, str] | None:
    expected = entry.expected
    if expected is None:
        return None
    return f"{expected.users:,}", f"{expected.items:,}", f"{expected.events:,}"


@app.command("show")
def show(
    name: Annotated[str, typer.Argument(help="A name from `bench data list`.")],
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Show one entry of the catalogue.

    It has terms, files and expected counts, and says whether the data are here.
    """
    from bench.data.catalogue import CATALOGUE
    from bench.data.load import is_available, known_names

    entry = CATALOGUE.get(name)
    if entry is None:
        if name in known_names(data_root):
            stats(name, data_root=data_root, as_json=as_json)
            return
        raise unknown_name("domain", name, known_names(data_root))
    here = is_available(name, data_root=data_root)
    if as_json:
        print_json({**asdict(entry), "here": here})
        return
    counts = _counts(entry)
    facts: list[tuple[str, Any]] = [
        ("title", entry.title),
        ("study group", entry.group or "none"),
        ("shares ids with", entry.namespace or "no other domain"),
        ("k-core", entry.k_core or "none"),
        ("users, items, events", ", ".join(counts) if counts else "not stated"),
        ("official page", entry.homepage),
        ("terms", entry.terms),
        ("note", entry.note or "none"),
        ("on this machine", "yes" if here else "no"),
    ]
    print_table(("domain", entry.name), facts)
    if entry.files:
        echo("")
        print_table(
            ("file", "size", "sha256"),
            [
                (
                    file.url,
                    human_bytes(file.size) if file.size else "not stated",
                    file.sha256 or "not stated",
                )
                for file in entry.files
            ],
        )


@app.command("download")
def download(
    names: Annotated[list[str], typer.Argument(help="Catalogue names.")],
    folder: Annotated[
        Path | None, typer.Option(help="Folder to download into, one folder per domain in it.")
    ] = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Download official files.

    A broken download resumes. Size and SHA-256 are checked if they are known.
    """
    from bench.data import catalogue
    from bench.data.download import download as fetch

    for entry in [catalogue.entry(name) for name in names]:
        echo(f"{entry.name}: {entry.terms}", err=True)
        with _Meter(quiet) as meter:
            where = fetch(entry, folder=folder / entry.name if folder else None, progress=meter)
        echo(f"{entry.name}: {where}")


class _Meter:
    """Progress of a download on standard error: a bar in a terminal, a line per tenth elsewhere."""

    def __init__(self, quiet: bool) -> None:
        self._quiet = quiet
        self._bars: Any = None
        self._tasks: dict[str, Any] = {}
        self._tenths: dict[str, int] = {}

    def __enter__(self) -> _Meter:
        import sys

        if not self._quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import DownloadColumn, Progress, TimeRemainingColumn

            columns = (*Progress.get_default_columns()[:2], DownloadColumn(), TimeRemainingColumn())
            self._bars = Progress(*columns, console=Console(stderr=True))
            self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._bars is not None:
            self._bars.stop()

    def __call__(self, file: str, done: int, total: int | None) -> None:
        if self._bars is not None:
            if file not in self._tasks:
                self._tasks[file] = self._bars.add_task(file, total=total)
            self._bars.update(self._tasks[file], completed=done, total=total)
        elif not self._quiet and total:
            tenth = 10 * done // total
            if tenth > self._tenths.get(file, -1):
                self._tenths[file] = tenth
                echo(f"  {file}: {done}/{total} bytes ({10 * tenth} %)", err=True)


@app.command("verify")
def verify(
    names: Annotated[
        list[str] | None, typer.Argument(help="Domains; default: every one that is here.")
    ] = None,
    data_root: DataRoot = None,
) -> None:
    """Check recorded checksums and the catalogue's counts.

    Exit code 1 if something differs.
    """
    from bench.data.imports import verify as check
    from bench.data.load import is_available, known_names

    here = [n for n in known_names(data_root) if is_available(n, data_root=data_root)]
    differs = False
    for name in names or here:
        problems = check(name, data_root=data_root)
        echo(f"{name}: {'differs' if problems else 'as expected'}")
        for problem in problems:
            echo(f"  {problem}", err=True)
        differs = differs or bool(problems)
    if differs:
        raise typer.Exit(1)


@app.command("stats")
def stats(
    name: Annotated[str, typer.Argument(help="A domain that is on this machine.")],
    data_root: DataRoot = None,
    as_json: AsJson = False,
) -> None:
    """Describe a domain that is on this machine.

    Sizes, lengths, titles, tied times, and what was dropped.
    """
    from bench.data.load import load_domain
    from bench.data.stats import domain_stats

    domain = load_domain(name, data_root=data_root)
    figures = asdict(domain_stats(domain))
    if as_json:
        print_json(
            {
                "name": domain.name,
                "group": domain.group,
                "namespace": domain.namespace,
                "content_hash": domain.content_hash,
                **figures,
                "provenance": domain.provenance,
            }
        )
        return
    print_table(
        ("", domain.name),
        [
            ("study group", domain.group or "none"),
            ("shares ids with", domain.namespace or "no other domain"),
            ("content", domain.content_hash[:16]),
            *(
                (key.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value:.6g}")
                for key, value in figures.items()
            ),
            *(
                (
                    f"preparation: {key.replace('_', ' ')}",
                    sum(value.values()) if isinstance(value, dict) else value,
                )
                for key, value in domain.provenance.get("counts", {}).items()
            ),
            *(
                ("file", f"{file['name']}, {human_bytes(file['size'])}, {file['sha256'][:16]}...")
                for file in domain.provenance.get("files", ())
            ),
        ],
    )
