"""The companion tables of a leaderboard: full ranking, and other draws of the candidates, as text cells."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tabulate import tabulate

from bench.errors import ConfigError
from bench.report.columns import EN_RULE
from bench.report.robustness import RobustnessReport, examine
from bench.report.rows import RANDOM
from bench.report.table import Table
from bench.report.writers import escape_markdown

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["Companion", "companion_page", "companion_reading", "companions", "report_of_table"]


@dataclass(frozen=True, slots=True)
class Companion:
    """A small table with text to the left in its first column, figures in the others.

    Attributes:
        title: heading.
        headers: of the columns.
        rows: cells as displayed, not escaped for any format.
        notes: sentences below.
    """

    title: str
    headers: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...]


def report_of_table(table: Table, runs: Sequence[StoredRun]) -> RobustnessReport | None:
    """The report on the rows of a table's main block.

    Args:
        table: the table.
        runs: the runs behind it, and any others.

    Returns:
        The report; None if no row was scored on other candidates, or if the table is about the
        users of a run that does not stand in it.
    """
    rows = [row for row in table.blocks[0].rows if row.run_ids]
    ids = {run_id for row in rows for run_id in row.run_ids}
    # The closed-form row leaves the runs of a constant scorer out of the table, not out of here.
    shown = [
        run
        for run in runs
        if run.run_id in ids or (run.method == RANDOM and run.target == table.target)
    ]
    if not rows:
        return None
    try:
        report = examine(
            shown,
            table.target,
            metric=table.primary,
            users=rows[0].n_users,
            task=table.task_hash,
            all_configs=True,
        )
    except ConfigError:
        return None
    return report if companions(report) else None


def companions(report: RobustnessReport) -> list[Companion]:
    """The tables of a report that have rows."""
    found = []
    if report.full:
        found.append(_full(report))
    if report.spread:
        found.append(_spread(report))
    return found


def _full(report: RobustnessReport) -> Companion:
    metric = report.metric.upper()
    names = list(report.full[0].full)
    notes = []
    if report.tau_full is not None:
        notes.append(
            f"Kendall's tau between the orders by {metric} among candidates and NDCG@10 in full "
            f"ranking: {report.tau_full:.2f} ({len(report.full)} methods)."
        )
    rows = tuple(
        (
            row.label,
            *(f"{row.full[name]:.4f}" for name in names),
            f"{row.sampled:.4f}",
            str(len(row.seeds)),
        )
        for row in report.full
    )
    return Companion(
        "Full ranking (the whole catalogue without known items)",
        ("Method", *(name.upper() for name in names), f"{metric} among candidates", "S"),
        rows,
        tuple(notes),
    )


def _spread(report: RobustnessReport) -> Companion:
    metric = report.metric.upper()
    notes = []
    if report.tau_seeds is not None:
        notes.append(f"Smallest Kendall's tau between two draws: {report.tau_seeds:.2f}.")
    if report.difference_sd is not None:
        notes.append(
            "Largest SD over draws of the difference of two methods: "
            f"{report.difference_sd:.4f} {metric}."
        )
    rows = tuple(
        (
            row.label,
            *(f"{row.means[seed]:.4f}" for seed in report.candidate_seeds),
            f"{row.sd:.4f}",
            f"{row.span:.4f}",
            str(len(row.seeds)),
        )
        for row in report.spread
    )
    seeds = (f"seed {seed}" for seed in report.candidate_seeds)
    return Companion(
        f"{metric} under other draws of the candidates",
        ("Method", *seeds, "SD", "Span", "S"),
        rows,
        tuple(notes),
    )


def companion_page(reports: Mapping[str, RobustnessReport], command: str) -> str:
    """The companion tables of all targets as one Markdown page; ends with a newline."""
    lines = ["# Do the tables depend on their candidates?", ""]
    lines += [f"Made by `{command}` from `results/`; do not edit.", ""]
    lines += [
        "The fits of [the leaderboards](README.md) are scored on the whole catalogue and on candidates that "
        "were drawn with other seeds. S is the number of training seeds that were scored so. SD and span "
        "are those of a method's means over the draws.",
        "",
    ]
    for target, report in reports.items():
        lines += [f"## {escape_markdown(target)}", ""]
        for companion in companions(report):
            lines += [f"{companion.title}:", "", _markdown(companion), ""]
            lines += [f"- {escape_markdown(note)}" for note in companion.notes]
            lines += [""] * bool(companion.notes)
        lines += [f"- {note}" for note in _lacking(report)]
        lines += [""] * bool(_lacking(report))
    return "\n".join(lines[:-1]) + "\n"


def companion_reading(reports: Mapping[str, RobustnessReport], page: str) -> str:
    """The section of the index that says how far the tables depend on their candidates."""
    body = [
        [
            escape_markdown(target),
            _number(report.tau_full, ".2f"),
            str(len(report.full)),
            _number(report.tau_seeds, ".2f"),
            _number(report.difference_sd, ".4f"),
            str(len(report.candidate_seeds)),
        ]
        for target, report in reports.items()
    ]
    headers = ["Target", "Tau, full ranking", "Methods", "Least tau, two draws"]
    headers += ["SD of a difference", "Draws"]
    align = ["left"] + ["right"] * 5
    table = tabulate(body, headers, tablefmt="pipe", colalign=align, disable_numparse=True)
    return (
        "\n## Do the tables depend on their candidates?\n\n"
        f"{table}\n\n"
        "Tau: Kendall's tau between the order of the methods among the candidates and the one by "
        "NDCG@10 over the whole catalogue, and the least one between two draws of the candidates. SD: "
        "what redrawing the candidates adds to the difference of two methods, at most. Figures of every "
        f"method: [{page}]({page}).\n"
    )


def _number(value: float | None, form: str) -> str:
    return EN_RULE if value is None else format(value, form)


def _lacking(report: RobustnessReport) -> Sequence[str]:
    return [note for note in report.notes if note.startswith("Without ")]


def _markdown(companion: Companion) -> str:
    body = [[escape_markdown(row[0]), *row[1:]] for row in companion.rows]
    align = ["left"] + ["right"] * (len(companion.headers) - 1)
    return tabulate(body, companion.headers, tablefmt="pipe", colalign=align, disable_numparse=True)
