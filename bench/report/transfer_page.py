"""What the index of the leaderboards says about sources: which methods they helped, and where."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING

from tabulate import tabulate

from bench.report.plain import CORRECTION_NAMES, count_text, p_figure
from bench.report.significance import ALPHA, CORRECTION
from bench.report.table import FLAGS
from bench.report.transfer import (
    OUTCOMES,
    Gain,
    NoTransferError,
    TransferReport,
    baseline_text,
    transfer,
)
from bench.report.writers import escape_markdown

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["transfer_reading", "transfer_reports"]

_HEADERS = (
    *("Target", "Users", "Method", "Against", "Which is", "Gain", "95 % CI", "Adjusted p"),
    *("Detectable", "Transfer"),
)


def transfer_reports(
    runs: Sequence[StoredRun], subsets: Collection[tuple[int, str]]
) -> list[TransferReport]:
    """The gains over all users, then over every size of subset; each report is a family of tests.

    Args:
        runs: committed runs.
        subsets: number of users and target of every table over a subset.
    """
    sizes: dict[int | None, list[str]] = {}
    for run in runs:
        if run.sources and run.n_users == run.manifest["task"]["n_users"]:
            sizes.setdefault(None, []).append(run.target)
    for size, target in sorted(subsets):
        sizes.setdefault(size, []).append(target)
    reports = []
    for users, targets in sizes.items():
        with suppress(NoTransferError):
            reports.append(
                transfer(
                    runs, sorted(set(targets)), users=users, correction=CORRECTION, alpha=ALPHA
                )
            )
    return reports


def transfer_reading(reports: Sequence[TransferReport]) -> str:
    """The section of the index, as Markdown; nothing without a gain."""
    gains = [gain for report in reports for gain in report.gains]
    if not gains:
        return ""
    first, bound = reports[0], gains[0].test.bound
    families = " and ".join(str(len(report.gains)) for report in reports)
    lines = [
        "",
        "## Did the sources help?",
        "",
        "Every method with sources is compared with training on the target alone and with the best single "
        f"source, on {first.metric.upper()} over the same users. {_counts(reports)}",
        "",
        "The test is a two-sided paired t-test over users, with the variance between training seeds if there "
        f"are several. Correction: {CORRECTION_NAMES[first.correction]} over the {families} gains on equally "
        f"many users, level {first.alpha:g}. *Positive* and *negative* mean significantly above or below, "
        f"*equivalent* that the interval lies within {bound:g} of zero. *Not separated* does not mean equal: "
        f"see the column Detectable.{_choice(gains)}",
        "",
        tabulate(
            [
                [
                    escape_markdown(gain.target),
                    f"{gain.test.n:,}",
                    escape_markdown(gain.method),
                    escape_markdown(gain.against),
                    escape_markdown(baseline_text(gain)),
                    f"{gain.test.difference:+.4f}",
                    f"[{gain.test.ci95[0]:+.4f}, {gain.test.ci95[1]:+.4f}]",
                    escape_markdown(p_figure(gain.adjusted_p)),
                    f"{gain.test.minimum_detectable:.4f}",
                    escape_markdown(gain.verdict),
                ]
                for gain in gains
            ],
            _HEADERS,
            tablefmt="pipe",
            colalign=["left", "right", *["left"] * 3, *["right"] * 4, "left"],
            disable_numparse=True,
        ),
    ]
    return "\n".join(lines) + "\n"


def _choice(gains: Sequence[Gain]) -> str:
    """What the table's words on the choice of the best single source mean."""
    found = {gain.chosen_by for gain in gains}
    lines = {
        "validation": "*By validation*: the single source with the best validation figure.",
        "test": "*By test*: for want of validation figures the test figures chose the single source, which "
        "favours it.",
    }
    return "".join(f" {line}" for name, line in lines.items() if name in found)


def _counts(reports: Sequence[TransferReport]) -> str:
    """How many gains over target-only came out how, in sentences; marked rows decide nothing."""
    found = [gain for report in reports for gain in report.gains if gain.against == "target-only"]
    if not found:
        return "No run on the target alone is stored."
    n_short = sum(gain.short for gain in found)
    counts = Counter(gain.outcome for gain in found if not gain.short)
    shown = ", ".join(f"{counts[name]} {name}" for name in OUTCOMES if counts[name])
    told = f"Of {counts.total()} gains over the target alone: {shown}." if counts else ""
    marked = (
        f"{count_text(n_short, 'gain')} over the target alone "
        f"{'is' if n_short == 1 else 'are'} listed but not counted, because one of the two rows has the mark "
        f"{FLAGS['budget']}. Rows of equal budgets may be compared with each other, but they say little about their methods."
    )
    return " ".join([told] * bool(told) + [marked] * bool(n_short))
