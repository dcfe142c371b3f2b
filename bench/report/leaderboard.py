"""Stored runs of one target to one table. Needs neither torch nor any method."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.errors import ConfigError
from bench.evaluation.metrics import parse_metric
from bench.report.caption import caption_lines, protocol_record, significance_lines
from bench.report.html import to_html
from bench.report.labels import row_labels
from bench.report.latex import to_latex
from bench.report.reported import Publication, reported_block
from bench.report.rows import (
    RANDOM,
    Measured,
    count_candidates,
    measured,
    random_measured,
)
from bench.report.select import choose_task, choose_users, group_series
from bench.report.significance import Draft, with_signs
from bench.report.table import Block, Row, Table, mark_rows, sort_rows
from bench.report.writers import to_csv, to_json, to_markdown

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = [
    "DISPLAYED",
    "build_table",
    "draft_table",
    "finish",
    "to_csv",
    "to_html",
    "to_json",
    "to_latex",
    "to_markdown",
]

DISPLAYED: tuple[str, ...] = ("ndcg@1", "ndcg@3", "ndcg@5", "mrr@5")
"""The columns of the paper's tables."""

PRIMARY, PRIMARY_OF_LISTS = "ndcg@5", "ndcg@1"


def build_table(
    runs: Sequence[StoredRun],
    target: str,
    *,
    primary: str | None = None,
    metrics: Sequence[str] = DISPLAYED,
    profile: str | None = None,
    users: int | None = None,
    task: str | None = None,
    all_configs: bool = False,
    ci: bool = False,
    costs: bool = False,
    reference: str | None = None,
    wanted: Sequence[str] = (),
    publication: Publication | None = None,
) -> Table:
    """Build the table of one target.

    Every row is the default configuration of one method and profile. Seeds are averaged per user,
    then users are averaged. The row ``random`` is the closed form over the users of the main block;
    stored runs of that method are not repeated beside it.

    Args:
        runs: stored runs; those of other targets and tasks are left out.
        target: target domain.
        primary: metric that sorts the rows of a family, best first, and that is tested; it is
            displayed in any case. None = NDCG@5, or NDCG@1 where a row of the table answers with a
            list (its other positions are chance).
        metrics: displayed metrics.
        profile: only this profile; None = all that have runs.
        users: number of users of the main block; None = all users of the task. Methods with only
            other users stand in a second block, unmarked, each with its own n.
        task: first digits of the task hash; None = the standard protocol.
        all_configs: also show configurations other than the default, labelled by their difference.
        ci: also compute 95 % bootstrap intervals (2,000 resamples, seed 0).
        costs: also display seconds and memory.
        reference: method or label that ``^`` refers to.
        wanted: methods that get a row in any case; without runs its cells are em rules.
        publication: figures to quote in a block of their own.

    Returns:
        The table; the same runs always give an equal one, in whatever order they come.

    Raises:
        ResultError: no runs of this target, or a damaged one.
        ConfigError: an unknown metric, task, profile, reference or number of users, or an ambiguous
            task.
    """
    draft = draft_table(
        runs,
        target,
        primary=primary,
        metrics=metrics,
        profile=profile,
        users=users,
        task=task,
        all_configs=all_configs,
        ci=ci,
        costs=costs,
        wanted=wanted,
        publication=publication,
    )
    command = _command(target, primary, profile, users, task, all_configs, ci)
    command += " --cost" * costs + (f" --reference {reference}" if reference else "")
    command += f" --reported {publication.name}" if publication else ""
    return finish([draft], reference, command)[0]


def finish(drafts: Sequence[Draft], reference: str | None, command: str) -> tuple[Table, ...]:
    """Decide the signs of tables that are printed together, and say what they mean.

    Args:
        drafts: one per target.
        reference: method or label that ``^`` refers to.
        command: the command line that makes them.
    """
    return tuple(
        replace(table, caption=(*table.caption, *significance_lines(table)), command=command)
        for table in with_signs(drafts, reference)
    )


