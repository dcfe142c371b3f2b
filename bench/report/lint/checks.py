"""Judge reported rows: possible together, whole numbers of users, above and at the random row."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from bench.evaluation import random_row
from bench.evaluation.bounds import (
    Conflict,
    Reported,
    explain,
    grim_applies,
    grim_consistent,
    random_tolerance,
)
from bench.report.lint.figures import ReportedRow, ReportedTable

__all__ = ["Finding", "LintOptions", "LintReport", "lint_rows"]

DEFAULT_CANDIDATES = 30
_HIT_AT_1 = ("hr@1", "ndcg@1", "mrr@1")
_SHOWN_RANDOM = ("ndcg@1", "ndcg@3", "ndcg@5", "mrr@5")

Severity = Literal["inconsistent", "warning"]


@dataclass(frozen=True, slots=True)
class LintOptions:
    """What the user knows beyond the table.

    Attributes:
        n_candidates: candidates per user; None = what the table says, else 30.
        n_users: users that every row averages over, one run each and without ties (GRIM); None = what
            the table says.
        slack: how far a figure may lie from the true average; None = one unit in its last place
            (rounded or cut).
    """

    n_candidates: int | None = None
    n_users: int | None = None
    slack: float | None = None


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong, or that a reader should know.

    Attributes:
        severity: ``inconsistent`` cannot be; ``warning`` should be looked at.
        check: ``bounds``, ``grim``, ``random``, ``below-random``, ``unread``, ``stored``.
        target: of the row.
        method: of the row.
        line: 1-based line of the file; 0 = not from a file.
        metrics: the figures concerned.
        message: what was found and what is possible.
        uncut_mrr: an MRR without its cut-off would explain it.
    """

    severity: Severity
    check: str
    target: str
    method: str
    line: int
    metrics: tuple[str, ...]
    message: str
    uncut_mrr: bool = False


@dataclass(frozen=True, slots=True)
class LintReport:
    """Findings of one source.

    Attributes:
        source: file, run or suite.
        n_rows: rows (method x target) that were checked.
        n_figures: figures in them.
        n_grim: rows to which GRIM could be applied.
        findings: in the order of the rows.
        notes: what holds for the whole source.
    """

    source: str
    n_rows: int
    n_figures: int
    n_grim: int
    findings: tuple[Finding, ...]
    notes: tuple[str, ...] = ()

    @property
    def n_inconsistent(self) -> int:
        """Rows (method x target) with at least one inconsistency."""
        found = {
            (f.target, f.method, f.line) for f in self.findings if f.severity == "inconsistent"
        }
        return len(found)

    def to_json(self) -> dict[str, Any]:
        """The object that ``bench lint --json`` prints for one source."""
        return {
            "source": self.source,
            "rows": self.n_rows,
            "figures": self.n_figures,
            "grim_rows": self.n_grim,
            "inconsistent_rows": self.n_inconsistent,
            "findings": [
                {
                    "severity": f.severity,
                    "check": f.check,
                    "target": f.target,
                    "method": f.method,
                    "line": f.line or None,
                    "metrics": list(f.metrics),
                    "message": f.message,
                    "uncut_mrr": f.uncut_mrr,
                }
                for f in self.findings
            ],
            "notes": list(self.notes),
        }


def lint_rows(table: ReportedTable, options: LintOptions = LintOptions()) -> LintReport:
    """Check every row of a table.

    Args:
        table: rows as read.
        options: what the user knows beyond the table.

    Raises:
        ConfigError: options out of range.
    """
    findings: list[Finding] = []
    n_grim = 0
    for row in table.rows:
        findings += _bounds(row, options)
        grim = _grim(row, options)
        n_grim += grim is not None
        findings += grim or ()
        findings += _random(row, table.rows, options)
    findings += [
        Finding("warning", "unread", "", "", line, (), f"cannot read the figure {text!r}")
        for line, text in table.unread
    ]
    return LintReport(
        table.source,
        len(table.rows),
        sum(len(row.figures) for row in table.rows),
        n_grim,
        tuple(findings),
        tuple(_notes(table, options)),
    )


def _bounds(row: ReportedRow, options: LintOptions) -> Iterator[Finding]:
    figures = {
        name: Reported(cell.value, cell.unit if options.slack is None else options.slack)
        for name, cell in row.figures.items()
    }
    # A table's number of candidates bounds nothing unless there are fewer than the cut-offs.
    conflict = explain(figures, n_candidates=options.n_candidates or row.n_candidates)
    if conflict is not None:
        yield _finding(
            row, "inconsistent", "bounds", conflict.metrics, _describe(conflict), conflict.uncut
        )


