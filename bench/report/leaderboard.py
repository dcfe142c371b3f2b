"""Stored runs of one target to one table. Needs neither torch nor any method."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError
from bench.evaluation.metrics import parse_metric
from bench.report.caption import caption_lines, protocol_record, significance_lines
from bench.report.html import to_html
from bench.report.labels import row_labels
from bench.report.latex import to_latex
from bench.report.options import DISPLAYED, TableOptions, command_line
from bench.report.reported import reported_block
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

PRIMARY, PRIMARY_OF_LISTS = "ndcg@5", "ndcg@1"
DEFAULTS = TableOptions()


def build_table(
    runs: Sequence[StoredRun], target: str, *, reference: str | None = None, **options: Any
) -> Table:
    """Build the table of one target.

    Every row is the default configuration of one method and profile. Seeds are averaged per user,
    then users are averaged. The row ``random`` is the closed form over the users of the main block;
    stored runs of that method are not repeated beside it.

    Args:
        runs: stored runs; those of other targets and tasks are left out.
        target: target domain.
        reference: method or label that ``^`` refers to.
        options: fields of :class:`~bench.report.options.TableOptions`.

    Returns:
        The table; the same runs always give an equal one, in whatever order they come.

    Raises:
        ResultError: no runs of this target, or a damaged one.
        ConfigError: an unknown metric, task, profile, reference or number of users, or an ambiguous
            task.
    """
    chosen = TableOptions(**options)
    what = f"bench leaderboard --target {shlex.quote(target)}"
    command = command_line(what, chosen, reference=reference)
    return finish([draft_table(runs, target, chosen)], reference, command)[0]


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


def draft_table(runs: Sequence[StoredRun], target: str, options: TableOptions = DEFAULTS) -> Draft:
    """The table without signs, and what decides them; raises as :func:`build_table`."""
    primary, profile, ci = options.primary, options.profile, options.ci
    found, notes = choose_task(
        sorted(runs, key=lambda r: (r.run_id, str(r.path))), target, options.task
    )
    if profile is not None and profile not in {run.profile for run in found}:
        known = ", ".join(sorted({run.profile for run in found}))
        raise ConfigError(
            f"no runs of profile {profile!r} for {target}; profiles on record: {known}."
        )
    chosen = choose_users(found, options.users)
    series, more = group_series(found, profile=profile, all_configs=options.all_configs)
    notes += more
    series = [one for one in series if one.first.method != RANDOM or not one.is_default]
    covering = {one: one.covering(chosen) for one in series}
    if primary is None:
        # Lists are compared if their order is more than chance.
        lists = any(c and c[0].outcomes().has_slots for c in covering.values())
        primary = PRIMARY_OF_LISTS if lists else PRIMARY
    shown = tuple(dict.fromkeys([*options.metrics, primary]))
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
    present = {row.method for row in (*(one.row for one in main), *rest)}
    families = {**options.families, **{run.method: run.family for run in runs}}
    absent = [_missing(m, families) for m in dict.fromkeys(options.wanted) if m not in present]
    rows = sort_rows([*(one.row for one in main), *absent], primary)
    blocks = [Block("", mark_rows(rows, shown))]
    if rest:
        title = "Other users (not comparable)"
        other = tuple(sort_rows(rest, primary))
        blocks.append(Block(title, other, comparable=False, kind="other-users"))
    quoted = options.publication and reported_block(options.publication, target, shown)
    if quoted:
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
        caption=caption_lines(protocol, blocks, len(chosen), primary, options, notes),
        with_intervals=ci,
        command="",
        with_costs=options.costs,
        with_ranks=options.ranks,
    )
    return Draft(table, tuple(main))


def _missing(method: str, families: Mapping[str, str]) -> Row:
    """A row of em rules."""
    family = families.get(method, "missing")
    return Row(method, method, family, profile="", seeds=(), n_users=0, figures={})
