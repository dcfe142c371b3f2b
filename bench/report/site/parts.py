"""What the pages share: the frame, formats, the bar of an interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench import __version__
from bench.report.markup import Element, el
from bench.report.table import FAMILIES, Figure, Row

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = [
    "MISSING",
    "NONE",
    "Scale",
    "Site",
    "family_class",
    "family_name",
    "family_of",
    "family_order",
    "frame",
    "interval_bar",
    "ordered",
    "short_time",
]

NONE = "–"
"""What stands where a cell does not apply."""

MISSING = "—"
"""What stands where a figure is missing; the notes under the table say why."""

# The plot library writes one fixed style element; its hash lets that one through and no other. The
# browser's console names the hash of a style that it refuses, should the library change it.
PLOT_STYLE = "sha256-+TfQir1nvDucAdvE6XUQBt4ayUjpAWkbw2kCdSfekHM="
POLICY = (
    "default-src 'none'; script-src 'self' file:; "
    f"style-src 'self' file: '{PLOT_STYLE}'; img-src 'self' file: data:; "
    "base-uri 'none'; form-action 'none'"
)
"""Only the site's own files; ``file:`` is what 'self' means for a page opened from a disk."""

_OTHER_ROWS = {"missing": "No stored run", "reported": "As reported"}

BAR_WIDTH, BAR_HEIGHT, BAR_PAD = 160, 18, 4


@dataclass(frozen=True, slots=True)
class Site:
    """What all pages of a site know.

    Attributes:
        title: heading of the front page.
        command: what made the site.
        targets: anchors of the targets.
        methods: file names of the methods' pages, without suffix.
        families: families on the site, in the order of the filter.
        runs: the stored runs, by id.
    """

    title: str
    command: str
    targets: Mapping[str, str]
    methods: Mapping[str, str]
    families: tuple[str, ...]
    runs: Mapping[str, StoredRun]


def frame(
    site: Site, title: str, main: Sequence[Element], *, root: str = "", scripts: Sequence[str]
) -> Element:
    """A whole page.

    Args:
        site: the site.
        title: title of the window.
        main: content.
        root: relative path to the site's root, "" or ending with a slash.
        scripts: the site's scripts, paths below ``assets``.
    """
    head = el(
        "head",
        el("meta", charset="utf-8"),
        el("meta", http_equiv="Content-Security-Policy", content=POLICY),
        el("meta", name="viewport", content="width=device-width, initial-scale=1"),
        el("meta", name="color-scheme", content="light dark"),
        el("meta", name="referrer", content="no-referrer"),
        el("title", title),
        el("link", rel="icon", href=f"{root}assets/icon.svg"),
        el("link", rel="stylesheet", href=f"{root}assets/site.css"),
        *(el("script", src=f"{root}assets/{name}", defer=True) for name in scripts),
    )
    footer = el(
        "footer",
        el("p", "Made by ", el("code", site.command), f" with weavebench {__version__}."),
        el(
            "p",
            "Tables: ",
            el("a", "DataTables", href=f"{root}assets/vendor/LICENSE-datatables.txt"),
            " (MIT). Plots: ",
            el("a", "Observable Plot", href=f"{root}assets/vendor/LICENSE-plot.txt"),
            " and ",
            el("a", "D3", href=f"{root}assets/vendor/LICENSE-d3.txt"),
            " (ISC).",
        ),
    )
    body = el("body", el("a", "Skip to the content", href="#main", class_="skip"), *main, footer)
    return el("html", head, body, lang="en")


def family_class(family: str) -> str:
    """Class that carries a family's colour; families unknown to this version share one."""
    return f"family-{family}" if family in FAMILIES else "family-other"


def family_name(family: str) -> str:
    """A family as displayed."""
    return {**FAMILIES, **_OTHER_ROWS}.get(family, family)


def family_of(row: Row) -> str:
    """A row's family; quoted rows, which have none, are a family of their own."""
    return "reported" if row.provenance else row.family


def short_time(seconds: float | None) -> str:
    """Seconds for people."""
    if seconds is None:
        return NONE
    if seconds < 0.001:
        return "< 1 ms"
    if seconds < 0.1:
        return f"{1000 * seconds:.0f} ms"
    if seconds < 99.5:
        return f"{seconds:.1f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def ordered(value: float | None) -> str:
    """A number as a sorting key that no locale touches; nothing sorts below every figure."""
    return "-1" if value is None else repr(float(value))


def family_order(family: str) -> tuple[bool, int, str]:
    """Sorting key: the paper's order, unknown families, then rows without stored runs."""
    known = list(FAMILIES)
    place = known.index(family) if family in known else len(known)
    return (family in _OTHER_ROWS, place, family)


@dataclass(frozen=True, slots=True)
class Scale:
    """The common axis of the bars of a table."""

    low: float
    high: float

    @classmethod
    def of(cls, rows: Sequence[Row], metric: str) -> Scale:
        """An axis that holds every measured interval of ``metric``."""
        ends: list[float] = []
        for row in rows:
            figure = row.figures.get(metric)
            if figure is not None and not row.provenance:
                ends += [figure.mean, *(figure.ci95 or ())]
        low, high = min(ends, default=0.0), max(ends, default=1.0)
        return cls(low, high if high > low else low + 1e-4)

    def x(self, value: float) -> float:
        """Horizontal position in the bar's units."""
        share = (value - self.low) / (self.high - self.low)
        return round(BAR_PAD + share * (BAR_WIDTH - 2 * BAR_PAD), 2)


def interval_bar(figure: Figure, scale: Scale, family: str, reference: float | None) -> Element:
    """Mean and interval as a dot on a band; a tick where a scorer that knows nothing stands."""
    middle = BAR_HEIGHT / 2
    low, high = figure.ci95 or (figure.mean, figure.mean)
    parts = [el("line", x1=0, x2=BAR_WIDTH, y1=middle, y2=middle, class_="track")]
    if reference is not None:
        x = scale.x(reference)
        parts.append(el("line", x1=x, x2=x, y1=2, y2=BAR_HEIGHT - 2, class_="reference"))
    width = round(max(scale.x(high) - scale.x(low), 0.5), 2)
    parts += [
        el("rect", x=scale.x(low), y=middle - 5, width=width, height=10, class_="interval"),
        el("circle", cx=scale.x(figure.mean), cy=middle, r=2.5),
    ]
    return el(
        "svg",
        *parts,
        class_=f"bar {family_class(family)}",
        viewBox=f"0 0 {BAR_WIDTH} {BAR_HEIGHT}",
        width=BAR_WIDTH,
        height=BAR_HEIGHT,
        role="img",
        aria_label=f"{figure.mean:.4f}, from {low:.4f} to {high:.4f}",
    )
