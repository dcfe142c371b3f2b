"""``bench run``: methods x targets x seeds, stored, printed and tested against the best rival."""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bench.cli import run_options, run_plan, run_report
from bench.cli.complete import domain_names, method_names
from bench.cli.output import echo, print_json
from bench.cli.protocol_options import (
    DataRoot,
    KeepLeak,
    NNegatives,
    OnError,
    OnErrorOption,
    StoreOption,
    Ties,
    TiesOption,
    TrainOn,
    TrainOnOption,
)
from bench.cli.rivals import (
    RivalsOption,
    against_best,
    lacking_references,
    open_rivals,
    places_text,
)
from bench.cli.run_baseline import missing_baselines
from bench.cli.run_transfer import print_transfer_of
from bench.errors import ConfigError, MissingDataError

if TYPE_CHECKING:
    from bench.runs.matrix import RunResult
    from bench.runs.rivals import Rivals
    from bench.runs.spec import RunSpec
    from bench.runs.store import RunStore
    from bench.runs.stored import StoredRun
    from bench.runs.tasks import TaskCache

__all__ = ["run"]


class Negatives(StrEnum):
    """How the negatives of a candidate set are drawn."""

    UNIFORM = "uniform"
    POPULARITY = "popularity"
    FULL = "full"


class Dtype(StrEnum):
    """Number format of a model."""

    AUTO = "auto"
    FLOAT32 = "float32"
    BFLOAT16 = "bfloat16"


def run(
    context: typer.Context,
    method: Annotated[
        str,
        typer.Option(
            help="Methods: names, recbole:MODEL or file.py:Class, separated by commas.",
            autocompletion=method_names,
        ),
    ],
    target: Annotated[
        str, typer.Option(help="Target domains, separated by commas.", autocompletion=domain_names)
    ],
    sources: Annotated[
        str | None,
        typer.Option(help="all (the rest of the study group), none, or domains; default: all."),
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Named set of hyper-parameters: cpu, paper, ...")
    ] = "cpu",
    seed: Annotated[str, typer.Option(help="Training seeds, separated by commas.")] = "0",
    candidate_seed: Annotated[
        str,
        typer.Option(
            help="Seed of the test candidates; further ones, separated by commas, are scored by "
            "the same fit and stored as request sets of their own."
        ),
    ] = "0",
    set_: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="[METHOD:]KEY=VALUE",
            help="Change one configuration key, of one method if it is named; repeatable.",
        ),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="YAML file of configuration keys; --set wins over it."),
    ] = None,
    limit_users: Annotated[
        str,
        typer.Option(
            metavar="auto|N|all",
            help="Score only N test users (a nested subset); auto: what the method's profile sets, "
            "1,000 for language models on a CPU, else all.",
        ),
    ] = "auto",
    device: Annotated[str, typer.Option(help="torch device: cpu, cuda, cuda:1, ...")] = "cpu",
    dtype: Annotated[
        Dtype, typer.Option(help="Number format of a model; auto: what the method's profile sets.")
    ] = Dtype.AUTO,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, help="CPU threads; default: as many as help the method (docs/speed.md)."
        ),
    ] = None,
    data_root: DataRoot = None,
    store: StoreOption = None,
    rivals: RivalsOption = "published",
    train_on: TrainOnOption = TrainOn.TRAIN,
    negatives: Annotated[
        Negatives, typer.Option(help="How negatives are drawn; full ranks every item.")
    ] = Negatives.UNIFORM,
    n_negatives: NNegatives = 29,
    candidates: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Rank the candidate sets of this file instead."),
    ] = None,
    also_full: Annotated[
        bool, typer.Option("--also-full", help="Rank the whole catalogue too, with the same fit.")
    ] = False,
    ties: TiesOption = Ties.FILE,
    on_error: OnErrorOption = OnError.RAISE,
    keep_leak: KeepLeak = False,
    keep_model: Annotated[
        bool, typer.Option("--keep-model", help="Store the fitted model with the run.")
    ] = False,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print the jobs and what is stored already; run nothing.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Repeat runs that are stored already.")
    ] = False,
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="MINUTES",
            help="How long to wait for another process that works on the same run or adapter.",
        ),
    ] = 60,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object per run and nothing else.")
    ] = False,
    quiet: Annotated[bool, typer.Option("--quiet", help="No progress, only the result.")] = False,
) -> None:
    """Run methods on targets; store and compare the runs.

    Metrics and a test of every run against its best rival are printed. Finished runs are not repeated.
    Ctrl-C keeps what is finished (exit code 130).

    Example: bench run --method sasrec,item-knn --target ml100k-drama --seed 0,1,2
    """
    from bench.assets import is_present
    from bench.methods.config import load_config_file, merge, parse_set
    from bench.protocol.types import ProtocolOptions
    from bench.runs.matrix import expand
    from bench.runs.planning import plan_runs
    from bench.runs.resolve import require_available
    from bench.runs.store import open_store
    from bench.runs.tasks import TaskCache
    from bench.waiting import patience

    if candidates is not None and negatives is not Negatives.UNIFORM:
        raise ConfigError(
            f"--candidates {candidates} and --negatives {negatives.value}: a file replaces the draw; "
            "give one of the two."
        )
    context.with_resource(patience(60 * wait))
    seeds = run_options.parse_integers("--candidate-seed", candidate_seed)
    methods = run_options.parse_names("--method", method)
    overrides, own_overrides = run_options.split_overrides(
        merge(load_config_file(config) if config else {}, parse_set(set_ or ())), methods
    )
    common: dict[str, Any] = {
        "sources": run_options.parse_sources(sources),
        "protocol": ProtocolOptions(
            negatives="imported" if candidates is not None else negatives.value,
            n_negatives=n_negatives,
            candidate_seed=seeds[0],
            train_on=train_on.value,
            keep_leak=keep_leak,
        ),
        "candidates": candidates,
        "limit_users": run_options.parse_run_limit(limit_users),
        "extra_candidate_seeds": seeds[1:],
        "full_ranking": also_full,
        "device": device,
        "dtype": dtype.value,
        "threads": threads,
        "ties": ties.value,
        "on_error": on_error.value,
        "data_root": data_root,
    }
    specs = expand(
        methods,
        run_options.parse_names("--target", target),
        run_options.parse_integers("--seed", seed),
        profile=profile,
        overrides=overrides,
        own_overrides=own_overrides,
        keep_model=keep_model,
        planning=plan,
        **common,
    )
    try:
        require_available(specs)
    except MissingDataError as error:
        pull = "" if is_present("ml-100k") else "bench assets pull ml-100k && "
        raise MissingDataError(
            f"{error} What works at once: {pull}bench run --method {method} --target ml100k-drama"
        ) from error
    if not quiet:
        _note_unused_sources(specs, common["sources"])
    opened = open_store(store)
    places = open_rivals(rivals, opened)
    tasks = TaskCache()
    baselines: list[RunSpec] = []
    if not as_json:
        baselines = missing_baselines(specs, places, tasks)
        if baselines and not quiet:
            echo(
                "target-only is run as well, to tell the gain from the sources: no such run is stored. It "
                "uses the adapter that weaverec trains for itself.",
                err=True,
            )
        specs = [*specs, *baselines]
    if plan:
        plans = plan_runs(specs, opened, tasks=tasks, force=force, history=places.all_runs())
        run_plan.print_plan(plans, as_json=as_json)
        return
    if not quiet and not as_json:
        run_plan.announce(
            specs, opened, tasks, auto_users=common["limit_users"] == "auto", force=force
        )
    results = _run_all(specs, opened, tasks, force=force, as_json=as_json, quiet=quiet)
    if not as_json:
        results += _beside(results, baselines, places, tasks, common, quiet=quiet)
        _report(results, places)
    run_report.print_failures(results)
    if any(result.run is None for result in results):
        raise typer.Exit(1)


