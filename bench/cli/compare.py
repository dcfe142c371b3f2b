"""``bench compare``: stored runs side by side, and what the choice of sources and candidates did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import bench
from bench.cli.output import echo, print_json, split_names, terminal_width
from bench.cli.protocol_options import StoreOption
from bench.cli.run_options import parse_users
from bench.cli.runs import readable
from bench.cli.steady import steadily

__all__ = ["compare"]


class Correction(StrEnum):
    """Corrections for the number of comparisons."""

    HOLM = "holm"
    BH = "bh"
    NONE = "none"


class Report(StrEnum):
    """What to print."""

    PAIRS = "pairs"
    TRANSFER = "transfer"
    ROBUSTNESS = "robustness"


@steadily
def compare(
    runs: Annotated[
        list[str] | None,
        typer.Argument(metavar="[RUN...]", help="Run ids; seeds of one method are joined."),
    ] = None,
    target: Annotated[str | None, typer.Option(help="Target domain, instead of run ids.")] = None,
    methods: Annotated[
        str | None, typer.Option(metavar="A,B", help="Methods on the target; default: all.")
    ] = None,
    report: Annotated[
        Report,
        typer.Option(
            help="pairs; transfer: gain from sources; robustness: full ranking, other candidates."
        ),
    ] = Report.PAIRS,
    metric: Annotated[str, typer.Option(help="Metric to compare.")] = "ndcg@5",
    reference: Annotated[
        str | None, typer.Option(help="Compare all with this method only; default: all pairs.")
    ] = None,
    correction: Annotated[
        Correction, typer.Option(help="Correction over the comparisons printed.")
    ] = Correction.HOLM,
    alpha: Annotated[float, typer.Option(help="Level of the tests.")] = 0.05,
    # bench.evaluation.EQUIVALENCE_BOUND, which help would have to load NumPy and SciPy for.
    bound: Annotated[
        float, typer.Option(help="Differences within +- this are equivalent.")
    ] = 0.005,
    also: Annotated[
        str | None,
        typer.Option(metavar="T,T2", help="Further tests: flips, bootstrap, mcnemar, wilcoxon."),
    ] = None,
    profile: Annotated[str | None, typer.Option(help="Only this profile.")] = None,
    users: Annotated[
        str, typer.Option(metavar="full|N", help="All test users, or the subset of N users.")
    ] = "full",
    task: Annotated[str | None, typer.Option(help="First digits of a task hash.")] = None,
    all_configs: Annotated[
        bool, typer.Option("--all-configs", help="Also configurations other than the default.")
    ] = False,
    store: StoreOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare runs over the same users.

    Every difference has its size, its test, and the smallest difference that the test would find.

    Give run ids, or --target with --methods. Runs of different tasks are refused. --report transfer
    says what methods gain from their sources (several targets: --target D,D2). --report robustness
    says how far a table depends on its candidates.
    """
    from bench.errors import ConfigError
    from bench.report.comparison import pairwise_record
    from bench.report.pairwise_text import pairwise_text
    from bench.runs.store import open_store

    if report is not Report.PAIRS:
        refused = {"RUN": runs, "--methods": methods, "--reference": reference, "--also": also}
        for name, value in refused.items():
            if value:
                raise ConfigError(
                    f"{name} with --report {report.value}; expected --target only, all its methods "
                    "are in the report."
                )
        table = _TableOptions(metric, profile, parse_users(users), task, all_configs)
        if report is Report.TRANSFER:
            _transfer(store, target, table, correction, alpha, bound, as_json)
        else:
            _robustness(store, target, table, as_json)
        return
    if bool(runs) == (target is not None):
        raise ConfigError(
            "expected run ids or --target, one of the two: `bench compare RUN RUN` or "
            "`bench compare --target D --methods A,B`."
        )
    opened = open_store(store)
    chosen = [opened.get(name) for name in runs] if runs else readable(store)
    found = bench.compare(
        chosen,
        target=target,
        methods=split_names(methods or ""),
        metric=metric,
        reference=reference,
        correction=correction.value,
        alpha=alpha,
        bound=bound,
        also=split_names(also or ""),
        profile=profile,
        users=parse_users(users),
        task=task,
        all_configs=all_configs,
    )
    if as_json:
        print_json(pairwise_record(found))
    else:
        echo(pairwise_text(found, terminal_width()))


@dataclass(frozen=True, slots=True)
class _TableOptions:
    """Which rows a report is about."""

    metric: str
    profile: str | None
    users: int | None
    task: str | None
    all_configs: bool


def _transfer(
    store: Path | None,
    target: str | None,
    table: _TableOptions,
    correction: Correction,
    alpha: float,
    bound: float,
    as_json: bool,
) -> None:
    from bench.cli.compare_reports import print_transfer
    from bench.report.transfer import transfer, transfer_record

    found = transfer(
        readable(store),
        split_names(target or ""),
        **asdict(table),
        correction=correction.value,
        alpha=alpha,
        bound=bound,
    )
    if as_json:
        print_json(transfer_record(found))
    else:
        print_transfer(found)


def _robustness(
    store: Path | None, target: str | None, table: _TableOptions, as_json: bool
) -> None:
    from bench.cli.compare_reports import print_robustness
    from bench.errors import ConfigError
    from bench.report.robustness import robustness, robustness_record

    if target is None:
        raise ConfigError("--report robustness without --target; expected one target domain.")
    found = robustness(readable(store), target, **asdict(table))
    if as_json:
        print_json(robustness_record(found))
    else:
        print_robustness(found)
