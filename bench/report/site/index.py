"""The front page: a table and a plot per target."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.report.columns import COLUMNS, METRICS, Column
from bench.report.companion import companions
from bench.report.costs import COSTS, cost_of
from bench.report.plain import count_text
from bench.report.site.markup import Child, Element, data_block, el
from bench.report.site.parts import (
    MISSING,
    NONE,
    Scale,
    Site,
    duration,
    family_class,
    family_name,
    family_of,
    frame,
    interval_bar,
    ordered,
)
from bench.report.table import FLAGS, SIGNS, Block, Kind, Row, Table

if TYPE_CHECKING:
    from bench.report.site.write import Board

__all__ = ["SCRIPTS", "index_page"]

SCRIPTS = (
    "vendor/dataTables.min.js",
    "vendor/d3.min.js",
    "vendor/plot.umd.min.js",
    "tips.js",
    "plots.js",
    "tables.js",
)

COST_COLUMN = "fit"
RANDOM = "random"
HASH_DIGITS = 10


def index_page(site: Site, boards: Sequence[Board]) -> Element:
    """The front page."""
    header = el(
        "header",
        el("h1", site.title),
        el("p", _summary(site, boards), class_="lead"),
        _targets(site, boards),
        class_="top",
    )
    main = el(
        "main",
        _controls(site),
        *(_section(site, board) for board in boards),
        id="main",
    )
    return frame(site, site.title, [header, main], scripts=SCRIPTS)


def _summary(site: Site, boards: Sequence[Board]) -> str:
    n_runs = len({i for board in boards for row in board.table.rows for i in row.run_ids})
    return (
        f"{count_text(len(site.methods), 'method')} on {count_text(len(boards), 'target domain')}, "
        f"{count_text(n_runs, 'stored run')}. Every figure is computed from per-user results; hover over "
        "a figure or focus it for its exact value, interval and origin."
    )


def _targets(site: Site, boards: Sequence[Board]) -> Element | None:
    if len(boards) == 1:
        return None
    names = [board.table.target for board in boards]
    links = [el("li", el("a", name, href=f"#{site.targets[name]}")) for name in names]
    return el("nav", el("ul", *links), aria_label="Targets")


def _controls(site: Site) -> Element:
    families = [
        el(
            "button",
            el("span", class_=f"dot {family_class(family)}"),
            family_name(family),
            type="button",
            aria_pressed="true",
            data_family=family,
            class_="chip",
        )
        for family in site.families
    ]
    return el(
        "div",
        el(
            "label",
            el("span", "Search", class_="label"),
            el("input", type="search", id="search", placeholder="Method", autocomplete="off"),
        ),
        el(
            "fieldset",
            el("legend", "Families", class_="label"),
            el("div", *families, class_="chips"),
        ),
        el("output", id="count", aria_live="polite"),
        class_="controls",
        role="search",
        hidden=True,
    )


def _section(site: Site, board: Board) -> Element:
    table = board.table
    anchor = site.targets[table.target]
    scale = Scale.of(table.rows, table.primary)
    tables: list[Child] = []
    for number, block in enumerate(table.blocks):
        drawn = _table(site, board, block, scale, f"{anchor}-table-{number}")
        if block.kind == "main":
            tables.append(drawn)
        else:
            count = count_text(len(block.rows), "row")
            summary = el("summary", block.title, el("span", f" · {count}", class_="soft"))
            tables.append(el("details", summary, drawn))
    downloads = [
        el("a", label, href=f"tables/{anchor}.{suffix}", download=True)
        for label, suffix in (("CSV", "csv"), ("JSON", "json"), ("Markdown", "md"))
    ]
    return el(
        "section",
        el("h2", el("a", table.target, href=f"#{anchor}", class_="anchor")),
        el("p", _facts(board), class_="facts"),
        *tables,
        el(
            "div",
            el("ul", *(el("li", line) for line in table.caption), class_="notes"),
            el("p", "Whole table: ", *_spaced(downloads), class_="downloads"),
            class_="caption",
        ),
        *_companions(board),
        _figure(site, board, anchor),
        id=anchor,
        class_="target",
        aria_label=table.target,
    )


def _companions(board: Board) -> list[Child]:
    """Full ranking and other draws of the candidates, folded."""
    report = board.robustness
    if report is None:
        return []
    parts: list[Child] = []
    for companion in companions(report):
        heads = [
            el("th", text, scope="col", class_="number" if place else "name")
            for place, text in enumerate(companion.headers)
        ]
        lines = [
            el(
                "tr",
                el("th", label, scope="row", class_="name"),
                *(el("td", text, class_="number") for text in cells),
            )
            for label, *cells in companion.rows
        ]
        parts += [
            el("h3", companion.title),
            el(
                "div",
                el("table", el("thead", el("tr", *heads)), el("tbody", *lines), class_="plain"),
                class_="scroll",
            ),
            el("ul", *(el("li", note) for note in companion.notes), class_="notes"),
        ]
    summary = el("summary", "Full ranking, and other draws of the candidates")
    return [el("details", summary, *parts, class_="companion")] if parts else []


def _spaced(elements: Sequence[Element]) -> list[Child]:
    found: list[Child] = []
    for element in elements:
        found += [element, " "]
    return found


def _facts(board: Board) -> str:
    protocol = board.table.protocol
    parts = [f"{protocol['n_users']:,} test users"]
    if protocol.get("n_items"):
        parts.append(f"{protocol['n_items']:,} items")
    count = protocol["n_candidates"]
    if isinstance(count, int):
        parts.append(f"{count:,} candidates per user")
    parts.append(f"task {board.table.task_hash[:HASH_DIGITS]}")
    return " · ".join(parts)


def _table(site: Site, board: Board, block: Block, scale: Scale, name: str) -> Element:
    table = board.table
    primary = table.primary
    before, after = _plain_columns(table, block.kind)
    measured = block.kind != "reported"
    heads = [
        el("th", "Method", scope="col", class_="name"),
        el("th", "Family", scope="col", class_="family"),
    ]
    heads += [_heading(table, column) for column in before]
    for metric in board.shown:
        classes = "number figure primary" if metric == primary else "number figure"
        heads.append(el("th", metric.upper(), scope="col", class_=classes))
    if measured:
        heads.append(
            el(
                "th",
                f"{primary.upper()}, 95 % CI",
                scope="col",
                class_="interval",
                title=f"from {scale.low:.4f} to {scale.high:.4f}",
            )
        )
    heads += [_heading(table, column) for column in after]
    if measured:
        heads.append(el("th", "Training", scope="col", class_="number cost"))
    body = [_row(site, board, row, scale, block.kind) for row in block.rows]
    return el(
        "div",
        el(
            "table",
            el("caption", f"{table.target} {block.title}".strip(), class_="hidden"),
            el("thead", el("tr", *heads)),
            el("tbody", *body),
            id=name,
            class_="board",
        ),
        class_="scroll",
    )


def _plain_columns(table: Table, kind: Kind) -> tuple[list[Column], list[Column]]:
    """The columns that are no more than a text, those before the figures and those behind."""
    place = COLUMNS.index(METRICS)
    before, after = (
        [c for c in part if c.page is not None and kind in c.page.kinds and c.when(table)]
        for part in (COLUMNS[:place], COLUMNS[place:])
    )
    return before, after


def _heading(table: Table, column: Column) -> Element:
    page = column.page
    assert page is not None  # noqa: S101 - see _plain_columns
    told = page.help(table) if page.help else None
    return el("th", page.title, scope="col", class_=page.css or None, title=told)


def _plain_cell(table: Table, row: Row, column: Column) -> Element:
    page = column.page
    assert page is not None  # noqa: S101 - see _plain_columns
    order = page.order(table, row) if page.order else None
    text = column.drawn(table, row).text
    return el("td", text, class_=page.css or None, data_order=order)


def _row(site: Site, board: Board, row: Row, scale: Scale, kind: Kind) -> Element:
    table = board.table
    before, after = _plain_columns(table, kind)
    signs = "".join(sign for flag, sign in FLAGS.items() if flag in row.flags)
    name: Element | str = row.label
    if row.run_ids:
        name = el("a", row.label, href=f"methods/{site.methods[row.method]}.html")
    cells = [
        el(
            "th",
            el("span", class_=f"dot {family_class(family_of(row))}"),
            name,
            el("sup", signs) if signs else None,
            scope="row",
            class_="name",
        ),
        el("td", family_name(family_of(row)), class_="family"),
    ]
    cells += [_plain_cell(table, row, column) for column in before]
    cells += [_cell(site, row, metric, primary=metric == table.primary) for metric in board.shown]
    if kind != "reported":
        cells.append(_bar_cell(board, row, scale))
    cells += [_plain_cell(table, row, column) for column in after]
    if kind == "reported":
        return el("tr", *cells, data_family=family_of(row))
    seconds = cost_of(row, site.runs, COSTS[COST_COLUMN])
    cells.append(el("td", duration(seconds), class_="number cost", data_order=ordered(seconds)))
    return el("tr", *cells, data_family=family_of(row))


def _cell(site: Site, row: Row, metric: str, *, primary: bool) -> Element:
    figure = row.figures.get(metric)
    classes = "number figure primary" if primary else "number figure"
    if figure is None:
        return el("td", MISSING, class_=classes, data_order=ordered(None))
    mark = row.marks.get(metric)
    shown: Child = figure.shown
    if mark is not None:
        shown = el("strong" if mark == "best" else "em", figure.shown, class_=mark)
    signs = "".join(SIGNS[sign] for sign in row.signs if sign in SIGNS) if primary else ""
    return el(
        "td",
        shown,
        el("sup", signs, class_="sign") if signs else None,
        class_=classes,
        data_order=ordered(figure.mean),
        data_tip="\n".join(tip_lines(site, row, metric)),
    )


def tip_lines(site: Site, row: Row, metric: str) -> list[str]:
    """What is told of a figure on hover and focus: exact value, interval, origin."""
    figure = row.figures[metric]
    lines = [f"{row.label}: {metric.upper()} {figure.mean!r}"]
    if figure.ci95 is not None and row.run_ids:
        lines.append(f"95 % CI {figure.ci95[0]:.6f} to {figure.ci95[1]:.6f}")
    if row.provenance:
        return [*lines, row.provenance]
    if not row.run_ids:
        return [*lines, f"n = {row.n_users:,} users", "Computed in closed form, not run"]
    seeds = ", ".join(map(str, row.seeds))
    lines.append(f"n = {row.n_users:,} users, {'seed' if len(row.seeds) == 1 else 'seeds'} {seeds}")
    lines.append(f"{'Run' if len(row.run_ids) == 1 else 'Runs'} {', '.join(row.run_ids)}")
    known = [site.runs[run_id].manifest for run_id in row.run_ids if run_id in site.runs]
    dates = sorted({str(m["finished"])[:10] for m in known if m.get("finished")})
    revisions = sorted({str(m["git_revision"])[:10] for m in known if m.get("git_revision")})
    if dates:
        lines.append(f"Finished {dates[0]}" + (f" to {dates[-1]}" if len(dates) > 1 else ""))
    if revisions:
        lines.append(f"Revision {', '.join(revisions)}")
    return lines


def _bar_cell(board: Board, row: Row, scale: Scale) -> Element:
    primary = board.table.primary
    figure = row.figures.get(primary)
    if figure is None or row.provenance:
        return el("td", NONE, class_="interval")
    return el(
        "td",
        interval_bar(figure, scale, row.family, _random_mean(board, primary)),
        class_="interval",
    )


def _random_mean(board: Board, metric: str) -> float | None:
    for row in board.table.rows:
        if row.method == RANDOM and not row.run_ids and metric in row.figures:
            return row.figures[metric].mean
    return None


def _figure(site: Site, board: Board, anchor: str) -> Element:
    """The plot of a metric against a cost, with its choices; drawn by the page's script."""
    table = board.table
    metrics = [el("option", m.upper(), value=m, selected=m == table.primary) for m in table.metrics]
    costs = [
        el("option", f"{cost.title} ({cost.unit})", value=key, selected=key == COST_COLUMN)
        for key, cost in COSTS.items()
    ]
    return el(
        "figure",
        el(
            "div",
            el(
                "label",
                el("span", "Metric", class_="label"),
                el("select", *metrics, class_="metric"),
            ),
            el("label", el("span", "Cost", class_="label"), el("select", *costs, class_="cost")),
            class_="choices",
        ),
        el("div", class_="canvas"),
        el("figcaption", class_="plot-note"),
        data_block("plot-data", _plot_data(site, board)),
        class_="plot",
        id=f"{anchor}-plot",
        aria_label=f"Metric against cost on {table.target}",
        hidden=True,
    )


def _plot_data(site: Site, board: Board) -> dict[str, Any]:
    rows = [
        {
            "label": row.label,
            "family": row.family,
            "familyClass": family_class(row.family),
            "href": f"methods/{site.methods[row.method]}.html",
            "figures": {
                metric: {"mean": figure.mean, "ci95": figure.ci95}
                for metric, figure in row.figures.items()
            },
            "costs": {key: cost_of(row, site.runs, cost) for key, cost in COSTS.items()},
        }
        for block in board.table.blocks
        if block.comparable
        for row in block.rows
        if row.run_ids
    ]
    return {
        "target": board.table.target,
        "rows": rows,
        "random": {metric: _random_mean(board, metric) for metric in board.table.metrics},
        "costs": {key: f"{cost.title} ({cost.unit}, log scale)" for key, cost in COSTS.items()},
    }
