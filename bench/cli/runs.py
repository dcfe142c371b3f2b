"""``bench runs``: list, show, rm, export, import, reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

import bench
from bench.cli.output import echo, human_seconds, print_json, print_table
from bench.cli.protocol_options import DataRoot, StoreOption
from bench.cli.steady import steadily

if TYPE_CHECKING:
    from bench import Runs
    from bench.runs.store import Damage, RunStore
    from bench.runs.stored import StoredRun

__all__ = ["app", "readable"]

PER_USER = "per_user.parquet"

app = typer.Typer(
    help="List, show, delete, export and reproduce stored runs. A run is named by its id, the first "
    "digits of it, or its folder.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

RunName = Annotated[str, typer.Argument(metavar="RUN", help="Run id or its first digits.")]


def readable(store: Path | list[Path] | None, *, published: bool = False) -> Runs:
    """All runs of the stores; damaged ones are named on standard error."""
    damaged: list[Damage] = []
    runs = bench.load_runs(store, published=published, damaged=damaged)
    for one in damaged:
        echo(f"left out: {one.reason}", err=True)
    return runs


@app.command("list")
def list_(
    target: Annotated[str | None, typer.Option(help="Only this target.")] = None,
    method: Annotated[str | None, typer.Option(help="Only this method.")] = None,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the stored runs.

    Damaged and failed ones are named on standard error.
    """
    from bench.runs.store import open_store
    from bench.runs.unfinished import unfinished_runs

    opened = open_store(store)
    damaged: list[Damage] = []
    # Copies of a run are listed as well, for every command that names it will ask which is meant.
    runs = bench.Runs(opened.list(target=target, method=method, damaged=damaged))
    if not runs:
        _require_known(opened, target, method)
    if as_json:
        print_json([{**run.manifest, "path": str(run.path)} for run in runs])
    elif runs:
        print_table(*runs.listing())
    else:
        echo(
            f"No runs in {opened.root}. Begin with: "
            "bench run --method item-knn --target ml100k-drama"
        )
    for failure in opened.failures():
        spec = failure.get("spec", {})
        if target in (None, spec.get("target")) and method in (None, spec.get("method")):
            message = failure.get("message") or failure.get("error", "no message")
            echo(f"failed: {message}\n  traceback: {failure['path']}/log.txt", err=True)
    for found in damaged:
        echo(f"damaged: {found.reason}", err=True)
    for rest in unfinished_runs(opened):
        state = "running" if rest.running else "unfinished"
        since = f", begun {rest.started}" if rest.started else ""
        advice = (
            ""
            if rest.running
            else "; its command goes on with it, `bench runs rm --unfinished` deletes it"
        )
        echo(f"{state}: {rest.run_id} {rest.label or 'without a log'}{since}{advice}", err=True)


def _require_known(store: RunStore, target: str | None, method: str | None) -> None:
    """Refuse a name that neither the harness nor a run of the store knows: it is a slip.

    Raises:
        ConfigError: with the nearest names.
    """
    from bench.data.load import known_names
    from bench.errors import unknown_name
    from bench.methods import registry

    runs = store.list(damaged=[])
    failed = [failure.get("spec", {}) for failure in store.failures()]
    for kind, name, here, known in (
        (
            "domain",
            target,
            {r.target for r in runs} | {s.get("target") for s in failed},
            known_names,
        ),
        (
            "method",
            method,
            {r.method for r in runs} | {s.get("method") for s in failed},
            registry.names,
        ),
    ):
        if name is not None and name not in (names := {*filter(None, here), *known()}):
            raise unknown_name(kind, name, names)


@app.command("show")
def show(
    run: RunName,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print manifest and metrics.")] = False,
) -> None:
    """Show identity, configuration, metrics and costs of one run."""
    from bench.runs.store import open_store

    found = open_store(store).get(run)
    if as_json:
        print_json({"manifest": found.manifest, "metrics": found.metrics, "path": str(found.path)})
        return
    seconds = found.manifest["seconds"]
    facts = [
        ("run", found.run_id),
        ("method", f"{found.shown_name} {found.manifest['method']['version']} ({found.family})"),
        ("target", found.target),
        ("sources", ", ".join(found.sources) or "none"),
        ("profile, seed", f"{found.profile}, {found.seed}"),
        ("users", f"{found.n_users} (set {found.users_hash[:12]})"),
        ("task", found.task_hash),
        ("candidates", found.candidates_hash),
        ("leak guard", found.manifest["task"]["guard"]),
        *(
            (f"imported: {name.replace('_', ' ')}", value)
            for name, value in (found.imported or {}).items()
            if value is not None
        ),
        *(
            (f"time: {name.replace('_', ' ')}", human_seconds(value))
            for name, value in seconds.items()
            if isinstance(value, int | float)
        ),
        ("folder", found.path),
    ]
    print_table(("", ""), facts)
    if found.manifest.get("adapters"):
        echo("\nAdapters")
        print_table(
            ("adapter", "kind", "what", "made in", "by this run"),
            [
                (
                    use["adapter_id"],
                    use["kind"],
                    use["label"],
                    human_seconds(use["seconds"]),
                    "yes" if use["trained_now"] else "no",
                )
                for use in found.manifest["adapters"]
            ],
        )
    echo("\nConfiguration")
    print_table(("key", "value"), sorted(found.config.items()))
    echo("\nMetrics, with 95 % bootstrap intervals over users")
    print_table(
        ("metric", "mean", "from", "to"),
        [
            (name, f"{v['mean']:.4f}", f"{v['ci95'][0]:.4f}", f"{v['ci95'][1]:.4f}")
            for name, v in found.figures.items()
        ],
    )


