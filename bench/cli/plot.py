"""``bench plot``: the figures of the page as PNG, SVG or PDF."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from bench.cli.output import echo
from bench.cli.protocol_options import StoreOption
from bench.cli.run_options import parse_users
from bench.cli.runs import readable
from bench.cli.steady import steadily

__all__ = ["plot"]


class Kind(StrEnum):
    """Figures."""

    COST = "cost"
    INTERVALS = "intervals"


class CostName(StrEnum):
    """Costs, the keys of :data:`bench.report.costs.COSTS`."""

    FIT = "fit"
    CPU = "cpu"
    TOTAL = "total"
    SCORE = "score"
    MEMORY = "memory"


@steadily
def plot(
    target: Annotated[str, typer.Option(help="Target domain.")],
    out: Annotated[Path, typer.Option(help="File to write; .png, .svg or .pdf.")],
    kind: Annotated[
        Kind,
        typer.Option(help="A metric against a cost, or means with their 95 % intervals."),
    ] = Kind.COST,
    metric: Annotated[str, typer.Option(help="Metric.")] = "ndcg@5",
    cost: Annotated[
        CostName,
        typer.Option(
            help="Wall seconds of training, CPU seconds in all, wall seconds including adapters, "
            "milliseconds of scoring per user, or peak memory."
        ),
    ] = CostName.FIT,
    profile: Annotated[
        str | None, typer.Option(help="Only this profile; default: all that have runs.")
    ] = None,
    users: Annotated[
        str, typer.Option(metavar="full|N", help="All test users, or the subset of N users.")
    ] = "full",
    task: Annotated[
        str | None,
        typer.Option(help="First digits of a task hash; default: the standard protocol."),
    ] = None,
    all_configs: Annotated[
        bool,
        typer.Option("--all-configs", help="Also configurations other than the default ones."),
    ] = False,
    store: StoreOption = None,
) -> None:
    """Draw stored runs of one target.

    The rows are those of `bench leaderboard`.
    """
    from bench import table
    from bench.report.plots import cost_figure, figure_format, interval_figure, write_figure

    figure_format(out)
    runs = readable(store)
    board = table(
        runs,
        target,
        primary=metric,
        metrics=[metric],
        profile=profile,
        users=parse_users(users),
        task=task,
        all_configs=all_configs,
        ci=True,
    )
    (drawn,) = board.tables
    if kind is Kind.COST:
        figure = cost_figure(drawn, runs, metric, cost.value)
    else:
        figure = interval_figure(drawn, metric)
    write_figure(figure, out)
    echo(f"wrote {out}", err=True)
