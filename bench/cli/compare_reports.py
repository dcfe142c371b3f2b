"""What ``bench compare --report transfer`` and ``--report robustness`` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

import typer

from bench.cli.compare_text import CORRECTION_NAMES, difference_text, p_text
from bench.cli.output import print_table

if TYPE_CHECKING:
    from bench.report.robustness import RobustnessReport
    from bench.report.transfer import TransferReport

__all__ = ["print_robustness", "print_transfer"]


def print_transfer(report: TransferReport) -> None:
    """Gains of methods with sources over target-only and over the best single source."""
    n = len(report.gains)
    typer.echo(
        f"Gain from sources, {report.metric.upper()}: paired t-test over users and training seeds, "
        f"two-sided; {CORRECTION_NAMES[report.correction]} over {n} comparison{'s' * (n != 1)}, "
        f"alpha {report.alpha:g}"
    )
    print_table(
        (
            *("target", "method", "sources", "against", "gain [95 % CI]", "p", "adjusted p"),
            *("detectable", "transfer"),
        ),
        [
            (
                gain.target,
                gain.method,
                "+".join(gain.sources),
                f"{gain.against}: {gain.baseline}"
                + (f" ({'+'.join(gain.baseline_sources)})" if gain.baseline_sources else "")
                + (f", by {gain.chosen_by}" if gain.chosen_by in ("validation", "test") else ""),
                difference_text(gain.test),
                p_text(gain.test.p),
                p_text(gain.adjusted_p),
                f"{gain.test.minimum_detectable:.4f}",
                gain.verdict,
            )
            for gain in report.gains
        ],
    )
    typer.echo(
        '\nnegative: worse than without the sources. "not separated" does not mean equal; '
        '"equivalent" means that the\ninterval lies within the bound.'
    )
    for note in report.notes:
        typer.echo(note)


def print_robustness(report: RobustnessReport) -> None:
    """Full ranking beside the sampled metric, and the spread over candidate seeds."""
    typer.echo(
        f"{report.target}: {report.n_users:,} users, task {report.task_hash[:12]}; "
        f"the same fits on other candidates"
    )
    metric = report.metric.upper()
    if report.full:
        typer.echo("\nFull ranking (the whole catalogue without known items)")
        names = list(report.full[0].full)
        print_table(
            ("method", *(name.upper() for name in names), f"{metric} among candidates", "S"),
            [
                (
                    row.label,
                    *(f"{row.full[name]:.4f}" for name in names),
                    f"{row.sampled:.4f}",
                    len(row.seeds),
                )
                for row in report.full
            ],
        )
        if report.tau_full is not None:
            typer.echo(
                f"Kendall's tau between the orders by {metric} among candidates and NDCG@10 in full "
                f"ranking: {report.tau_full:.2f} ({len(report.full)} methods)"
            )
    if report.spread:
        typer.echo(f"\n{metric} under other draws of the candidates")
        print_table(
            ("method", *(f"seed {seed}" for seed in report.candidate_seeds), "SD", "span", "S"),
            [
                (
                    row.label,
                    *(f"{row.means[seed]:.4f}" for seed in report.candidate_seeds),
                    f"{row.sd:.4f}",
                    f"{row.span:.4f}",
                    len(row.seeds),
                )
                for row in report.spread
            ],
        )
        if report.tau_seeds is not None:
            typer.echo(f"Smallest Kendall's tau between two draws: {report.tau_seeds:.2f}")
        if report.difference_sd is not None:
            typer.echo(
                "Largest SD over draws of the difference of two methods: "
                f"{report.difference_sd:.4f}"
            )
    for note in report.notes:
        typer.echo(note)
