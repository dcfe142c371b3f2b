"""What ``bench run`` prints when it ends: metrics with intervals, tests, failures."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bench.cli.output import echo, human_seconds, print_table
from bench.cli.rivals import PRIMARY
from bench.report.plain import p_text

if TYPE_CHECKING:
    from bench.report.comparison import Comparison
    from bench.runs.matrix import RunResult
    from bench.runs.spec import RunSpec
    from bench.runs.stored import StoredRun

__all__ = ["JSON_KEYS", "failed_json", "print_comparisons", "print_failures", "print_runs"]

JSON_KEYS = (
    "run_id",
    "method",
    "family",
    "target",
    "sources",
    "profile",
    "seed",
    "task_hash",
    "candidates_hash",
    "users_hash",
    "n_users",
    "metrics",
    "seconds",
    "peak_memory_mb",
    "diagnostics",
    "path",
    "status",
)
"""Keys of the object that ``--json`` prints per run, in order; one that is not there adds ``error``."""

_SHORT = ("ndcg@1", "ndcg@5", "mrr@5")


def _with_interval(run: StoredRun, metric: str) -> str:
    value = run.figures[metric]
    low, high = value["ci95"]
    return f"{value['mean']:.4f} [{low:.4f}, {high:.4f}]"


def _candidates(run: StoredRun) -> str:
    """What a user's positive is ranked among; uniform negatives, the default, are not named."""
    task = run.manifest["task"]
    negatives = task["options"]["negatives"]
    if negatives == "full":
        return f"all {task['n_items']} items"
    if negatives == "imported":
        return f"{int(run.outcomes().n_candidates.max())} imported candidates"
    among = f"{task['options']['n_negatives'] + 1} candidates"
    return among if negatives == "uniform" else f"{among} ({negatives} negatives)"


def _fitted(run: StoredRun) -> str:
    """The time of the fit, and that of the adapters it uses, whoever trained them."""
    seconds = run.manifest["seconds"]["fit"]
    fit = "-" if seconds is None else human_seconds(float(seconds))
    used = run.manifest.get("adapters") or []
    if not used:
        return fit
    trained = human_seconds(sum(float(use["seconds"]) for use in used))
    return f"{fit}, {len(used)} adapter{'s' if len(used) > 1 else ''} {trained}"


def _name(run: StoredRun, runs: Sequence[StoredRun]) -> str:
    """The method, with its sources if another run of it has others."""
    others = {other.sources for other in runs if other.method == run.method}
    return f"{run.method} from {', '.join(run.sources)}" if len(others) > 1 else run.shown_name


def print_runs(target: str, results: Sequence[RunResult]) -> None:
    """Metrics of the runs on one target: all metrics of one run, the main ones of several."""
    from bench.report.caption import (
        data_notes,
        items_without_title,
        left_out_note,
        user_overlap,
    )

    runs = [result.run for result in results if result.run is not None]
    if not runs:
        return
    first = runs[0]
    task = first.manifest["task"]
    echo(
        f"\n{target}: {first.n_users} of {task['n_users']} users, {_candidates(first)} each, "
        f"leak guard {task['guard']}, task {first.task_hash[:12]}"
    )
    if task["guard"] == "partial":
        echo(
            "  Sibling domains are not on this machine, so held-out pairs that also occur there "
            "were not checked; figures are marked."
        )
    notes = left_out_note(task.get("left_out"))
    notes += [
        f"{run.shown_name} had not passed the conformance kit, and tables mark it: "
        f"bench check {run.manifest['method']['requested_as']}, then repeat the run with --force."
        for run in runs
        if run.manifest["method"].get("conformance", "passed") != "passed"
    ]
    for note in notes + data_notes(task["guard"], user_overlap(runs), items_without_title(runs)):
        echo(f"  {note}")
    if len(runs) == 1:
        stored = " (stored before)" if results[0].status == "stored" else ""
        echo(
            f"{first.shown_name}, profile {first.profile}, seed {first.seed}, fitted in "
            f"{_fitted(first)}{stored}"
        )
        print_table(
            ("metric", "mean [95 % CI]"),
            [(name.upper(), _with_interval(first, name)) for name in first.figures],
        )
        echo(f"run {first.run_id}: {first.path}")
        return
    print_table(
        ("method", "profile", "seed", *(f"{m.upper()} [95 % CI]" for m in _SHORT), "fit", "run"),
        [
            (
                _name(run, runs),
                run.profile,
                run.seed,
                *(_with_interval(run, metric) for metric in _SHORT),
                _fitted(run),
                run.run_id[:8],
            )
            for run in runs
        ],
    )


def _number(value: float) -> str:
    return f"{value:.4f}" if math.isfinite(value) else "-"


def print_comparisons(comparisons: Sequence[Comparison]) -> None:
    """The paired tests of the runs on one target."""
    rows = []
    for found in comparisons:
        test = found.test
        low, high = test.ci95
        rows.append(
            (
                found.run.shown_name
                if found.run.seed == 0
                else f"{found.run.shown_name} s{found.run.seed}",
                f"{found.rival.shown_name} ({found.rival.run_id[:8]})",
                f"{test.difference:+.4f} [{low:+.4f}, {high:+.4f}]",
                p_text(test.p),
                _number(test.minimum_detectable),
                f"{test.wins} / {test.ties} / {test.losses}",
            )
        )
    if not rows:
        return
    echo(f"\nPaired t-test on {PRIMARY.upper()} over the same users, against the best rival")
    print_table(
        (
            "method",
            "best rival",
            "difference [95 % CI]",
            "p",
            "detectable",
            "better / same / worse",
        ),
        rows,
    )


def print_failures(results: Sequence[RunResult]) -> None:
    """One line per run that is not there on standard error, with the folder of a failure's record."""
    for result in results:
        if result.run is None:
            word = "failed" if result.status == "failed" else "not done"
            echo(f"{word}: {result.spec.label}: {result.error}", err=True)
            if result.record is not None:
                echo(f"  traceback: {result.record / 'log.txt'}", err=True)


def failed_json(result: RunResult) -> dict[str, Any]:
    """What ``--json`` prints for a run that is not there: every key of a stored one, and the error.

    What is not known is null; the method has its declared name if its class can be loaded.
    """
    method, family = _declared(result.spec)
    known = {
        "method": method,
        "family": family,
        "target": result.spec.target,
        "sources": list(result.spec.sources or ()),
        "profile": result.spec.profile,
        "seed": result.spec.seed,
        "path": str(result.record) if result.record else None,
        "status": result.status,
    }
    return {key: known.get(key) for key in JSON_KEYS} | {"error": str(result.error)}


def _declared(spec: RunSpec) -> tuple[str, str | None]:
    """Name and family that the method's class declares, else the name as it was typed."""
    from bench.errors import BenchError
    from bench.methods.registry import resolve
    from bench.runs.prints import prints_aside

    try:
        with prints_aside():
            declared = resolve(spec.method)
    except BenchError:
        return spec.method, None
    return declared.name, str(declared.family)
