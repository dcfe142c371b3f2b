"""Tables of several targets, a suite's or named ones: one family of tests."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from bench.errors import ResultError
from bench.report.leaderboard import draft_table, finish
from bench.report.options import TableOptions, command_line
from bench.report.reported import load_publication
from bench.report.significance import Draft
from bench.report.table import TableSet

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun
    from bench.suites import Suite

__all__ = ["build_suite", "build_targets"]


def build_suite(
    runs: Sequence[StoredRun],
    suite: Suite,
    *,
    scale: str = "cpu",
    reference: str | None = None,
    users: str | None = None,
    **options: Any,
) -> TableSet:
    """Build the tables of a suite; the tests of all targets are one family.

    Targets without stored runs are left out and named in the caption. The declared reference
    is left out if it has no runs, and must exist if the caller names it.

    Args:
        runs: stored runs.
        suite: the suite.
        scale: one of its scales.
        reference: instead of the suite's.
        users: instead of the scale's: ``full`` or a number.
        options: fields of :class:`~bench.report.options.TableOptions`; primary metric and publication
            stand instead of the suite's, which declares profile and methods itself.

    Raises:
        ResultError: no target of the suite has runs.
        ConfigError: as :func:`~bench.report.leaderboard.build_table`.
    """
    asked = TableOptions(**options)
    chosen = suite.scale(scale)
    n_users = str(chosen.users) if users is None else users
    publication = asked.publication
    if publication is None and suite.reported is not None:
        publication = load_publication(suite.reported)
    shared = replace(
        asked,
        primary=asked.primary or suite.primary,
        profile=chosen.profile,
        users=None if n_users == "full" else int(n_users),
        wanted=suite.methods,
        families=suite.families,
        publication=publication,
    )
    present = {run.target for run in runs if run.profile == chosen.profile}
    absent = [target for target in chosen.targets if target not in present]
    if len(absent) == len(chosen.targets):
        raise ResultError(
            f"no stored runs of profile {chosen.profile} for any target of suite {suite.name} "
            f"({', '.join(chosen.targets)}). Start with `bench run --method "
            f"{','.join(suite.methods[:2])} --target {chosen.targets[0]}`."
        )
    drafts = [draft_table(runs, target, shared) for target in chosen.targets if target in present]
    if absent:
        note = f"No stored runs for the targets {', '.join(absent)}; they are left out."
        drafts = [
            replace(draft, table=replace(draft.table, caption=(*draft.table.caption, note)))
            for draft in drafts
        ]
    command = f"bench leaderboard --suite {suite.name}"
    command += f" --scale {scale}" if scale != "cpu" else ""
    command = command_line(command, asked, reference=reference, users=users)
    tables = finish(drafts, _reference(drafts, suite, reference), command)
    return TableSet(suite.name, suite.title, tables, command)


def build_targets(
    runs: Sequence[StoredRun],
    targets: Sequence[str],
    *,
    reference: str | None = None,
    **options: Any,
) -> TableSet:
    """Build the tables of several targets; the tests of all of them are one family.

    Args:
        runs: stored runs.
        targets: target domains, in the order of the tables.
        reference: method or label that ``^`` refers to.
        options: fields of :class:`~bench.report.options.TableOptions`.

    Raises:
        ResultError: a target without runs.
        ConfigError: as :func:`~bench.report.leaderboard.build_table`.
    """
    shared = TableOptions(**options)
    drafts = [draft_table(runs, target, shared) for target in targets]
    names = ",".join(targets)
    what = f"bench leaderboard --target {shlex.quote(names)}"
    command = command_line(what, shared, reference=reference)
    return TableSet(names, "Leaderboards", finish(drafts, reference, command), command)


def _reference(drafts: Sequence[Draft], suite: Suite, named: str | None) -> str | None:
    if named is not None:
        return named
    methods = {one.row.method for draft in drafts for one in draft.measured}
    return suite.reference if suite.reference in methods else None
