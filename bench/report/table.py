"""The one table object that every writer prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

__all__ = ["DIGITS", "FAMILIES", "FLAGS", "Block", "Figure", "Mark", "Row", "Table", "mark_rows"]

DIGITS = 4
"""Decimals of a displayed figure; marks compare displayed figures."""

FAMILIES: Mapping[str, str] = {
    "reference": "Reference",
    "single-domain": "Single-domain",
    "cross-domain": "Cross-domain",
    "llm": "LLM",
    "merging": "Model merging",
    "ablation": "Ablation",
    "weaverec": "WeaveRec",
}
"""Families in the order of the paper's rows, with their titles."""

FLAGS: Mapping[str, str] = {"transductive": "†", "ties": "‡"}
"""What a reader must know of a row, with the sign that stands behind its name."""

Mark = Literal["best", "second"]


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over users.

    Attributes:
        mean: rounded to 12 decimals, so that a last-bit difference between processors cannot change
            a written file.
        ci95: bootstrap interval, where it was asked for.
    """

    mean: float
    ci95: tuple[float, float] | None = None

    @property
    def shown(self) -> str:
        """The mean as displayed."""
        return f"{self.mean:.{DIGITS}f}"


@dataclass(frozen=True, slots=True)
class Row:
    """One method of a table.

    Attributes:
        method: name of the method.
        label: the name as displayed, with what sets it apart (configuration, sources, dtype).
        family: key of :data:`FAMILIES`, or a name unknown to this version.
        profile: named hyper-parameters; "" for the closed-form row.
        seeds: training seeds averaged; empty for the closed-form row.
        n_users: users the means are over.
        figures: by metric.
        run_ids: the stored runs behind the row, in the order of ``seeds``.
        config: resolved configuration.
        sources: source domains.
        flags: keys of :data:`FLAGS`.
        share_tied: share of users whose positive is tied, the mean over seeds.
        tie_gap: what the order of ties could change in the worst metric: best minus worst mean.
        seconds_fit: mean wall seconds of training, or None.
        marks: best and second best, by metric.
    """

    method: str
    label: str
    family: str
    profile: str
    seeds: tuple[int, ...]
    n_users: int
    figures: Mapping[str, Figure]
    run_ids: tuple[str, ...] = ()
    config: Mapping[str, object] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    flags: tuple[str, ...] = ()
    share_tied: float = 0.0
    tie_gap: float = 0.0
    seconds_fit: float | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that may be compared with one another.

    Attributes:
        title: heading of the block; "" for the main one.
        rows: in printing order.
        comparable: whether all rows have the same users, so that marks make sense.
    """

    title: str
    rows: tuple[Row, ...]
    comparable: bool = True


@dataclass(frozen=True, slots=True)
class Table:
    """A table of one target.

    Attributes:
        target: target domain.
        task_hash: task of every run in it.
        candidates_hash: identity of the test candidates.
        protocol: task options, guard, numbers of users, items and candidates.
        metrics: displayed metrics, in order.
        primary: metric that sorts the rows.
        blocks: the main block, then methods with other users.
        caption: sentences that belong under the table.
        with_intervals: whether intervals of the primary metric are displayed.
        command: the command line that makes this table.
    """

    target: str
    task_hash: str
    candidates_hash: str
    protocol: Mapping[str, object]
    metrics: tuple[str, ...]
    primary: str
    blocks: tuple[Block, ...]
    caption: tuple[str, ...]
    with_intervals: bool
    command: str

    @property
    def rows(self) -> list[Row]:
        """All rows, in printing order."""
        return [row for block in self.blocks for row in block.rows]


def family_key(family: str) -> tuple[int, str]:
    """Sorting key: the paper's order, then unknown families by name."""
    names = list(FAMILIES)
    return (names.index(family) if family in FAMILIES else len(names), family)


def sort_rows(rows: Iterable[Row], primary: str) -> list[Row]:
    """Family in the paper's order, then the primary metric, best first, then the label."""
    return sorted(
        rows,
        key=lambda r: (family_key(r.family), -r.figures[primary].mean, r.label, r.profile),
    )


def mark_rows(rows: Sequence[Row], metrics: Iterable[str]) -> tuple[Row, ...]:
    """Mark the best displayed figure of each metric, and the next distinct one.

    All rows that show the same figure get the same mark.
    """
    marks: list[dict[str, Mark]] = [{} for _ in rows]
    for metric in metrics:
        shown = [float(row.figures[metric].shown) for row in rows]
        levels = sorted(set(shown), reverse=True)
        for mark, value in zip(marks, shown, strict=True):
            if value == levels[0]:
                mark[metric] = "best"
            elif value in levels[1:2]:
                mark[metric] = "second"
    return tuple(replace(row, marks=mark) for row, mark in zip(rows, marks, strict=True))
