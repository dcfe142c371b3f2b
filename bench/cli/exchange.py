"""``bench export-requests`` and ``bench import-scores``: models that run in another program."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bench.cli import run_options
from bench.cli.output import echo, print_json
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
    task_spec,
)
from bench.cli.rivals import RivalsOption
from bench.cli.runs import open_store

__all__ = ["export_requests", "import_scores"]

Limit = Annotated[str, typer.Option(metavar="N|all", help="Only N test users (a nested subset).")]


def export_requests(
    target: Target,
    out: Annotated[Path, typer.Option(help="File: .jsonl or .parquet.", show_default=False)],
    titles: Annotated[bool, typer.Option("--titles", help="Write titles beside the ids.")] = False,
    limit_users: Limit = "all",
    candidate_seed: CandidateSeed = 0,
    negatives: Drawn = DrawnNegatives.UNIFORM,
    n_negatives: NNegatives = 29,
    train_on: TrainOnOption = TrainOn.TRAIN,
    keep_leak: KeepLeak = False,
    ties: TiesOption = Ties.FILE,
    data_root: DataRoot = None,
) -> None:
    """Write the test requests (history and candidates by raw id, no label) for another program."""
    from bench.protocol import export_requests as write

    spec = task_spec(
        "random",
        target,
        negatives=negatives,
        n_negatives=n_negatives,
        candidate_seed=candidate_seed,
        train_on=train_on,
        keep_leak=keep_leak,
        ties=ties,
        data_root=data_root,
    )
    task = load_task(spec)
    users = task.subset(run_options.parse_limit(limit_users))
    meta = write(task, task.test(users), out, titles=titles)
    echo(
        f"{out}: {meta['n_requests']:,} requests of {meta['n_candidates']} candidates, task "
        f"{task.task_hash[:12]}. Send scores back (user_id, item_id, score) with: "
        "bench import-scores"
    )


def import_scores(
    file: Annotated[
        Path, typer.Argument(help="Columns user_id, item_id, score: .csv, .tsv or .parquet.")
    ],
    name: Annotated[str, typer.Option(help="Name of the row in tables, for example my-model.")],
    target: Target,
    requests: Annotated[
        Path | None,
        typer.Option(help="The exported requests; then it is checked that they are of this task."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model that scored.")] = "1",
    limit_users: Limit = "all",
    candidate_seed: CandidateSeed = 0,
    negatives: Drawn = DrawnNegatives.UNIFORM,
    n_negatives: NNegatives = 29,
    train_on: TrainOnOption = TrainOn.TRAIN,
    keep_leak: KeepLeak = False,
    ties: TiesOption = Ties.FILE,
    data_root: DataRoot = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder of stored runs; default: BENCH_STORE, ./bench-runs.")
    ] = None,
    rivals: RivalsOption = "published",
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> None:
    """Evaluate the scores of another program and store them as a run among the others."""
    from bench.cli.rivals import against_best, open_rivals, places_text
    from bench.cli.run_report import print_comparisons, print_runs
    from bench.runs.external import store_scores
    from bench.runs.matrix import RunResult
    from bench.runs.results import run_json

    spec = task_spec(
        name,
        target,
        negatives=negatives,
        n_negatives=n_negatives,
        candidate_seed=candidate_seed,
        train_on=train_on,
        keep_leak=keep_leak,
        ties=ties,
        data_root=data_root,
        limit_users=run_options.parse_limit(limit_users),
    )
    opened = open_store(store)
    run = store_scores(spec, file, opened, version=version, requests_file=requests)
    if as_json:
        print_json(run_json(run))
        return
    print_runs(target, [RunResult(spec, "done", run)])
    places = open_rivals(rivals, opened)
    print_comparisons(against_best([run], places))
    echo(places_text([run], places))
