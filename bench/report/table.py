"""The one table object that every writer prints."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

__all__ = [
    "DIGITS",
    "FAMILIES",
    "FLAGS",
    "SIGNS",
    "Block",
    "Cost",
    "Figure",
    "Mark",
    "Row",
    "Significance",
    "Table",
    "TableSet",
    "full_name",
    "mark_rows",
    "sort_rows",
]

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

FLAGS: Mapping[str, str] = {
    "transductive": "†",
    "ties": "‡",
    "inconsistent": "§",
    "invalid": "¶",
    "unchecked": "‖",
    "budget": "#",
}
"""What a reader must know of a row, with the mark that stands behind its name."""

SIGNS: Mapping[str, str] = {"star": "*", "above": "^"}
"""Outcomes of tests, with the sign that stands behind the primary figure."""

Mark = Literal["best", "second"]
Kind = Literal["main", "other-users", "reported"]


def full_name(label: str, profile: str) -> str:
    """A label with its profile, if that is not the default one."""
    return label if profile in ("", "cpu") else f"{label} [{profile}]"


@dataclass(frozen=True, slots=True)
class Figure:
    """A mean over users.

    Attributes:
        mean: rounded to 12 decimals, so that a last-bit difference between processors cannot change
            a written file.
        ci95: bootstrap interval, if it was asked for.
    """

    mean: float
    ci95: tuple[float, float] | None = None

    @property
    def shown(self) -> str:
        """The mean as displayed."""
        return f"{self.mean:.{DIGITS}f}"


@dataclass(frozen=True, slots=True)
class Cost:
    """What a row cost, as the mean over its runs.

    Attributes:
        own: wall seconds of training and scoring this method, or None if not recorded.
        total: the same with the shared parts (adapters, earlier attempts), or None.
        memory_mb: largest peak memory of the runs in MB, or None.
    """

    own: float | None = None
    total: float | None = None
    memory_mb: float | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """One method of a table.

    Attributes:
        method: name of the method.
        label: the name as displayed, with what sets it apart (configuration, sources, dtype).
        family: key of :data:`FAMILIES`, or a name unknown to this version.
        profile: named hyper-parameters; "" for the closed-form row.
        seeds: training seeds averaged; empty for the closed-form row.
        n_users: users the means are over; 0 if a source does not say.
        figures: by metric; a metric that is absent is shown as missing.
        run_ids: the stored runs behind the row, in the order of ``seeds``.
        config: resolved configuration.
        sources: source domains.
        flags: keys of :data:`FLAGS`, and ``imported``, which stands in the label.
        share_tied: share of users whose positive is tied, the mean over seeds.
        tie_gap: what the order of ties could change in the worst metric: best minus worst mean.
        tie_metric: that metric.
        share_valid: share of generated answers that name a candidate, the mean over seeds; None if
            nothing was generated.
        n_adapted_on: users of the table whose unlabelled test request a transductive method adapted on,
            the largest number of any seed.
        unseen: mean of the primary metric over the other users, or None if there are none such.
        seconds_fit: mean wall seconds of training, or None.
        budget_share: share of the authors' training budget, the smallest of any seed and stage, if the row
            was trained too little to stand for its method; None otherwise.
        marks: best and second best, by metric.
        signs: keys of :data:`SIGNS` that the tests of the primary metric earned.
        cost: seconds and memory.
        rank: best and worst place that the row may hold among the tested rows of its block, given which
            differences are significant (Holm over all pairs); None if it was not tested.
        provenance: where a row comes from that no stored run stands behind; "" for all others.
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
    tie_metric: str = ""
    share_valid: float | None = None
    n_adapted_on: int = 0
    unseen: float | None = None
    seconds_fit: float | None = None
    budget_share: float | None = None
    marks: Mapping[str, Mark] = field(default_factory=dict)
    signs: tuple[str, ...] = ()
    cost: Cost = Cost()
    rank: tuple[int, int] | None = None
    provenance: str = ""

    @property
    def key(self) -> tuple[str, str]:
        """What tells the rows of one table apart: label and profile."""
        return (self.label, self.profile)

    @property
    def name(self) -> str:
        """Name that is unique in a table: the label, with a profile other than the default."""
        return full_name(self.label, self.profile)


