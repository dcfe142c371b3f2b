"""Checks of reported figures: tables in files (ours or published), stored runs, suites.

``grids`` and ``latex`` cut text into cells, ``reading`` finds out what the cells mean (``figures``),
``checks`` judges the rows with :mod:`bench.evaluation.bounds`, ``sources`` finds what a name on the command line means.
"""

from bench.report.lint.checks import Finding, LintOptions, LintReport, lint_rows
from bench.report.lint.figures import Cell, ReportedRow, ReportedTable
from bench.report.lint.reading import read_table
from bench.report.lint.sources import lint, lint_runs, reported_path

__all__ = [
    "Cell",
    "Finding",
    "LintOptions",
    "LintReport",
    "ReportedRow",
    "ReportedTable",
    "lint",
    "lint_rows",
    "lint_runs",
    "read_table",
    "reported_path",
]
