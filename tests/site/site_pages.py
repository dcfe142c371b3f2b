"""Tables of stored runs as a site."""

from __future__ import annotations

from pathlib import Path

from bench.evaluation import METRICS
from bench.report.companion import report_of_table
from bench.report.leaderboard import DISPLAYED
from bench.report.site import Board, write_site
from bench.report.suite_table import build_targets


def site_of(runs, folder: Path, targets, **options) -> Path:
    """Write a site of all runs; returns the front page."""
    tables = build_targets(runs, targets, metrics=METRICS, ci=True, ranks=True, **options).tables
    boards = [Board(table, DISPLAYED, report_of_table(table, runs)) for table in tables]
    return write_site(boards, runs, folder)
