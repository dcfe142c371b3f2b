"""``bench compare``: stored runs side by side, and what the choice of sources and candidates did."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from bench.cli.compare_text import difference_text, number_text, p_text
from bench.cli.output import echo, print_json, print_table, split_names
from bench.cli.run_options import parse_users
from bench.cli.runs import open_store
from bench.cli.steady import steadily
from bench.report.plain import CORRECTION_NAMES, count_text

if TYPE_CHECKING:
    from bench.report.comparison import Pairwise
    from bench.runs.stored import StoredRun

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
    store: Annotated[
        Path | None, typer.Option(help="Folder of stored runs; default: BENCH_STORE, ./bench-runs.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Compare runs over the same users: size of the difference, tests, and what was detectable.

    Give run ids, or --target with --methods. Runs of different tasks are refused. --report transfer
    says what methods gain from their sources (several targets: --target D,D2), --report robustness how
    far a table depends on its candidates.
    """
    from bench.errors import ConfigError
    from bench.report.comparison import compare_all, pairwise_record
    from bench.report.contenders import contenders_of_runs, contenders_of_target

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
    if runs:
        opened = open_store(store)
        contenders, notes = contenders_of_runs([opened.get(name) for name in runs], metric)
    else:
        contenders, notes = contenders_of_target(
            _readable(store),
            str(target),
            split_names(methods or ""),
            metric=metric,
            profile=profile,
            users=parse_users(users),
            task=task,
            all_configs=all_configs,
        )
    found = compare_all(
        contenders,
        metric,
        reference=reference,
        correction=correction.value,
        alpha=alpha,
        bound=bound,
        secondary=split_names(also or ""),
    )
    if as_json:
        print_json({**pairwise_record(found), "notes": notes})
    else:
        _print(found, notes)


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
        _readable(store),
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
    found = robustness(_readable(store), target, **asdict(table))
    if as_json:
        print_json(robustness_record(found))
    else:
        print_robustness(found)


def _readable(store: Path | None) -> list[StoredRun]:
    """All runs of the store; damaged ones are named on standard error."""
    from bench.runs.store import Damage

    damaged: list[Damage] = []
    found = open_store(store).list(damaged=damaged)
    for one in damaged:
        echo(f"left out: {one.reason}", err=True)
    return found


def _print(found: Pairwise, notes: list[str]) -> None:
    echo(
        f"{found.target}: {found.metric.upper()} of {found.n_users:,} users, "
        f"task {found.task_hash[:12]}\n"
    )
    print_table(
        ("method", "seeds", "mean", "rank", "runs"),
        [
            (
                c.label,
                ",".join(str(run.seed) for run in c.runs) if c.trainable else "-",
                f"{c.mean:.4f}",
                str(found.ranks.get(c.label, "")),
                " ".join(run.run_id[:8] for run in c.runs),
            )
            for c in found.contenders
        ],
    )
    checkpoint = any(pair.test.this_checkpoint for pair in found.pairs)
    echo(
        f"\nPaired t-test over users and training seeds, two-sided; "
        f"{CORRECTION_NAMES[found.correction]} over {count_text(len(found.pairs), 'comparison')}, "
        f"alpha {found.alpha:g}"
    )
    extra = tuple(found.pairs[0].secondary)
    seeded = any(max(pair.test.seeds) > 1 for pair in found.pairs)
    print_table(
        (
            *("methods", "difference [95 % CI]", "relative", "p", "adjusted p"),
            *(("p (users)",) if seeded else ()),
            *(f"p ({name})" for name in extra),
            *("d_z", "better / same / worse", "detectable", "result"),
        ),
        [
            (
                f"{pair.a} - {pair.b}",
                difference_text(pair.test),
                "-" if pair.test.relative is None else f"{100 * pair.test.relative:+.1f} %",
                p_text(pair.test.p) + ("*" if pair.test.this_checkpoint else ""),
                p_text(pair.adjusted_p),
                *((p_text(pair.test.p_users),) if seeded else ()),
                *(p_text(pair.secondary[name]) for name in extra),
                number_text(pair.test.d_z, "+.3f"),
                f"{pair.test.wins} / {pair.test.ties} / {pair.test.losses}",
                number_text(pair.test.minimum_detectable, ".4f"),
                pair.verdict,
            )
            for pair in found.pairs
        ],
    )
    echo(
        "\nIntervals and p are those of single comparisons; adjusted p belongs to all of them. "
        "detectable: smallest true\ndifference that this test finds with a chance of 80 %. "
        '"not separated" does not mean equal; "equivalent" means that\nthe interval lies within '
        "the bound."
    )
    if checkpoint:
        echo(
            "* A trained method has one seed: the test is about this checkpoint, not the method. "
            "Add seeds with --seed 0,1,2."
        )
    if seeded:
        echo("p (users): of these checkpoints alone, without the variance between seeds.")
    if found.ranks:
        echo("rank: best and worst place, given the differences that are significant.")
    for note in notes:
        echo(note)