def draft_table(
    runs: Sequence[StoredRun],
    target: str,
    *,
    primary: str | None = None,
    metrics: Sequence[str] = DISPLAYED,
    profile: str | None = None,
    users: int | None = None,
    task: str | None = None,
    all_configs: bool = False,
    ci: bool = False,
    costs: bool = False,
    wanted: Sequence[str] = (),
    publication: Publication | None = None,
) -> Draft:
    """The table without signs, and what decides them; arguments as :func:`build_table`."""
    found, notes = choose_task(sorted(runs, key=lambda r: (r.run_id, str(r.path))), target, task)
    if profile is not None and profile not in {run.profile for run in found}:
        known = ", ".join(sorted({run.profile for run in found}))
        raise ConfigError(
            f"no runs of profile {profile!r} for {target}; profiles on record: {known}."
        )
    chosen = choose_users(found, users)
    series, more = group_series(found, profile=profile, all_configs=all_configs)
    notes += more
    series = [one for one in series if one.first.method != RANDOM or not one.is_default]
    covering = {one: one.covering(chosen) for one in series}
    if primary is None:
        # Lists are compared where their order is more than chance.
        lists = any(c and c[0].outcomes().has_slots for c in covering.values())
        primary = PRIMARY_OF_LISTS if lists else PRIMARY
    shown = tuple(dict.fromkeys([*metrics, *([] if primary in metrics else [primary])]))
    for metric in shown:
        parse_metric(metric)
    labels = row_labels(series)
    main: list[Measured] = []
    rest: list[Row] = []
    for one in series:
        if covering[one]:
            main.append(measured(one, covering[one], chosen, labels[one], shown, primary, ci))
        else:
            widest = one.widest()
            users_of = widest[0].users
            rest.append(measured(one, widest, users_of, labels[one], shown, primary, ci).row)
    n_candidates = count_candidates(found, chosen)
    main.append(random_measured(n_candidates, len(chosen), shown, primary, ci))
    rows = mark_rows(sort_rows([one.row for one in main], primary), shown)
    blocks = [Block("", (*rows, *_missing(rows, rest, wanted)))]
    if rest:
        title = "Other users (not comparable)"
        other = tuple(sort_rows(rest, primary))
        blocks.append(Block(title, other, comparable=False, kind="other-users"))
    quoted = reported_block(publication, target, shown) if publication else None
    if quoted is not None:
        blocks.append(quoted)
    displayed = [run for one in series for run in one.runs]
    protocol = protocol_record(found[0], n_candidates, displayed)
    table = Table(
        target=target,
        task_hash=found[0].task_hash,
        candidates_hash=found[0].candidates_hash,
        protocol=protocol,
        metrics=shown,
        primary=primary,
        blocks=tuple(blocks),
        caption=caption_lines(protocol, blocks, len(chosen), primary, ci, costs, notes),
        with_intervals=ci,
        command="",
        with_costs=costs,
    )
    return Draft(table, tuple(main))


def _missing(rows: Sequence[Row], rest: Sequence[Row], wanted: Sequence[str]) -> list[Row]:
    """A row of em rules for every wanted method without runs, in the order asked for."""
    known = {row.method for row in (*rows, *rest)}
    return [
        Row(
            method=method,
            label=method,
            family="missing",
            profile="",
            seeds=(),
            n_users=0,
            figures={},
        )
        for method in dict.fromkeys(wanted)
        if method not in known
    ]


def _command(
    target: str,
    primary: str | None,
    profile: str | None,
    users: int | None,
    task: str | None,
    all_configs: bool,
    ci: bool,
) -> str:
    parts = ["bench leaderboard", f"--target {target}"]
    if primary is not None:
        parts.append(f"--primary {primary}")
    if profile is not None:
        parts.append(f"--profile {profile}")
    if users is not None:
        parts.append(f"--users {users}")
    if task is not None:
        parts.append(f"--task {task}")
    parts += ["--all-configs"] * all_configs + ["--ci"] * ci
    return " ".join(parts)
