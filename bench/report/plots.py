"""The site's figures as files: a metric against a cost, and means with their intervals.

Needs matplotlib (extra ``plot``), which is imported where a figure is drawn.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, require_packages
from bench.io import write_bytes
from bench.report.costs import COSTS, Point, points
from bench.report.table import FAMILIES, Table

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["FORMATS", "cost_figure", "figure_format", "interval_figure", "write_figure"]

FORMATS = ("png", "svg", "pdf")

# Those of the site in its light colours; a test compares them.
_COLOURS = {
    "reference": "#5f6b78",
    "single-domain": "#0b63a8",
    "cross-domain": "#00745a",
    "llm": "#a8480a",
    "merging": "#83378c",
    "ablation": "#6d6000",
    "weaverec": "#b3204f",
}
_OTHER = "#3d4650"
_INK, _SOFT, _LINE = "#1b1f24", "#55606c", "#dfe4e9"
_LEAST = 1e-3
"""A training that takes no measurable time still has a place on a logarithmic axis."""

_STYLE: Any = {
    "font.size": 9,
    "axes.edgecolor": _SOFT,
    "axes.labelcolor": _SOFT,
    "xtick.color": _SOFT,
    "ytick.color": _SOFT,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.dpi": 100,
    "savefig.dpi": 200,
    # Names of methods come from anywhere: a dollar sign is a dollar sign.
    "text.parse_math": False,
    "text.usetex": False,
    "svg.hashsalt": "weavebench",
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
}


def cost_figure(table: Table, runs: Sequence[StoredRun], metric: str, cost: str) -> Any:
    """A metric against a cost on a logarithmic axis, with 95 % intervals if the table has them.

    Args:
        table: the table of a target; rows of its main block that have runs are drawn.
        runs: the runs behind it.
        metric: one of the table's metrics.
        cost: key of :data:`bench.report.costs.COSTS`.

    Returns:
        A matplotlib figure, for :func:`write_figure`.

    Raises:
        ConfigError: an unknown cost, a metric that the table lacks, or no row with that cost.
        MissingExtraError: matplotlib is not installed.
    """
    _check_metric(table, metric)
    drawn = [
        point
        for point in points(table, runs, cost)
        if point.cost is not None and metric in point.row.figures
    ]
    if not drawn:
        raise ConfigError(
            f"no row of {table.target} has runs that record the cost {cost!r}; kinds of cost: "
            f"{', '.join(COSTS)}."
        )
    with _style():
        figure, axes = _figure(6.4, 3.8)
        places = []
        for point in drawn:
            x, colour = max(point.cost or 0.0, _LEAST), _colour(point.row.family)
            value = point.row.figures[metric]
            if value.ci95 is not None:
                axes.vlines(x, *value.ci95, color=colour, alpha=0.65, linewidth=1.5)
            axes.plot(x, value.mean, "o", color=colour, markersize=5)
            places.append((x, value.mean))
        axes.set_xscale("log")
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:,.10g}")
        axes.xaxis.set_minor_formatter(lambda *_: "")
        axes.grid(axis="y", color=_LINE)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{COSTS[cost].title} ({COSTS[cost].unit}, log scale)")
        axes.set_ylabel(metric.upper())
        axes.margins(x=0.12, y=0.12)
        axes.set_title(table.target, loc="left", color=_INK, fontweight="bold")
        _draw_random(axes, table, metric)
        _legend(axes, [point.row.family for point in drawn])
        _label(figure, axes, drawn, places)
    return figure


def interval_figure(table: Table, metric: str) -> Any:
    """Means with 95 % intervals, one line per row of the main block, in the table's order.

    Raises:
        ConfigError: a metric that the table lacks, or no row with a figure.
        MissingExtraError: matplotlib is not installed.
    """
    _check_metric(table, metric)
    rows = [
        row
        for block in table.blocks
        if block.comparable
        for row in block.rows
        if row.run_ids and metric in row.figures
    ]
    if not rows:
        raise ConfigError(f"no row of {table.target} has runs with {metric}.")
    with _style():
        figure, axes = _figure(6.4, 1.1 + 0.28 * len(rows))
        for line, row in enumerate(rows):
            value, colour = row.figures[metric], _colour(row.family)
            if value.ci95 is not None:
                axes.hlines(line, *value.ci95, color=colour, alpha=0.65, linewidth=3)
            axes.plot(value.mean, line, "o", color=colour, markersize=4)
        axes.set_yticks(range(len(rows)), [row.label for row in rows], color=_INK)
        axes.invert_yaxis()
        axes.grid(axis="x", color=_LINE)
        axes.set_axisbelow(True)
        axes.set_xlabel(f"{metric.upper()}, 95 % interval")
        axes.set_title(table.target, loc="left", color=_INK, fontweight="bold")
        _legend(axes, [row.family for row in rows])
    return figure


def figure_format(path: Path) -> str:
    """The format that a file's suffix asks for.

    Raises:
        ConfigError: none of :data:`FORMATS`.
    """
    kind = path.suffix.lower().lstrip(".")
    if kind not in FORMATS:
        raise ConfigError(
            f"{path}: unknown kind of figure; expected a file name that ends with "
            f"{', '.join('.' + name for name in FORMATS)}."
        )
    return kind


def write_figure(figure: Any, path: Path) -> None:
    """Write a figure atomically as PNG, SVG or PDF, by the file's suffix, without a date.

    Raises:
        ConfigError: another suffix.
    """
    kind = figure_format(path)
    # A date would make every figure another file.
    undated: dict[str, dict[str, Any]] = {
        "png": {"Software": None},
        "svg": {"Date": None},
        "pdf": {"CreationDate": None},
    }
    stream = io.BytesIO()
    with _style():
        figure.savefig(stream, format=kind, metadata=undated[kind])
    write_bytes(path, stream.getvalue())


def _style() -> Any:
    require_packages("figures", "matplotlib")
    import matplotlib

    return matplotlib.rc_context(_STYLE)


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # Without pyplot: no global state, and no window system is asked for.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots()


def _check_metric(table: Table, metric: str) -> None:
    if metric not in table.metrics:
        raise ConfigError(
            f"unknown metric {metric!r}; expected one of: {', '.join(table.metrics)}."
        )


def _colour(family: str) -> str:
    return _COLOURS.get(family, _OTHER)


def _draw_random(axes: Any, table: Table, metric: str) -> None:
    for row in table.rows:
        if row.method == "random" and not row.run_ids and metric in row.figures:
            level = row.figures[metric].mean
            axes.axhline(level, color=_SOFT, linestyle=(0, (4, 4)), linewidth=1)
            axes.annotate(
                "random",
                (1, level),
                xycoords=("axes fraction", "data"),
                xytext=(0, 3),
                textcoords="offset points",
                ha="right",
                color=_SOFT,
            )
            return


def _legend(axes: Any, families: Sequence[str]) -> None:
    shown = dict.fromkeys(families)
    if len(shown) < 2:
        return
    from matplotlib.lines import Line2D

    handles = [
        Line2D([], [], marker="o", linestyle="", markersize=5, color=_colour(family))
        for family in shown
    ]
    names = [FAMILIES.get(family, family) for family in shown]
    axes.legend(handles, names, loc="lower right", bbox_to_anchor=(1, 1), ncols=4, frameon=False)


_OFFSETS = (
    *((6, 0, "left", "center"), (-6, 0, "right", "center")),
    *((0, 6, "center", "bottom"), (0, -6, "center", "top")),
    *((6, 8, "left", "bottom"), (6, -8, "left", "top")),
    *((-6, 8, "right", "bottom"), (-6, -8, "right", "top")),
)


def _label(
    figure: Any, axes: Any, drawn: Sequence[Point], places: Sequence[tuple[float, float]]
) -> None:
    """Names beside their points, at the first place where they cover no point and no other name."""
    from matplotlib.transforms import Bbox

    figure.canvas.draw()
    renderer = figure.canvas.get_renderer()
    centers = axes.transData.transform(places)
    taken = [Bbox.from_bounds(x - 4, y - 4, 8, 8) for x, y in centers]
    frame = axes.get_window_extent(renderer)
    for point, place in zip(drawn, places, strict=True):
        for x, y, horizontal, vertical in _OFFSETS:
            text = axes.annotate(
                point.row.label,
                place,
                xytext=(x, y),
                textcoords="offset points",
                ha=horizontal,
                va=vertical,
                color=_INK,
                fontsize=8,
            )
            box = text.get_window_extent(renderer)
            inside = frame.x0 <= box.x0 and box.x1 <= frame.x1
            if inside and not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()
