"""What a name on the command line means: a file, a run, a folder of runs, quoted figures, a suite."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ConfigError, DataError, ResultError, unknown_name
from bench.evaluation import metric_means, tie_report
from bench.report.lint.checks import Finding, LintOptions, LintReport, lint_rows
from bench.report.lint.figures import STORED_UNIT, Cell, ReportedRow, ReportedTable
from bench.report.lint.reading import read_table
from bench.report.reported import publications
from bench.runs.store import Damage, RunStore
from bench.runs.stored import MANIFEST, read_run
from bench.suites import Suite, load_suite, suite_names

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = ["lint", "lint_runs", "reported_path"]

REPORTED = Path(__file__).resolve().parents[2] / "suites" / "reported"
"""Figures quoted from publications, one CSV file each, with their source in its first lines."""

DEFAULTS = LintOptions()


def reported_path(name: str) -> Path:
    """The CSV file with the figures of a publication.

    Raises:
        ConfigError: no publication of this name.
    """
    if name not in publications():
        raise unknown_name("publication", name, publications())
    return REPORTED / f"{name}.csv"


def lint(
    name: str,
    store: RunStore,
    options: LintOptions = DEFAULTS,
    *,
    percent: bool = False,
) -> tuple[LintReport, ...]:
    """Check what ``name`` means.

    Args:
        name: a file with tables; the folder of a run, or of many; the name of quoted figures; a suite
            (also as a YAML file); or a run of ``store`` by id, first digits or folder name.
        store: where runs are looked up.
        options: what the user knows beyond the table.
        percent: figures in files are percentages.

    Returns:
        One report; of a suite one for the figures it quotes and one for its stored runs.

    Raises:
        ConfigError: nothing of this name.
        DataError: a file without a table, or that is not text.
        ResultError: a damaged run, or a folder without runs.
    """
    path = Path(name)
    if name in suite_names() or (path.is_file() and path.suffix in {".yaml", ".yml"}):
        return _lint_suite(load_suite(name), store, options)
    if path.is_file():
        return (lint_rows(_read_file(path, percent), options),)
    if (path / MANIFEST).is_file():
        return (lint_runs([read_run(path)], name, options),)
    if path.is_dir():
        return (_lint_folder(path, options),)
    if name in publications():
        return (lint_rows(_read_publication(name), options),)
    try:
        run = store.get(name)
    except ResultError as error:
        if "no run" not in str(error):
            raise
        raise ConfigError(
            f"{name!r} is neither a file, nor a folder of runs, nor a suite "
            f"({', '.join(suite_names())}), nor quoted figures ({', '.join(publications())}), nor a "
            f"run: {error}"
        ) from error
    return (lint_runs([run], f"run {run.run_id}", options),)


def _lint_suite(suite: Suite, store: RunStore, options: LintOptions) -> tuple[LintReport, ...]:
    """Quoted figures and stored runs of all targets of a suite, at whatever scale."""
    targets = {target for scale in suite.scales.values() for target in scale.targets}
    reports = []
    if suite.reported is not None:
        table = _read_publication(suite.reported)
        rows = tuple(row for row in table.rows if row.target in targets)
        if rows:
            quoted = replace(table, source=f"suite {suite.name}: {table.source}", rows=rows)
            reports.append(lint_rows(quoted, options))
    damaged: list[Damage] = []
    runs = [run for run in store.list(damaged=damaged) if run.target in targets]
    source = f"suite {suite.name}: runs in {store.root}"
    reports.append(lint_runs(runs, source, options, damaged))
    return tuple(reports)


def lint_runs(
    runs: Sequence[StoredRun],
    source: str,
    options: LintOptions = DEFAULTS,
    damaged: Sequence[Damage] = (),
) -> LintReport:
    """Check stored means: against the outcomes they were made of, and as a table.

    Args:
        runs: runs that could be read.
        source: name in messages.
        options: what the user knows beyond the runs.
        damaged: runs that could not be read; each is an inconsistency.

    Raises:
        ResultError: outcomes of a run are damaged.
    """
    findings: list[Finding] = []
    rows = []
    for run in runs:
        row, found = _stored_row(run)
        rows.append(row)
        findings += found
    findings += [
        Finding("inconsistent", "stored", "", str(d.path), 0, (), d.reason) for d in damaged
    ]
    report = lint_rows(ReportedTable(source, tuple(rows)), options)
    return LintReport(
        source,
        report.n_rows,
        report.n_figures,
        report.n_grim,
        (*findings, *report.findings),
        report.notes if len(rows) > 1 else (),
    )


def _read_publication(name: str) -> ReportedTable:
    return replace(_read_file(reported_path(name), percent=False), source=f"{name}.csv")


def _read_file(path: Path, percent: bool) -> ReportedTable:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path}: byte {error.start} is not UTF-8. Expected a CSV, Markdown or LaTeX table as "
            "UTF-8 text; convert the file first."
        ) from error
    return read_table(text, str(path), suffix=path.suffix, percent=percent)


def _lint_folder(path: Path, options: LintOptions) -> LintReport:
    damaged: list[Damage] = []
    runs = RunStore(path).list(damaged=damaged)
    if not runs and not damaged:
        raise ResultError(
            f"{path} holds no runs. Expected a store, a folder of committed results, or a run's folder."
        )
    return lint_runs(runs, str(path), options, damaged)


def _stored_row(run: StoredRun) -> tuple[ReportedRow, list[Finding]]:
    outcomes = run.outcomes()
    label = f"{run.shown_name} seed {run.seed} ({run.run_id[:8]})"
    stored = {name: float(entry["mean"]) for name, entry in run.metrics["metrics"].items()}
    computed = metric_means(outcomes, list(stored))
    findings = [
        Finding(
            "inconsistent",
            "stored",
            run.target,
            label,
            0,
            (name,),
            f"{name.upper()} is stored as {value!r}, its outcomes give {computed[name]!r}",
        )
        for name, value in stored.items()
        if not math.isclose(value, computed[name], rel_tol=0, abs_tol=STORED_UNIT)
    ]
    sizes = set(outcomes.n_candidates.tolist())
    # A list that answers in slots has one rank per user, whatever its scores tie.
    tied = 0.0 if outcomes.rank_keep is not None else tie_report(outcomes).share_tied
    row = ReportedRow(
        run.target,
        label,
        0,
        {name: Cell(value, STORED_UNIT, f"{value:.6f}") for name, value in stored.items()},
        n_users=run.n_users,
        n_seeds=1,
        share_tied=tied,
        n_candidates=sizes.pop() if len(sizes) == 1 else None,
    )
    return row, findings
