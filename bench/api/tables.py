"""Tables and comparisons: :func:`table`, :func:`compare`. Loads no method."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from bench.api.stored import Runs, stored_runs
from bench.errors import ConfigError, MissingRunError
from bench.evaluation import EQUIVALENCE_BOUND, Correction
from bench.report import leaderboard
from bench.report.comparison import Pairwise, compare_all
from bench.report.contenders import contenders_of_runs, contenders_of_target
from bench.report.frames import table_frame
from bench.report.options import DISPLAYED
from bench.report.plain import count_text
from bench.report.reported import load_publication
from bench.report.suite_table import build_suite, build_targets
from bench.report.table import Table, TableSet
from bench.suites import load_suite

if TYPE_CHECKING:
    from bench.runs.matrix import RunResult
    from bench.runs.stored import StoredRun

__all__ = ["Leaderboard", "compare", "table"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Leaderboard:
    """A table that renders itself: in a notebook, as text, and in every format of ``bench leaderboard``.

    Attributes:
        table: the table of one target, or those of several.
    """

    table: Table | TableSet

    @property
    def tables(self) -> tuple[Table, ...]:
        """One table per target."""
        return self.table.tables if isinstance(self.table, TableSet) else (self.table,)

    def __repr__(self) -> str:
        shown = [f"{one.target}, {count_text(len(one.rows), 'row')}" for one in self.tables]
        return f"Leaderboard({'; '.join(shown)} by {self.tables[0].primary.upper()})"

    def __str__(self) -> str:
        return self.to_markdown()

    def _repr_html_(self) -> str:
        return self.to_html()

    def _repr_markdown_(self) -> str:
        return self.to_markdown()

    def to_markdown(self) -> str:
        """Markdown without HTML, with the caption."""
        return leaderboard.to_markdown(self.table)

    def to_latex(self) -> str:
        """LaTeX with booktabs."""
        return leaderboard.to_latex(self.table)

    def to_html(self) -> str:
        """A fragment of HTML, without script and style."""
        return leaderboard.to_html(self.table)

    def to_csv(self) -> str:
        """One line per row with full precision."""
        return leaderboard.to_csv(self.table)

    def to_json(self) -> str:
        """The whole table with full precision."""
        return leaderboard.to_json(self.table)

    def to_frame(self, kind: str = "pandas") -> Any:
        """One row per row of the table and metric: the columns of CSV, with ``metric``, ``mean``, ``lo``, ``hi``.

        ``lo`` and ``hi`` are NaN in a table without intervals (``ci=False``).

        Args:
            kind: ``pandas`` or ``polars``.

        Raises:
            ConfigError: another kind.
            MissingExtraError: that library is not installed.
        """
        return table_frame(self.tables, kind)


def table(
    runs: Iterable[StoredRun | RunResult],
    target: str | Sequence[str] | None = None,
    *,
    suite: str | None = None,
    scale: str | None = None,
    primary: str | None = None,
    metrics: Sequence[str] = DISPLAYED,
    reference: str | None = None,
    reported: str | None = None,
    profile: str | None = None,
    users: int | Literal["full"] | None = None,
    task: str | None = None,
    all_configs: bool = False,
    ci: bool = False,
    costs: bool = False,
    ranks: bool = False,
) -> Leaderboard:
    """Make the table of one target, of several, or of a suite; the tests of all of them are one family.

    Args:
        runs: stored runs.
        target: target domain, or several; None = all that the runs have, in their order.
        suite: all targets of a suite instead.
        scale: scale of the suite; None = ``cpu``.
        primary: metric that is tested and sorts the rows; None = the suite's, else NDCG@5 (NDCG@1 if
            a method answers with a list).
        metrics: metrics in columns.
        reference: method that the sign ``^`` refers to; None = the suite's.
        reported: publication whose figures are quoted below a rule.
        profile: only this profile.
        users: number of users, a subset that was scored; ``full`` = all; None = the suite's, else all.
        task: first digits of a task hash; None = the standard protocol.
        all_configs: whether configurations other than the default ones are shown.
        ci: whether 95 % bootstrap intervals are computed.
        costs: whether seconds and memory are shown.
        ranks: whether the best and worst place of each row is shown.

    Raises:
        ResultError: no runs of a target, or a damaged one.
        ConfigError: an unknown name, or options that do not go together.
    """
    chosen = list(stored_runs(runs))
    shared: dict[str, Any] = {
        "primary": primary,
        "metrics": tuple(metrics),
        "reference": reference,
        "publication": None if reported is None else load_publication(reported),
        "published": isinstance(runs, Runs) and runs.published,
        "all_configs": all_configs,
        "ci": ci,
        "costs": costs,
        "ranks": ranks,
    }
    if suite is not None:
        if target is not None:
            raise ConfigError(f"target {target} beside suite {suite}; give one of the two.")
        if profile is not None or task is not None:
            raise ConfigError("profile and task belong to a target; a suite declares its own.")
        n_users = None if users is None else str(users)
        return Leaderboard(
            build_suite(chosen, load_suite(suite), scale=scale or "cpu", users=n_users, **shared)
        )
    if scale is not None:
        raise ConfigError("scale belongs to a suite; choose a profile for a target.")
    shared |= {"profile": profile, "users": None if users == "full" else users}
    if target is None:
        target = list(dict.fromkeys(run.target for run in chosen))
    targets = [target] if isinstance(target, str) else list(target)
    if not targets:
        raise MissingRunError("a table of no runs; expected at least one (`bench runs list`).")
    if len(targets) == 1:
        return Leaderboard(leaderboard.build_table(chosen, targets[0], task=task, **shared))
    if task is not None:
        raise ConfigError("task belongs to a single target; name one, or leave task out.")
    return Leaderboard(build_targets(chosen, targets, **shared))


def compare(
    *runs: StoredRun | RunResult | Iterable[StoredRun | RunResult],
    target: str | None = None,
    methods: Sequence[str] = (),
    metric: str = "ndcg@5",
    reference: str | None = None,
    correction: Correction = "holm",
    alpha: float = 0.05,
    bound: float = EQUIVALENCE_BOUND,
    also: Sequence[str] = (),
    profile: str | None = None,
    users: int | None = None,
    task: str | None = None,
    all_configs: bool = False,
) -> Pairwise:
    """Compare runs over the same users by paired tests; the result prints itself.

    Without ``target`` the runs are compared as they are, and seeds of one method are joined. With it, the rows
    of the target's table are.

    Args:
        runs: runs, or collections of them.
        target: target domain whose rows are compared.
        methods: with a target: only these methods.
        metric: what is compared.
        reference: label or method that all others are compared with; None = all pairs.
        correction: over the comparisons: ``holm``, ``bh`` or ``none``.
        alpha: level of the tests.
        bound: differences within +- this are equivalent.
        also: further tests: ``flips``, ``bootstrap``, ``mcnemar``, ``wilcoxon``.
        profile: with a target: only this profile.
        users: with a target: number of users; None = all.
        task: with a target: first digits of a task hash; None = the standard protocol.
        all_configs: with a target: also configurations other than the default ones.

    Raises:
        ResultError: fewer than two, or runs that are not comparable; the message says in what they differ.
        ConfigError: an unknown name or a value out of range.
    """
    chosen = list(stored_runs(runs))
    rows: dict[str, Any] = {
        "methods": methods,
        "profile": profile,
        "users": users,
        "task": task,
        "all_configs": all_configs,
    }
    if target is not None:
        contenders, notes = contenders_of_target(chosen, target, metric=metric, **rows)
    elif named := [name for name, value in rows.items() if value]:
        raise ConfigError(f"{', '.join(named)} without a target; runs are compared as they are.")
    else:
        contenders, notes = contenders_of_runs(chosen, metric)
    return compare_all(
        contenders,
        metric,
        reference=reference,
        correction=correction,
        alpha=alpha,
        bound=bound,
        secondary=also,
        notes=notes,
    )
