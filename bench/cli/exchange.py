"""``bench export-requests`` and ``bench import-scores``: models that run in another program."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli import run_options
from bench.cli.output import echo, print_json
from bench.cli.protocol_options import (
    MAX_SEED,
    CandidateSeed,
    DataRoot,
    Drawn,
    DrawnNegatives,
    KeepLeak,
    NNegatives,
    StoreOption,
    Target,
    Ties,
    TiesOption,
    TrainOn,
    TrainOnOption,
    load_task,
    task_of,
)
from bench.cli.rivals import RivalsOption
from bench.errors import ConfigError
from bench.names import METHOD_NAME

__all__ = ["export_requests", "import_scores"]

Limit = Annotated[str, typer.Option(metavar="N|all", help="Only N test users (a nested subset).")]


class ExportedSplit(StrEnum):
    """What is held out in exported requests."""

    TEST = "test"
    VALID = "valid"


def export_requests(
    target: Target,
    out: Annotated[Path, typer.Option(help="File: .jsonl or .parquet.", show_default=False)],
    titles: Annotated[bool, typer.Option("--titles", help="Write titles beside the ids.")] = False,
    split: Annotated[
        ExportedSplit,
        typer.Option(help="test; or valid, to choose among models: also without labels."),
    ] = ExportedSplit.TEST,
    with_training: Annotated[
        bool,
        typer.Option(
            "--with-training",
            help="Also write NAME.training.jsonl: all that may be trained on, of target and sources.",
        ),
    ] = False,
    sources: Annotated[
        str | None,
        typer.Option(
            help="Sources of --with-training: all (the rest of the study group), none, or domains; "
            "default: all."
        ),
    ] = None,
    limit_users: Limit = "all",
    candidate_seed: CandidateSeed = 0,
    negatives: Drawn = DrawnNegatives.UNIFORM,
    n_negatives: NNegatives = 29,
    train_on: TrainOnOption = TrainOn.TRAIN,
    keep_leak: KeepLeak = False,
    ties: TiesOption = Ties.FILE,
    data_root: DataRoot = None,
) -> None:
    """Write requests for another program, without labels.

    A request is the history and the candidates of a user, by raw id.

    The history of a test request ends with the user's validation item: so every validation label is
    known, to choose among models. It is trained on only with --train-on train+valid.
    """
    from bench.protocol import export_requests as write
    from bench.protocol import export_training, export_validation
    from bench.protocol.requests_io import training_path

    if sources is not None and not with_training:
        raise ConfigError(f"--sources {sources} without --with-training: requests have no sources.")
    handle = load_task(
        target,
        sources=run_options.parse_sources(sources),
        negatives=negatives,
        n_negatives=n_negatives,
        candidate_seed=candidate_seed,
        train_on=train_on,
        keep_leak=keep_leak,
        ties=ties,
        data_root=data_root,
    )
    task = handle.with_sources() if with_training else handle.task
    users = task.subset(run_options.parse_limit(limit_users))
    if split is ExportedSplit.TEST:
        meta = write(task, task.test(users), out, titles=titles)
    else:
        meta = export_validation(task, users, out, titles=titles)
    echo(
        f"{out}: {meta['n_requests']:,} {split.value} requests of {meta['n_candidates']} candidates, task "
        f"{task.task_hash[:12]}."
    )
    echo(f"  {meta['note']}")
    if with_training:
        rows = training_path(out)
        training = export_training(task, rows, titles=titles)
        counts = ", ".join(f"{n} {d['n_events']:,}" for n, d in training["domains"].items())
        echo(f"{rows}: training events of {counts}.")
        echo(f"  {training['note']}")
    if split is ExportedSplit.TEST:
        echo("Send scores back (user_id, item_id, score) with: bench import-scores")


def import_scores(
    file: Annotated[
        Path, typer.Argument(help="Columns user_id, item_id, score: .csv, .tsv or .parquet.")
    ],
    name: Annotated[str, typer.Option(help="Name of the row in tables, for example my-model.")],
    target: Target,
    requests: Annotated[
        Path | None,
        typer.Option(help="The exported requests, to check that they are of this task."),
    ] = None,
    version: Annotated[str, typer.Option(help="Version of the model that scored.")] = "1",
    seed: Annotated[
        int, typer.Option(min=0, max=MAX_SEED, help="Training seed of the model that scored.")
    ] = 0,
    family: Annotated[
        str, typer.Option(help="Family of the method: single-domain, cross-domain, llm, ...")
    ] = "single-domain",
    trained: Annotated[
        bool,
        typer.Option(
            "--trained/--untrained",
            help="Whether another training seed would change the scores; one seed of a trained model "
            "earns no star.",
        ),
    ] = True,
    fit_seconds: Annotated[
        float | None, typer.Option(min=0, help="Wall seconds of training, for tables with costs.")
    ] = None,
    score_seconds: Annotated[
        float | None, typer.Option(min=0, help="Wall seconds of scoring.")
    ] = None,
    peak_memory_mb: Annotated[float | None, typer.Option(min=0, help="Peak memory in MB.")] = None,
    hardware: Annotated[str | None, typer.Option(help="What it ran on, in words.")] = None,
    replace: Annotated[
        bool,
        typer.Option("--replace", help="Replace what was imported as this name, version and seed."),
    ] = False,
    limit_users: Limit = "all",
    candidate_seed: CandidateSeed = 0,
    negatives: Drawn = DrawnNegatives.UNIFORM,
    n_negatives: NNegatives = 29,
    train_on: TrainOnOption = TrainOn.TRAIN,
    keep_leak: KeepLeak = False,
    ties: TiesOption = Ties.FILE,
    data_root: DataRoot = None,
    store: StoreOption = None,
    rivals: RivalsOption = "published",
    as_json: Annotated[bool, typer.Option("--json", help="Print the run as JSON.")] = False,
) -> None:
    """Evaluate another program's scores and store them.

    The run is marked as imported wherever it stands. What the program was trained on, its seed and its
    costs are as declared here: nothing but the scores can be checked.
    """
    from bench.cli.rivals import against_best, open_rivals, places_text
    from bench.cli.run_report import print_comparisons, print_runs
    from bench.runs.external import store_scores
    from bench.runs.matrix import RunResult
    from bench.runs.results import run_json
    from bench.runs.store import open_store

    if not METHOD_NAME.fullmatch(name):
        raise ConfigError(
            f"--name {name!r}: expected letters, digits and . _ : + -, beginning with a letter or digit."
        )
    limit = run_options.parse_limit(limit_users)
    handle = task_of(
        target,
        negatives=negatives,
        n_negatives=n_negatives,
        candidate_seed=candidate_seed,
        train_on=train_on,
        keep_leak=keep_leak,
        ties=ties,
        data_root=data_root,
    )
    scored = {"method": name, "seed": seed, "limit_users": limit}
    spec = handle.spec.model_copy(update=scored)
    opened = open_store(store)
    run = store_scores(
        spec,
        file,
        opened,
        version=version,
        requests_file=requests,
        replace=replace,
        family=family,
        trained=trained,
        fit_seconds=fit_seconds,
        score_seconds=score_seconds,
        peak_memory_mb=peak_memory_mb,
        hardware=hardware,
        tasks=handle.cache,
    )
    if as_json:
        print_json(run_json(run))
        return
    print_runs(target, [RunResult(spec, "done", run)])
    if tied := run.metrics["ties"]["share_tied"]:
        echo(
            f"warning: for {100 * tied:.1f} % of the users another candidate has the very score of the held-out "
            "item. Such a tie counts as the mean over both orders. If probabilities were rounded or reached 1, "
            "write their logits, all digits."
        )
    places = open_rivals(rivals, opened)
    print_comparisons(against_best([run], places))
    echo(places_text([run], places))