@app.command("rm")
def rm(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="RUN...", help="Run ids or folders.")
    ] = None,
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished",
            help="Delete what interrupted and failed runs left to go on from; what a process works "
            "on is kept.",
        ),
    ] = False,
    store: StoreOption = None,
) -> None:
    """Delete runs, damaged ones too.

    Every name is looked up before the first run is deleted.
    """
    from bench.errors import ConfigError
    from bench.runs.store import open_store

    if not names and not unfinished:
        raise ConfigError("nothing to delete: name runs, or give --unfinished.")
    opened = open_store(store)
    for folder in dict.fromkeys(opened.locate(name) for name in names or ()):
        opened.remove(folder.name)
        echo(f"removed {folder}")
    if unfinished:
        removed = opened.clean()
        for folder in removed:
            echo(f"removed {folder}")
        for folder in opened.unfinished():
            echo(f"kept {folder}: in use", err=True)
        if not removed:
            echo(f"No unfinished runs to delete in {opened.root}.")


@app.command("export")
def export(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run ids or folders.")],
    out: Annotated[Path, typer.Option(help="A .tar.gz file, or a folder.", show_default=False)],
    publish: Annotated[
        bool,
        typer.Option(
            "--publish",
            help="Into a folder: without log and model; refused if the run names a path of this machine.",
        ),
    ] = False,
    store: StoreOption = None,
) -> None:
    """Copy runs for another machine, or to publish them.

    They go into a .tar.gz file or a folder.
    """
    from bench.runs.archive import export_runs
    from bench.runs.results import export_result, published_manifest
    from bench.runs.store import open_store

    opened = open_store(store)

    @steadily
    def copied() -> list[str]:
        runs = list({run.run_id: run for run in map(opened.get, names)}.values())
        if not publish:
            return [f"{len(runs)} runs: {export_runs(runs, out)}"]
        for run in runs:
            published_manifest(run)  # all of them can be published, or nothing is written
        return [str(export_result(run, out).path) for run in runs]

    for line in copied():
        echo(line)


@app.command("import")
def import_(
    source: Annotated[Path, typer.Argument(help="What `bench runs export` wrote.")],
    replace: Annotated[bool, typer.Option("--replace", help="Replace stored runs.")] = False,
    store: StoreOption = None,
) -> None:
    """Copy exported runs into the store.

    Every file is compared with its manifest first.
    """
    from bench.runs.archive import import_runs
    from bench.runs.store import open_store

    for run in import_runs(source, open_store(store), replace=replace):
        echo(f"{run.run_id}  {run.shown_name} on {run.target}, seed {run.seed}")


@app.command("reproduce")
def reproduce(
    name: RunName,
    data_root: DataRoot = None,
    store: StoreOption = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress.")] = False,
) -> None:
    """Repeat a run from its manifest and compare the figures.

    The repetition goes into a store of its own. Exit code 1 if figures differ.
    """
    import tempfile

    from bench.runs.archive import reproduce_spec
    from bench.runs.progress import make_progress
    from bench.runs.runner import execute
    from bench.runs.store import open_store

    before = open_store(store).get(name)
    spec = reproduce_spec(before, data_root=data_root)
    progress = make_progress("quiet" if quiet else "auto")
    try:
        with tempfile.TemporaryDirectory(prefix="bench-reproduce-") as scratch:
            after = execute(spec, scratch, progress=progress)
            _compare(before, after)
    finally:
        progress.close()


def _named(run: StoredRun) -> str:
    return f"{run.stored_method} version {run.manifest['method']['version']}"


def _compare(before: StoredRun, after: StoredRun) -> None:
    """Print both means of every metric; the per-user outcomes decide."""
    print_table(
        ("metric", "stored", "again", "difference"),
        [
            (
                metric,
                f"{value['mean']:.6f}",
                f"{after.figures[metric]['mean']:.6f}",
                f"{after.figures[metric]['mean'] - value['mean']:+.2e}",
            )
            for metric, value in before.figures.items()
        ],
    )
    differing = [
        (what, old, new)
        for what, old, new in (
            ("task", before.task_hash, after.task_hash),
            ("candidates", before.candidates_hash, after.candidates_hash),
            ("users", before.users_hash, after.users_hash),
            ("method", _named(before), _named(after)),
            ("run id", before.run_id, after.run_id),
        )
        if old != new
    ]
    for what, old, new in differing:
        echo(f"{what} differs: {old} stored, {new} now", err=True)
    same = before.manifest["files"][PER_USER] == after.manifest["files"][PER_USER]
    if not same:
        versions = {
            package: (version, after.manifest["packages"].get(package))
            for package, version in before.manifest["packages"].items()
            if after.manifest["packages"].get(package) != version
        }
        for package, (old, new) in versions.items():
            echo(f"{package}: {old} then, {new} now", err=True)
        echo("The outcomes of users differ.", err=True)
    # A method that was renamed or has a new version has another run id, whatever it gives.
    if not same or {what for what, _, _ in differing} & {"task", "candidates", "users"}:
        raise typer.Exit(1)
    echo(f"Reproduced: the outcomes of all {before.n_users} users are equal.")
