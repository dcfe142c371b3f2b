"""What ``bench compare --report transfer`` and ``--report robustness`` print."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.cli.output import echo, print_table
from bench.report.plain import CORRECTION_NAMES, count_text, difference_text, p_text

if TYPE_CHECKING:
    from bench.report.robustness import RobustnessReport
    from bench.report.transfer import Gain, TransferReport

__all__ = ["against_text", "print_robustness", "print_transfer"]


def against_text(gain: Gain) -> str:
    """What a gain is measured against: the kind of baseline, and the run behind it."""
    from bench.report.transfer import baseline_text

    return f"{gain.against}: {baseline_text(gain)}"


def print_transfer(report: TransferReport) -> None:
    """Gains of methods with sources over target-only and over the best single source."""
    echo(
        f"Gain from sources, {report.metric.upper()}: paired t-test over users and training seeds, "
        f"two-sided; {CORRECTION_NAMES[report.correction]} over "
        f"{count_text(len(report.gains), 'comparison')}, alpha {report.alpha:g}"
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
                against_text(gain),
                difference_text(gain.test),
                p_text(gain.test.p),
                p_text(gain.adjusted_p),
                f"{gain.test.minimum_detectable:.4f}",
                gain.verdict,
            )
            for gain in report.gains
        ],
    )
    echo(
        '\nnegative: worse than without the sources. "not separated" does not mean equal; '
        '"equivalent" means that the\ninterval lies within the bound.'
    )
    for note in report.notes:
        echo(note)


def print_robustness(report: RobustnessReport) -> None:
    """Full ranking beside the sampled metric, and the spread over candidate seeds."""
    from bench.report.companion import companions

    echo(
        f"{report.target}: {report.n_users:,} users, task {report.task_hash[:12]}; "
        f"the same fits on other candidates"
    )
    for companion in companions(report):
        echo(f"\n{companion.title}")
        print_table(companion.headers, companion.rows)
        for note in companion.notes:
            echo(note)
    for note in report.notes:
        echo(note)
