"""``bench candidates``: export, import, hash."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated, Literal

import typer

from bench.cli.output import echo, print_json, print_table
from bench.cli.protocol_options import (
    CandidateSeed,
    DataRoot,
    Drawn,
    DrawnNegatives,
    KeepLeak,
    NNegatives,
    Target,
    Ties,
    TiesOption,
    TrainOn,
    TrainOnOption,
    load_task,
)

__all__ = ["app"]

app = typer.Typer(
    help="Export, import and hash candidate sets. A set holds the items that every method ranks for a user.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


class Splits(StrEnum):
    """Which candidate sets are written."""

    BOTH = "both"
    VALID = "valid"
    TEST = "test"


_SPLITS: dict[Splits, tuple[Literal["valid", "test"], ...]] = {
    Splits.BOTH: ("valid", "test"),
    Splits.VALID: ("valid",),
    Splits.TEST: ("test",),
}


@app.command("export")
def export(
    target: Target,
    out: Annotated[Path, typer.Option(help="File: .csv, .tsv or .parquet.", show_default=False)],
    split: Annotated[Splits, typer.Option(help="Which sets.")] = Splits.BOTH,
    candidate_seed: CandidateSeed = 0,
    negatives: Drawn = DrawnNegatives.UNIFORM,
    n_negatives: NNegatives = 29,
    ties: TiesOption = Ties.FILE,
    data_root: DataRoot = None,
) -> None:
    """Write the candidates of all users.

    One row per candidate, by raw id. The file holds no labels.
    """
    from bench.protocol import export_candidates

    task = load_task(
        target,
        negatives=negatives,
        n_negatives=n_negatives,
        candidate_seed=candidate_seed,
        ties=ties,
        data_root=data_root,
    ).task
    export_candidates(task, out, splits=_SPLITS[split])
    echo(f"{out}: {task.n_users:,} users, candidates {task.candidates_hash}")


@app.command("import")
def import_(
    file: Annotated[Path, typer.Argument(help="Columns user_id, item_id and optionally split.")],
    target: Target,
    train_on: TrainOnOption = TrainOn.TRAIN,
    keep_leak: KeepLeak = False,
    ties: TiesOption = Ties.FILE,
    data_root: DataRoot = None,
) -> None:
    """Check a file of candidates against a domain.

    `bench run --candidates FILE` ranks its sets.
    """
    task = load_task(
        target,
        candidates=file,
        train_on=train_on,
        keep_leak=keep_leak,
        ties=ties,
        data_root=data_root,
    ).task
    n_candidates = task.test(task.subset(None)).n_candidates
    print_table(
        ("", str(file)),
        [
            ("users", f"{task.n_users:,}"),
            ("candidates per user", n_candidates),
            ("content", task.options.candidates_file),
            ("candidates", task.candidates_hash),
            ("task", task.task_hash),
        ],
    )
    echo(f"\nThe file fits. Use it with: bench run --target {target} --candidates {file} ...")


@app.command("hash")
def hash_(
    target: Target,
    candidate_seed: CandidateSeed = 0,
    negatives: Drawn = DrawnNegatives.UNIFORM,
    n_negatives: NNegatives = 29,
    train_on: TrainOnOption = TrainOn.TRAIN,
    keep_leak: KeepLeak = False,
    ties: TiesOption = Ties.FILE,
    data_root: DataRoot = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Print the hashes of a task and of its candidates.

    Equal hashes on two machines, or in two versions, mean equal tasks.
    """
    task = load_task(
        target,
        negatives=negatives,
        n_negatives=n_negatives,
        candidate_seed=candidate_seed,
        train_on=train_on,
        keep_leak=keep_leak,
        ties=ties,
        data_root=data_root,
    ).task
    facts = {
        "target": task.target,
        "task_hash": task.task_hash,
        "candidates_hash": task.candidates_hash,
        "guard": task.guard,
        "n_users": task.n_users,
        "n_items": task.n_items,
    }
    if as_json:
        print_json(facts)
    else:
        print_table(("", ""), facts.items())
