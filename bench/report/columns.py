"""What a table says of each row, said once: Markdown, LaTeX, HTML, CSV, JSON and the page read this list."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from bench.report.table import FAMILIES, FLAGS, SIGNS, Kind, Mark, Row, Table
from bench.runs.privacy import without_paths

__all__ = [
    "COLUMNS",
    "EM_RULE",
    "EN_RULE",
    "METRICS",
    "Cell",
    "Column",
    "Page",
    "family_title",
    "metric_column",
    "rank_text",
]

EM_RULE = "—"
"""Stands where a figure is missing; the caption says why."""

EN_RULE = "–"
"""Stands where a cell does not apply, such as the seeds of a row that was never trained."""

_TITLES = {**FAMILIES, "missing": "No stored run"}


@dataclass(frozen=True, slots=True)
class Cell:
    """A cell.

    Attributes:
        text: as displayed, not escaped for any format.
        mark: best or second best of its column.
        signs: what stands behind it.
        exact: the value in full precision, or None.
        spread: half the width of the 95 % interval, as displayed, or "".
    """

    text: str
    mark: Mark | None = None
    signs: str = ""
    exact: float | None = None
    spread: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """How a column stands on the page.

    Attributes:
        title: its heading.
        css: its class; "" for none.
        order: what the row is sorted by, of table and row; None: by the text.
        help: what is told of the heading, of the table.
        kinds: the blocks that have it.
    """

    title: str
    css: str = ""
    order: Callable[[Table, Row], float] | None = None
    help: Callable[[Table], str] | None = None
    kinds: tuple[Kind, ...] = ("main", "other-users", "reported")


def _always(table: Table) -> bool:
    return True


@dataclass(frozen=True, slots=True)
class Column:
    """A column.

    Attributes:
        key: its name in JSON, with dots if it belongs to a group, and its one name in CSV.
        value: what a row has, in full precision.
        title: heading of a printed table; "" = in files alone.
        text: the printed text of a value.
        absent: the value of a row without one: an en rule in print, nothing in CSV.
        when: which printed tables have it.
        csv: names in CSV; several take the parts of the value, none leaves it out.
        in_json: ``always``, ``never``, or ``present`` = unless absent.
        page: how it stands on the page; None = it does not, or the page draws it itself.
        cell: a printed cell that is more than its text.
        is_text: whether it is aligned to the left.
        is_metric: whether its cells are figures with marks.
        per_target: whether each target of a wide table has one of its own.
    """

    key: str
    value: Callable[[Row], Any] = lambda row: None
    title: str | Callable[[Table], str] = ""
    text: Callable[[Any], str] = str
    absent: object = None
    when: Callable[[Table], bool] = _always
    csv: tuple[str, ...] | None = None
    in_json: str = "always"
    page: Page | None = None
    cell: Callable[[Table, Row], Cell] | None = None
    is_text: bool = False
    is_metric: bool = False
    per_target: bool = True

    @property
    def csv_names(self) -> tuple[str, ...]:
        """Its names in CSV."""
        return (self.key,) if self.csv is None else self.csv

    def heading(self, table: Table) -> str:
        """The heading of a printed table."""
        return self.title if isinstance(self.title, str) else self.title(table)

    def drawn(self, table: Table, row: Row) -> Cell:
        """The printed cell."""
        if self.cell is not None:
            return self.cell(table, row)
        value = self.value(row)
        return Cell(EN_RULE if value == self.absent else self.text(value))


def family_title(family: str) -> str:
    """Title of a family in a table."""
    return _TITLES.get(family, family)


def rank_text(rank: Sequence[int]) -> str:
    """The places that a row may hold, such as ``1`` or ``2–4``."""
    best, worst = rank
    return str(best) if best == worst else f"{best}{EN_RULE}{worst}"


def metric_column(metric: str) -> Column:
    """The column of one metric."""
    return Column(
        metric, title=metric.upper(), is_metric=True, cell=lambda t, r: _figure(t, r, metric)
    )


def _figure(table: Table, row: Row, metric: str) -> Cell:
    figure = row.figures.get(metric)
    if figure is None:
        return Cell(EM_RULE)
    signs = spread = ""
    if metric == table.primary:
        signs = "".join(sign for name, sign in SIGNS.items() if name in row.signs)
        if table.with_intervals and figure.ci95 is not None and row.seeds:
            spread = f"{(figure.ci95[1] - figure.ci95[0]) / 2:.4f}"
    return Cell(figure.shown, row.marks.get(metric), signs, figure.mean, spread)


def _name(table: Table, row: Row) -> Cell:
    return Cell(row.label, signs="".join(s for flag, s in FLAGS.items() if flag in row.flags))


def _interval(table: Table, row: Row) -> Cell:
    figure = row.figures.get(table.primary)
    if figure is None or figure.ci95 is None or not row.seeds:
        return Cell(EN_RULE)
    return Cell(f"[{figure.ci95[0]:.4f}, {figure.ci95[1]:.4f}]")


def _several_profiles(table: Table) -> bool:
    return len({row.profile for row in table.rows if row.profile}) > 1


def _cost(key: str, title: str, csv: str, value: Callable[[Row], float | None]) -> Column:
    return Column(
        key,
        value,
        title,
        text=lambda cost: f"{cost:,.0f}" if cost >= 10 else f"{cost:.1f}",
        when=lambda table: table.with_costs,
        csv=(csv,),
    )


METRICS = Column("metrics", title="metrics", csv=())
"""Stands for the columns of the metrics, which every table has others of."""

_MEASURED: tuple[Kind, ...] = ("main", "other-users")

COLUMNS: tuple[Column, ...] = (
    Column(
        "family",
        lambda row: row.family,
        "Family",
        text=family_title,
        is_text=True,
        per_target=False,
    ),
    Column("method", lambda row: row.method, "Method", cell=_name, is_text=True, per_target=False),
    Column("label", lambda row: row.label),
    Column(
        "profile",
        lambda row: row.profile,
        "Profile",
        absent="",
        when=_several_profiles,
        page=Page("Profile"),
        is_text=True,
        per_target=False,
    ),
    Column(
        "seeds",
        lambda row: row.seeds,
        "S",
        text=lambda seeds: str(len(seeds)),
        absent=(),
        page=Page("Seeds", "number seeds", lambda table, row: len(row.seeds), kinds=_MEASURED),
        per_target=False,
    ),
    Column(
        "n_users",
        lambda row: row.n_users,
        "n",
        text=lambda n_users: f"{n_users:,}",
        absent=0,
        page=Page("Users", "number", lambda table, row: row.n_users, kinds=("other-users",)),
        per_target=False,
    ),
    METRICS,
    Column(
        "interval",
        title=lambda table: f"{table.primary.upper()} 95 % CI",
        when=lambda table: table.with_intervals,
        csv=(),
        in_json="never",
        cell=_interval,
        per_target=False,
    ),
    Column("signs", lambda row: row.signs),
    Column(
        "rank",
        lambda row: row.rank,
        "Rank",
        text=rank_text,
        when=lambda table: table.with_ranks,
        csv=("rank_best", "rank_worst"),
        page=Page(
            "Rank",
            "number rank",
            lambda table, row: sum(row.rank) if row.rank else len(table.rows) * 2 + 1,
            lambda table: (
                "best and worst place, given which differences in "
                f"{table.primary.upper()} are significant"
            ),
            _MEASURED,
        ),
    ),
    Column("seconds_fit", lambda row: row.seconds_fit),
    _cost("cost.own", "Own s", "seconds_own", lambda row: row.cost.own),
    _cost("cost.total", "Total s", "seconds_total", lambda row: row.cost.total),
    _cost("cost.memory_mb", "Peak MB", "peak_memory_mb", lambda row: row.cost.memory_mb),
    Column("flags", lambda row: row.flags),
    Column("run_ids", lambda row: row.run_ids),
    Column("provenance", lambda row: row.provenance),
    Column("config", lambda row: without_paths(dict(row.config)), csv=()),
    Column("sources", lambda row: row.sources, csv=()),
    Column("share_tied", lambda row: row.share_tied, csv=()),
    Column("tie_gap", lambda row: row.tie_gap, csv=()),
    Column("tie_metric", lambda row: row.tie_metric, csv=()),
    Column("share_valid", lambda row: row.share_valid, csv=(), in_json="present"),
    Column("budget_share", lambda row: row.budget_share, csv=(), in_json="present"),
)
"""Everything that a table says of a row, in the order of printed tables and of CSV."""
