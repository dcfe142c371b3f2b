"""Tables of several targets, a suite's or named ones: one family of tests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from bench.errors import ResultError
from bench.report.leaderboard import DISPLAYED, draft_table, finish
from bench.report.reported import Publication, load_publication
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
    primary: str | None = None,
    reference: str | None = None,
    users: str | None = None,
    publication: Publication | None = None,
    all_configs: bool = False,
    ci: bool = False,
    costs: bool = False,
    metrics: Sequence[str] = DISPLAYED,
) -> TableSet:
    """Build the tables of a suite; the tests of all targets are one family.

    Targets without stored runs are left out and named in the caption. The declared reference
    is left out where it has no runs, and must exist where the caller names it.

    Args:
        runs: stored runs.
        suite: the suite.
        scale: one of its scales.
        primary: instead of the suite's.
        reference: instead of the suite's.
        users: instead of the scale's: ``full`` or a number.
        publication: instead of the suite's.
        all_configs: as in :func:`~bench.report.leaderboard.build_table`, like ``ci`` and ``costs``.
        ci: 95 % intervals.
        costs: seconds and memory.
        metrics: displayed metrics.

    Raises:
        ResultError: no target of the suite has runs.
        ConfigError: as :func:`~bench.report.leaderboard.build_table`.
    """
    chosen = suite.scale(scale)
    n_users = str(chosen.users) if users is None else users
    if publication is None and suite.reported is not None:
        publication = load_publication(suite.reported)
    present = {run.target for run in runs if run.profile == chosen.profile}
    absent = [target for target in chosen.targets if target not in present]
    if len(absent) == len(chosen.targets):
        raise ResultError(
            f"no stored runs of profile {chosen.profile} for any target of suite {suite.name} "
            f"({', '.join(chosen.targets)}). Start with `bench run --method "
            f"{','.join(suite.methods[:2])} --target {chosen.targets[0]}`."
        )
    drafts: list[Draft] = [
        draft_table(
            runs,
            target,
            primary=primary or suite.primary,
            metrics=metrics,
            profile=chosen.profile,
            users=None if n_users == "full" else int(n_users),
            all_configs=all_configs,
            ci=ci,
            costs=costs,
            wanted=suite.methods,
            publication=publication,
        )
        for target in chosen.targets
        if target in present
    ]
    if absent:
        note = f"No stored runs for the targets {', '.join(absent)}; they are left out."
        drafts = [
            replace(draft, table=replace(draft.table, caption=(*draft.table.caption, note)))
            for draft in drafts
        ]
    command = f"bench leaderboard --suite {suite.name}"
    command += f" --scale {scale}" if scale != "cpu" else ""
    for option, value in (("primary", primary), ("reference", reference), ("users", users)):
        command += f" --{option} {value}" if value is not None else ""
    command += " --all-configs" * all_configs + " --ci" * ci + " --cost" * costs
    tables = finish(drafts, _reference(drafts, suite, reference), command)
    return TableSet(suite.name, suite.title, tables, command)


def build_targets(
    runs: Sequence[StoredRun],
    targets: Sequence[str],
    *,
    primary: str | None = None,
    profile: str | None = None,
    users: int | None = None,
    publication: Publication | None = None,
    reference: str | None = None,
    all_configs: bool = False,
    ci: bool = False,
    costs: bool = False,
    metrics: Sequence[str] = DISPLAYED,
) -> TableSet:
    """Build the tables of several targets; the tests of all of them are one family.

    Args:
        runs: stored runs.
        targets: target domains, in the order of the tables.
        primary: as in :func:`~bench.report.leaderboard.build_table`, like all other arguments.
        profile: only this profile.
        users: number of users of the main blocks.
        publication: figures to quote.
        reference: method or label that ``^`` refers to.
        all_configs: also configurations other than the default.
        ci: 95 % intervals.
        costs: seconds and memory.
        metrics: displayed metrics.

    Raises:
        ResultError: a target without runs.
        ConfigError: as :func:`~bench.report.leaderboard.build_table`.
    """
    drafts = [
        draft_table(
            runs,
            target,
            primary=primary,
            metrics=metrics,
            profile=profile,
            users=users,
            all_configs=all_configs,
            ci=ci,
            costs=costs,
            publication=publication,
        )
        for target in targets
    ]
    names = ",".join(targets)
    command = f"bench leaderboard --target {names}"
    for option, value in (
        ("primary", primary),
        ("profile", profile),
        ("users", users),
        ("reference", reference),
        ("reported", publication and publication.name),
    ):
        command += f" --{option} {value}" if value is not None else ""
    command += " --all-configs" * all_configs + " --ci" * ci + " --cost" * costs
    return TableSet(names, "Leaderboards", finish(drafts, reference, command), command)


def _reference(drafts: Sequence[Draft], suite: Suite, named: str | None) -> str | None:
    if named is not None:
        return named
    methods = {one.row.method for draft in drafts for one in draft.measured}
    return suite.reference if suite.reference in methods else None
