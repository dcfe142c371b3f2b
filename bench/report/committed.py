"""Committed results to the files that are generated from them; the same results give the same bytes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from bench.errors import ResultError
from bench.io import write_bytes
from bench.report.companion import companion_page, companion_reading, report_of_table
from bench.report.leaderboard import draft_table, finish, to_csv, to_json, to_latex, to_markdown
from bench.report.missing import missing_section
from bench.report.options import TableOptions
from bench.report.reading import index_page, subset_reading, subset_stem
from bench.report.reported import load_publication, publications
from bench.report.robustness import RobustnessReport
from bench.report.significance import Draft
from bench.report.table import Table
from bench.report.transfer_page import transfer_reading, transfer_reports
from bench.runs.store import RunStore
from bench.runs.stored import StoredRun, slug
from bench.suites import load_suite

__all__ = ["COMMAND", "differences", "render", "write"]

COMMAND = "make leaderboards"
INDEX, ROBUSTNESS = "README.md", "robustness.md"
SUITE = "reference"
"""What the committed results should hold."""

_SUFFIXES = (".md", ".tex", ".csv", ".json")


def render(results: Path) -> dict[str, bytes]:
    """The content of every generated file, by its name.

    Each target has a table of the standard protocol with intervals, costs and quoted rows, and one more
    for every subset of users that runs were limited to. The stars of all tables over all users are one
    family of tests, those of all tables over subsets of one size another.

    Args:
        results: folder of committed results.

    Raises:
        ResultError: no results, or a damaged one.
    """
    runs = RunStore(results).list()
    if not runs:
        raise ResultError(f"no results below {results}; `bench runs export --publish` writes them.")
    drafts = [_draft(runs, target) for target in sorted({run.target for run in runs})]
    tables = finish(drafts, None, COMMAND)
    drafts = [replace(d, table=table) for d, table in zip(drafts, tables, strict=True)]
    reports = _robustness(runs, tables)
    files: dict[str, str] = {INDEX: index_page(drafts, COMMAND)}
    if reports:
        files[ROBUSTNESS] = companion_page(reports, COMMAND)
        files[INDEX] += companion_reading(reports, ROBUSTNESS)
    subsets = _subsets(runs)
    files[INDEX] += subset_reading(subsets)
    files[INDEX] += transfer_reading(transfer_reports(runs, _limited(runs)))
    files[INDEX] += missing_section(drafts, load_suite(SUITE))
    named = {slug(table.target): table for table in tables}
    named |= {subset_stem(draft.table): draft.table for draft in subsets}
    for stem, table in named.items():
        files[f"{stem}.md"] = to_markdown(table)
        files[f"{stem}.tex"] = to_latex(table)
        files[f"{stem}.csv"] = to_csv(table)
        files[f"{stem}.json"] = to_json(table)
    return {name: text.encode() for name, text in sorted(files.items())}


def _subsets(runs: Sequence[StoredRun]) -> list[Draft]:
    """A table for every subset of users that runs were limited to; tables of one size are a family."""
    limited = _limited(runs)
    done: list[Draft] = []
    for size in sorted({size for size, _ in limited}):
        drafts = [_draft(runs, target, size) for of, target in sorted(limited) if of == size]
        tables = finish(drafts, None, COMMAND)
        done += [replace(d, table=table) for d, table in zip(drafts, tables, strict=True)]
    return done


def _limited(runs: Sequence[StoredRun]) -> set[tuple[int, str]]:
    """Number of users and target of every subset that runs were limited to."""
    return {(r.n_users, r.target) for r in runs if r.n_users < r.manifest["task"]["n_users"]}


def _draft(runs: Sequence[StoredRun], target: str, users: int | None = None) -> Draft:
    found = [load_publication(name) for name in publications()]
    quoted = next((p for p in found if any(of == target for of, _, _ in p.rows)), None)
    return draft_table(
        runs, target, TableOptions(ci=True, costs=True, ranks=True, publication=quoted, users=users)
    )


def _robustness(runs: Sequence[StoredRun], tables: Sequence[Table]) -> dict[str, RobustnessReport]:
    """The reports of the targets that have runs on further request sets."""
    found = {table.target: report_of_table(table, runs) for table in tables}
    return {target: report for target, report in found.items() if report is not None}


def differences(files: Mapping[str, bytes], out: Path) -> list[str]:
    """How the generated files in ``out`` differ from ``files``, one line each; empty = not at all."""
    found = []
    for name, content in files.items():
        path = out / name
        if not path.is_file():
            found.append(f"{path}: missing")
        elif path.read_bytes() != content:
            found.append(f"{path}: {_first_difference(path.read_bytes(), content)}")
    stale = sorted(
        p for p in out.glob("*") if p.is_file() and p.suffix in _SUFFIXES and p.name not in files
    )
    return found + [f"{path}: no result gives this file; remove it" for path in stale]


def _first_difference(found: bytes, expected: bytes) -> str:
    left, right = found.splitlines(), expected.splitlines()
    for number, (a, b) in enumerate(zip(left, right, strict=False), start=1):
        if a != b:
            return (
                f"line {number} is {a[:100].decode(errors='replace')!r}, the results give "
                f"{b[:100].decode(errors='replace')!r}"
            )
    return f"{len(left)} lines, the results give {len(right)}"


def write(files: Mapping[str, bytes], out: Path) -> list[Path]:
    """Write the files that differ, atomically; return their paths."""
    changed = []
    for name, content in files.items():
        path = out / name
        if not path.is_file() or path.read_bytes() != content:
            write_bytes(path, content)
            changed.append(path)
    return changed