def _describe(conflict: Conflict) -> str:
    shown = f"{conflict.metric.upper()} {conflict.value:.4f}"
    if len(conflict.metrics) == 1:
        message = f"{shown} lies outside [0, 1]"
        return message + ("; are these percentages (--percent)?" if conflict.value > 1 else "")
    others = ", ".join(name.upper() for name in conflict.metrics[:-1])
    verb = "allows" if len(conflict.metrics) == 2 else "allow"
    if conflict.value > conflict.high:
        message = f"{shown} is above {conflict.high:.4f}, the most that {others} {verb}"
    else:
        message = f"{shown} is below {conflict.low:.4f}, the least that {others} {verb}"
    if conflict.uncut:
        message += "; possible if MRR was computed without its cut-off"
    return message


def _grim(row: ReportedRow, options: LintOptions) -> list[Finding] | None:
    """None if the test does not apply, else its findings."""
    n_users = options.n_users or row.n_users
    declared = options.n_users is not None
    if n_users is None or row.is_random:
        return None
    if not declared and (row.n_seeds != 1 or row.share_tied != 0):
        return None
    findings, applied = [], False
    for name, cell in row.figures.items():
        half = cell.unit / 2 if options.slack is None else options.slack
        if not (name in _HIT_AT_1 or name.startswith("hr@")) or not grim_applies(half, n_users):
            continue
        applied = True
        if not grim_consistent(cell.value, half, n_users):
            below = int(cell.value * n_users)
            message = (
                f"{name.upper()} {cell.text} is no whole number of {n_users:,} users: {below:,} of them "
                f"give {below / n_users:.6f}, {below + 1:,} give {(below + 1) / n_users:.6f}"
            )
            findings.append(_finding(row, "inconsistent", "grim", (name,), message))
    return findings if applied else None


def _random(
    row: ReportedRow, rows: Sequence[ReportedRow], options: LintOptions
) -> Iterator[Finding]:
    stated = options.n_candidates or row.n_candidates
    names = [name for name in row.figures if name != "mrr"]
    if row.is_random:
        n_candidates = stated or _inferred(rows, row.target) or DEFAULT_CANDIDATES
        n_users = None if "closed form" in row.method else options.n_users or row.n_users
        for name in names:
            cell = row.figures[name]
            slack = cell.unit if options.slack is None else options.slack
            expected, tolerance = random_tolerance(name, n_candidates, n_users, slack=slack)
            if abs(cell.value - expected) > tolerance + 1e-9:
                yield _finding(
                    row,
                    "inconsistent" if stated else "warning",
                    "random",
                    (name,),
                    f"{name.upper()} {cell.text} of the random row; with {n_candidates:,} candidates "
                    f"it is {expected:.4f} (+-{tolerance:.4f})",
                )
        return
    n_candidates = stated or _inferred(rows, row.target) or DEFAULT_CANDIDATES
    low = []
    for name in names:
        cell = row.figures[name]
        expected = random_row(n_candidates, [name])[name]
        if cell.value + cell.unit < expected:
            low.append(f"{name.upper()} {cell.text} < {expected:.4f}")
    if low:
        yield _finding(
            row,
            "warning",
            "below-random",
            tuple(names),
            f"below a random order of {n_candidates:,} candidates ({', '.join(low)}): answers that "
            "failed rather than ranking ability; look for a failure rate",
        )


def _inferred(rows: Sequence[ReportedRow], target: str) -> int | None:
    """Number of candidates from the table's own random row: HR@1 = 1 / candidates."""
    for row in rows:
        if row.is_random and row.target == target:
            for name in _HIT_AT_1:
                if name in row.figures and 0 < row.figures[name].value <= 1:
                    return round(1 / row.figures[name].value)
    return None


def _notes(table: ReportedTable, options: LintOptions) -> Iterator[str]:
    targets = list(dict.fromkeys(row.target for row in table.rows))
    bare = [t for t in targets if not any(r.is_random for r in table.rows if r.target == t)]
    said = {row.n_candidates for row in table.rows} - {None}
    n_candidates = options.n_candidates or (said.pop() if len(said) == 1 else None)
    if bare and len(table.rows) > 1:
        assumed = "" if n_candidates else f" ({DEFAULT_CANDIDATES} assumed; --n-candidates)"
        count = n_candidates or DEFAULT_CANDIDATES
        row = random_row(count, _SHOWN_RANDOM)
        figures = ", ".join(f"{name.upper()} {value:.4f}" for name, value in row.items())
        yield f"no random row; with {count:,} candidates{assumed} it is {figures}"
    uncut = {row.method for row in table.rows if "mrr" in row.figures}
    if uncut:
        yield "MRR without a cut-off: not comparable with MRR@k"


def _finding(
    row: ReportedRow,
    severity: Severity,
    check: str,
    metrics: tuple[str, ...],
    message: str,
    uncut: bool = False,
) -> Finding:
    return Finding(severity, check, row.target, row.method, row.line, metrics, message, uncut)
