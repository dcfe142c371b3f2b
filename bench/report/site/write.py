"""The site's files: pages, downloads, and the bundled scripts."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError
from bench.io import atomic_folder, write_text
from bench.report.costs import runs_by_id
from bench.report.markup import document, slugs
from bench.report.robustness import RobustnessReport
from bench.report.site.index import index_page
from bench.report.site.method import method_page
from bench.report.site.parts import Site, family_of, family_order
from bench.report.table import Table
from bench.report.writers import to_csv, to_json, to_markdown

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["Board", "write_site"]

MARKER = "weavebench-site.txt"
"""Tells a folder that holds a site from one that holds something else."""

_MARKER_TEXT = (
    "Made by `bench leaderboard --format html`; do not edit. The next call replaces it.\n"
)


@dataclass(frozen=True, slots=True)
class Board:
    """A table of the site.

    Attributes:
        table: the table, with intervals; metrics beyond ``shown`` stand on the methods' pages.
        shown: metrics that are columns of the front page.
        robustness: how far the table depends on its candidates; None = not shown.
    """

    table: Table
    shown: tuple[str, ...]
    robustness: RobustnessReport | None = None


def write_site(
    boards: Sequence[Board],
    runs: Sequence[StoredRun],
    folder: Path,
    *,
    title: str = "Leaderboards",
    command: str = "bench leaderboard --format html",
) -> Path:
    """Write a site that works from a file and from any host.

    The same tables and runs always give the same bytes. The folder is written aside and renamed when
    it is complete; one that exists is replaced only if it is empty or holds such a site.

    Args:
        boards: one or more tables, in the order of the page; their targets must differ.
        runs: the runs behind the tables, for costs and provenance.
        folder: where to write.
        title: heading of the front page.
        command: what is named as the maker of the pages.

    Returns:
        The path of the front page.

    Raises:
        ConfigError: no tables, two of one target, or a folder that holds something else.
    """
    targets = [board.table.target for board in boards]
    if not targets or len(set(targets)) != len(targets):
        raise ConfigError(
            f"a site needs tables of one or more distinct targets; found: {targets or 'none'}."
        )
    if folder.exists() and not _replaceable(folder):
        raise ConfigError(
            f"{folder} exists and does not hold a site of this program; name another folder "
            "with --out, or remove it first."
        )
    rows = [row for board in boards for row in board.table.rows]
    site = Site(
        title=title,
        command=command,
        targets=slugs(targets),
        methods=slugs(row.method for row in rows if row.run_ids),
        families=tuple(sorted({family_of(row) for row in rows}, key=family_order)),
        runs=runs_by_id(runs),
    )
    with atomic_folder(folder, replace=True) as partial:
        write_text(partial / "index.html", document(index_page(site, boards)))
        (partial / "methods").mkdir()
        for method, slug in site.methods.items():
            page = document(method_page(site, boards, method))
            write_text(partial / "methods" / f"{slug}.html", page)
        (partial / "tables").mkdir()
        for board in boards:
            stem = partial / "tables" / site.targets[board.table.target]
            for suffix, writer in ((".csv", to_csv), (".json", to_json), (".md", to_markdown)):
                write_text(stem.with_name(stem.name + suffix), writer(board.table))
        with resources.as_file(resources.files("bench.report.site") / "assets") as assets:
            shutil.copytree(assets, partial / "assets")
        write_text(partial / MARKER, _MARKER_TEXT)
    return folder / "index.html"


def _replaceable(folder: Path) -> bool:
    return folder.is_dir() and ((folder / MARKER).is_file() or not any(folder.iterdir()))