@dataclass(frozen=True, slots=True)
class Block:
    """Rows that may be compared with one another.

    Attributes:
        title: heading of the block; "" for the main one.
        rows: in printing order.
        comparable: whether all rows have the same users, so that marks make sense.
        kind: ``main``, ``other-users`` (own n each) or ``reported`` (figures of a publication).
    """

    title: str
    rows: tuple[Row, ...]
    comparable: bool = True
    kind: Kind = "main"


@dataclass(frozen=True, slots=True)
class Significance:
    """The tests behind the signs of a table.

    Attributes:
        test: name of the test.
        correction: adjustment for several comparisons.
        alpha: level that adjusted p-values must stay below.
        family: number of adjusted comparisons (one per target of the printed table).
        leader: key of the row with the highest mean of the primary metric, or None.
        p: largest p-value of the leader over its rivals; None if no valid test exists.
        p_users: the same over users alone, "this checkpoint"; None if there is no rival.
        adjusted_p: the same after the correction.
        rival: key of the rival with that p-value.
        starred: whether the leader earned the star.
        reason: why there is no star; "" if there is one.
        difference: mean lead over that rival.
        minimum_detectable: smallest true difference that this test finds with 80 % power.
        reference: label of the declared reference, or None.
        reference_family: number of comparisons with the reference.
    """

    test: str
    correction: str
    alpha: float
    family: int
    leader: tuple[str, str] | None
    p: float | None
    p_users: float | None
    adjusted_p: float | None
    rival: tuple[str, str] | None
    starred: bool
    reason: str
    difference: float | None = None
    minimum_detectable: float | None = None
    reference: str | None = None
    reference_family: int = 0


@dataclass(frozen=True, slots=True, repr=False)
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
        with_costs: whether seconds and memory are displayed.
        with_ranks: whether best and worst places are displayed.
        significance: the tests behind the signs; None if nothing could be tested.
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
    with_costs: bool = False
    with_ranks: bool = False
    significance: Significance | None = None

    def __repr__(self) -> str:
        return f"Table({self.target}: {len(self.rows)} rows by {self.primary.upper()})"

    @property
    def rows(self) -> list[Row]:
        """All rows, in printing order."""
        return [row for block in self.blocks for row in block.rows]


@dataclass(frozen=True, slots=True)
class TableSet:
    """Tables of several targets that belong together: one suite, one family of tests.

    Attributes:
        name: name of the suite.
        title: one sentence.
        tables: one per target.
        command: the command line that makes them.
    """

    name: str
    title: str
    tables: tuple[Table, ...]
    command: str


def family_key(family: str) -> tuple[int, str]:
    """Sorting key: the paper's order, then unknown families by name."""
    names = list(FAMILIES)
    return (names.index(family) if family in FAMILIES else len(names), family)


def sort_rows(rows: Iterable[Row], primary: str) -> list[Row]:
    """Family in the paper's order, then the primary metric, best first, then the label.

    Rows without figures stand last in their family, in the given order.
    """

    def key(row: Row) -> tuple[tuple[int, str], float, str, str]:
        figure = row.figures.get(primary)
        if figure is None:
            return (family_key(row.family), 1.0, "", "")
        return (family_key(row.family), -figure.mean, row.label, row.profile)

    return sorted(rows, key=key)


def mark_rows(rows: Sequence[Row], metrics: Iterable[str]) -> tuple[Row, ...]:
    """Mark the best displayed figure of each metric, and the next distinct one.

    All rows that show the same figure get the same mark; missing figures get none.
    """
    marks: list[dict[str, Mark]] = [{} for _ in rows]
    for metric in metrics:
        shown = [
            float(row.figures[metric].shown) if metric in row.figures else None for row in rows
        ]
        levels = sorted({value for value in shown if value is not None}, reverse=True)
        for mark, value in zip(marks, shown, strict=True):
            if value is None:
                continue
            if value == levels[0]:
                mark[metric] = "best"
            elif value in levels[1:2]:
                mark[metric] = "second"
    return tuple(replace(row, marks=mark) for row, mark in zip(rows, marks, strict=True))
