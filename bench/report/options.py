"""What a table shows: the choices that all tables of one call share."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from bench.evaluation import METRICS
from bench.report.reported import Publication

__all__ = ["DISPLAYED", "TableOptions", "command_line"]

DISPLAYED: tuple[str, ...] = ("ndcg@1", "ndcg@3", "ndcg@5", "mrr@5")
"""The columns of the paper's tables."""


@dataclass(frozen=True, slots=True)
class TableOptions:
    """Which runs stand in a table, and what is shown of them.

    Attributes:
        primary: metric that sorts the rows of a family, best first, and that is tested; it is
            displayed in any case. None = NDCG@5, or NDCG@1 if a row of the table answers with a
            list (its other positions are chance).
        metrics: displayed metrics.
        profile: only this profile; None = all that have runs.
        users: number of users of the main block; None = all users of the task. Methods with only
            other users stand in a second block, unmarked, each with its own n.
        task: first digits of the task hash; None = the standard protocol.
        all_configs: also show configurations other than the default, labelled by their difference.
        ci: also compute 95 % bootstrap intervals (2,000 resamples, seed 0).
        costs: also display seconds and memory.
        ranks: also display the best and worst place that a row may hold.
        publication: figures to quote in a block of their own.
        published: whether published results are among the runs; the command says so.
        wanted: methods that get a row in any case; without runs its cells are em rules.
        families: family of a wanted method that has no run anywhere.
    """

    primary: str | None = None
    metrics: Sequence[str] = DISPLAYED
    profile: str | None = None
    users: int | None = None
    task: str | None = None
    all_configs: bool = False
    ci: bool = False
    costs: bool = False
    ranks: bool = False
    publication: Publication | None = None
    published: bool = False
    wanted: Sequence[str] = ()
    families: Mapping[str, str] = field(default_factory=dict)


def command_line(
    what: str, options: TableOptions, *, reference: str | None = None, users: str | None = None
) -> str:
    """The command line that makes a table.

    Args:
        what: the command with its target or suite.
        options: what the user asked for.
        reference: the declared reference.
        users: the number of users as the user wrote it, instead of that of ``options``.
    """
    number = users if users is not None or options.users is None else str(options.users)
    values = {
        "primary": options.primary,
        # All metrics stand on the pages of a site, which need no option for it.
        "metrics": ""
        if tuple(options.metrics) in (DISPLAYED, METRICS)
        else ",".join(options.metrics),
        "profile": options.profile,
        "users": number,
        "task": options.task,
        "reference": reference,
        "reported": options.publication and options.publication.name,
    }
    flags = {
        "all-configs": options.all_configs,
        "ci": options.ci,
        "cost": options.costs,
        "ranks": options.ranks,
        "published": options.published,
    }
    parts = [what]
    parts += [f"--{name} {shlex.quote(value)}" for name, value in values.items() if value]
    parts += [f"--{name}" for name, chosen in flags.items() if chosen]
    return " ".join(parts)
