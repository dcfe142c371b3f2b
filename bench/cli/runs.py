"""``bench runs``: list, show, rm, export, import, reproduce."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.output import human_seconds, print_json, print_table

if TYPE_CHECKING:
    from bench.runs.store import RunStore, StoredRun

__all__ = ["app", "open_store"]

app = typer.Typer(
    help="Stored runs. A run is named by its id, the first digits of it, or its folder.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

Store = Annotated[
    Path | None, typer.Option(help="Folder of stored runs; default: BENCH_STORE, ./bench-runs.")
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="Run id or its first digits.")]


def open_store(store: Path | None) -> RunStore:
    """The store that an option or the environment names."""
    from bench.io import store_root
    from bench.runs.store import RunStore

    return RunStore(store if store is not None else store_root())


def _mean(run: StoredRun, metric: str) -> str:
    return f"{run.metrics['metrics'][metric]['mean']:.4f}"


@app.command("list")
def list_(
    target: Annotated[str | None, typer.Option(help="Only this target.")] = None,
    method: Annotated[str | None, typer.Option(help="Only this method.")] = None,
    store: Store = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the stored runs; damaged and failed ones are named on standard error."""
    from bench.runs.store import Damage

    opened = open_store(store)
    damaged: list[Damage] = []
    runs = opened.list(target=target, method=method, damaged=damaged)
    if as_json:
        print_json([{**run.manifest, "path": str(run.path)} for run in runs])
    elif runs:
        print_table(
            ("run", "target", "method", "profile", "seed", "users", "ndcg@1", "ndcg@5", "task"),
            [
                (
                    run.run_id,
                    run.target,
                    run.method,
                    run.profile,
                    run.seed,
                    run.n_users,
                    _mean(run, "ndcg@1"),
                    _mean(run, "ndcg@5"),
                    run.task_hash[:8],
                )
                for run in runs
            ],
        )
    else:
        typer.echo(
            f"No runs in {opened.root}. Begin with: "
            "bench run --method item-knn --target ml100k-drama"
        )
    for failure in opened.failures():
        typer.echo(f"failed: {failure['path']}: {failure.get('error', 'no message')}", err=True)
    for found in damaged:
        typer.echo(f"damaged: {found.reason}", err=True)


@app.command("show")
def show(
    run: RunName,
    store: Store = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print manifest and metrics.")] = False,
) -> None:
    """Show identity, configuration, metrics and costs of one run."""
    found = open_store(store).get(run)
    if as_json:
        print_json({"manifest": found.manifest, "metrics": found.metrics, "path": str(found.path)})
        return
    seconds = found.manifest["seconds"]
    facts = [
        ("run", found.run_id),
        ("method", f"{found.method} {found.manifest['method']['version']} ({found.family})"),
        ("target", found.target),
        ("sources", ", ".join(found.sources) or "none"),
        ("profile, seed", f"{found.profile}, {found.seed}"),
        ("users", f"{found.n_users} (set {found.users_hash[:12]})"),
        ("task", found.task_hash),
        ("candidates", found.candidates_hash),
        ("leak guard", found.manifest["task"]["guard"]),
        *(
            (f"time: {name.replace('_', ' ')}", human_seconds(value))
            for name, value in seconds.items()
            if isinstance(value, int | float)
        ),
        ("folder", found.path),
    ]
    print_table(("", ""), facts)
    typer.echo("\nConfiguration")
    print_table(("key", "value"), sorted(found.config.items()))
    typer.echo("\nMetrics, with 95 % bootstrap intervals over users")
    print_table(
        ("metric", "mean", "from", "to"),
        [
            (name, f"{v['mean']:.4f}", f"{v['ci95'][0]:.4f}", f"{v['ci95'][1]:.4f}")
            for name, v in found.metrics["metrics"].items()
        ],
    )


@app.command("rm")
def rm(
    names: Annotated[list[str], typer.Argument(metavar="RUN...", help="Run ids or folders.")],
    store: Store = None,
) -> None:
    """Delete runs, damaged ones too; every name is looked up before the first is deleted."""
    opened = open_store(store)
    for folder in dict.fromkeys(opened.locate(name) for name in names):
        opened.remove(folder.name)
        typer.echo(f"removed {folder}")