def _note_unused_sources(specs: Sequence[RunSpec], given: Sequence[str] | None) -> None:
    """Say on standard error which methods have no use for the sources that were named."""
    unused = dict.fromkeys(spec.method for spec in specs if given and not spec.sources)
    if given and unused:
        echo(
            f"note: {', '.join(unused)} learn{'s' if len(unused) == 1 else ''} from the target alone; "
            f"--sources {','.join(given)} is not used for {'it' if len(unused) == 1 else 'them'}.",
            err=True,
        )


def _run_all(
    specs: Sequence[RunSpec],
    store: RunStore,
    tasks: TaskCache,
    *,
    force: bool,
    as_json: bool,
    quiet: bool,
) -> list[RunResult]:
    """Run the matrix with progress on standard error; with ``--json`` print every run at once."""
    from bench.runs.matrix import run_matrix
    from bench.runs.progress import make_progress
    from bench.runs.results import run_json

    def on_result(result: RunResult) -> None:
        if as_json:
            print_json(
                run_report.failed_json(result) if result.run is None else run_json(result.run)
            )

    progress = make_progress("quiet" if quiet or as_json else "auto")
    try:
        return run_matrix(
            specs, store, force=force, progress=progress, on_result=on_result, tasks=tasks
        )
    finally:
        progress.close()


def _beside(
    results: Sequence[RunResult],
    baselines: Sequence[RunSpec],
    rivals: Rivals,
    tasks: TaskCache,
    common: dict[str, Any],
    *,
    quiet: bool,
) -> list[RunResult]:
    """Run the reference methods if a run has no rival but chance, stored or published.

    They are scored on the very users of the lonely run, or they could not be compared with it.
    ``baselines`` that nobody asked for are no company.
    """
    from bench.runs.matrix import expand

    done = [(result.spec, result.run) for result in results if result.run is not None]
    added = {run.run_id for spec, run in done if spec in baselines}
    asked = {run.run_id: (spec.limit_users, run) for spec, run in done if run.run_id not in added}
    wanted = {
        (run.target, limit): names
        for limit, run in asked.values()
        if (names := lacking_references(run, rivals, asked=asked, without=added))
    }
    if not wanted:
        return []
    if not quiet:
        named = dict.fromkeys(name for found in wanted.values() for name in found)
        echo(f"No stored rival: running {' and '.join(named)} beside it.", err=True)
    specs = [
        spec
        for (target, limit), chosen in wanted.items()
        for spec in expand(chosen, (target,), **{**common, "limit_users": limit})
    ]
    return _run_all(specs, rivals.store, tasks, force=False, as_json=False, quiet=quiet)


def _report(results: Sequence[RunResult], rivals: Rivals) -> None:
    for target in dict.fromkeys(result.spec.target for result in results):
        chosen = [result for result in results if result.spec.target == target]
        runs: list[StoredRun] = [result.run for result in chosen if result.run is not None]
        run_report.print_runs(target, chosen)
        run_report.print_comparisons(against_best(runs, rivals))
        if runs:
            echo(places_text(runs, rivals))
        print_transfer_of(runs, rivals)
