"""``bench adapters``: list, show, rm, export."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli.output import echo, human_bytes, human_seconds, print_json, print_table

if TYPE_CHECKING:
    from bench.llm.adapters import AdapterStore, StoredAdapter

__all__ = ["app"]

app = typer.Typer(
    help="List, show, export and delete LoRA adapters. They are trained once and shared by methods; "
    "one is named by its id or the first digits of it.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

AdapterName = Annotated[str, typer.Argument(metavar="ADAPTER", help="Id or its first digits.")]


def _store() -> AdapterStore:
    from bench.llm.adapters import AdapterStore

    return AdapterStore()


def _json(adapter: StoredAdapter) -> dict[str, Any]:
    return {**adapter.metadata, "bytes": adapter.n_bytes, "path": str(adapter.folder)}


@app.command("list")
def list_(
    domain: Annotated[
        str | None, typer.Option(help="Only adapters trained on this domain, alone or with others.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """List the stored adapters.

    Damaged and unfinished ones are named on standard error.
    """
    store = _store()
    damaged: list[str] = []
    every = store.list(damaged)
    if domain is not None and all(domain not in adapter.domains for adapter in every):
        _require_known(domain, every)
    adapters = [a for a in every if domain is None or domain in a.domains]
    if as_json:
        print_json([_json(adapter) for adapter in adapters])
    elif adapters:
        print_table(
            ("adapter", "kind", "what", "backbone", "made in", "tokens", "size", "made"),
            [
                (
                    adapter.adapter_id,
                    adapter.kind,
                    adapter.label,
                    adapter.backbone,
                    human_seconds(adapter.seconds),
                    f"{adapter.tokens:,}" if adapter.tokens else "",
                    human_bytes(adapter.n_bytes),
                    str(adapter.metadata.get("created", ""))[:10],
                )
                for adapter in adapters
            ],
        )
    else:
        echo(
            f"No adapters in {store.root}. Train one with: "
            "bench run --method target-only --target ml100k-drama"
        )
    for folder in store.unfinished():
        echo(
            f"unfinished: {folder.name}: its checkpoints serve the run that asks for it next",
            err=True,
        )
    for reason in damaged:
        echo(f"damaged: {reason}", err=True)


def _require_known(domain: str, adapters: list[StoredAdapter]) -> None:
    """Refuse a name that neither the harness nor an adapter knows: it is a slip.

    Raises:
        ConfigError: with the nearest names.
    """
    from bench.data.load import known_names
    from bench.errors import unknown_name

    names = {*known_names(), *(name for adapter in adapters for name in adapter.domains)}
    if domain not in names:
        raise unknown_name("domain", domain, names)


@app.command("show")
def show(
    name: AdapterName,
    as_json: Annotated[bool, typer.Option("--json", help="Print everything known of it.")] = False,
) -> None:
    """Show recipe, data, lineage and cost of one adapter.

    Its files are compared with their checksums.
    """
    from bench.llm.adapter_files import check_files

    adapter = _store().get(name)
    check_files(adapter)
    if as_json:
        print_json(_json(adapter))
        return
    recipe, cost = adapter.metadata["recipe"], adapter.metadata["cost"]
    hidden = {"mixture", "parents", "backbone"}
    print_table(
        ("", ""),
        [
            ("adapter", adapter.adapter_id),
            ("what", f"{adapter.label} ({adapter.kind})"),
            ("backbone", adapter.backbone),
            *(
                (f"{key}: {inner}", value)
                for key, settings in recipe.items()
                if isinstance(settings, dict)
                for inner, value in settings.items()
            ),
            *(
                (key.replace("_", " "), value)
                for key, value in recipe.items()
                if key not in hidden and not isinstance(value, dict) and value != ""
            ),
            ("initialisation", adapter.metadata.get("init_hash") or "not known"),
            ("wall time", human_seconds(cost["seconds"])),
            ("CPU time", human_seconds(cost["cpu_seconds"])),
            ("tokens", f"{cost['tokens']:,}"),
            ("attempts", cost["attempts"]),
            ("made", adapter.metadata.get("created", "")),
            ("folder", adapter.folder),
        ],
    )
    if recipe.get("mixture"):
        echo("\nTrained on")
        print_table(
            ("domain", "examples", "training data"),
            [(p["domain"], f"{p['n_examples']:,}", p["training_hash"]) for p in recipe["mixture"]],
        )
    if adapter.metadata["lineage"]:
        echo("\nMerged from")
        print_table(
            ("adapter", "what", "made in"),
            [
                (use["adapter_id"], use["label"], human_seconds(use["seconds"]))
                for use in adapter.metadata["lineage"]
            ],
        )


@app.command("rm")
def rm(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="ADAPTER...", help="Ids or their first digits.")
    ] = None,
    unfinished: Annotated[
        bool,
        typer.Option(
            "--unfinished",
            help="Delete the checkpoints of interrupted trainings; what a process works on is kept.",
        ),
    ] = False,
) -> None:
    """Delete adapters, damaged ones too.

    Every name is looked up before the first adapter is deleted. Stored runs keep their results; a run that needs the adapter again trains it again.
    """
    from bench.errors import ConfigError

    if not names and not unfinished:
        raise ConfigError("nothing to delete: name adapters, or give --unfinished.")
    store = _store()
    for folder in dict.fromkeys(store.locate(name) for name in names or ()):
        store.remove(folder.name)
        echo(f"removed {folder}")
    if unfinished:
        removed = store.clean()
        for folder in removed:
            echo(f"removed {folder}")
        for folder in store.unfinished():
            echo(f"kept {folder}: in use", err=True)
        if not removed:
            echo(f"No unfinished trainings to delete in {store.root}.")


@app.command("export")
def export(
    name: AdapterName,
    out: Annotated[Path, typer.Option(help="Folder to make.", show_default=False)],
) -> None:
    """Copy an adapter to a PEFT folder with a model card.

    PEFT and vLLM load it on any machine.
    """
    echo(_store().export(name, out))
