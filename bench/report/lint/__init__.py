"""Checks of reported figures: tables in files (ours or published), stored runs, suites.

``grids`` and ``latex`` cut text into cells, ``reading`` finds out what the cells mean, ``checks`` judges
the rows with :mod:`bench.evaluation.bounds`, ``sources`` finds what a name on the command line means.
"""

from bench.report.lint.checks import Finding, LintOptions, LintReport, lint_rows
from bench.report.lint.reading import Cell, ReportedRow, ReportedTable, read_table
from bench.report.lint.sources import lint, reported_names, reported_path

__all__ = [
    "Cell",
    "Finding",
    "LintOptions",
    "LintReport",
    "ReportedRow",
    "ReportedTable",
    "lint",
    "lint_rows",
    "read_table",
    "reported_names",
    "reported_path",
]
