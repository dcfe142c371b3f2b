"""The merge gate for results: every figure is recomputed, every hash checked, nothing private inside.

A result folder is trusted in nothing that can be recomputed from its per-user outcomes or its
manifest. What needs the raw data (that the user indices mean the users of ``users_hash``, that the
task hash belongs to these files) is checked by :func:`against_data` if the domain is on disk.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, ConfigError, ResultError
from bench.evaluation import Outcomes
from bench.evaluation.bounds import Reported, is_feasible
from bench.evaluation.metrics import parse_metric
from bench.report.verify_across import Problem, compare_results
from bench.runs.privacy import apart_from_files, private_values
from bench.runs.records import metrics_record
from bench.runs.spec import identity_of
from bench.runs.store import RunStore
from bench.runs.stored import (
    MANIFEST,
    METRICS,
    PER_USER,
    StoredRun,
    check_file,
    folder_name,
    is_sealed,
    slug,
)

__all__ = ["Problem", "Verification", "against_data", "verify_folder", "verify_runs"]

TOLERANCE = 1e-12
"""Figures are sums of at most a million terms below 1: processors differ by less."""

_ALWAYS = (
    "ndcg@1",
    "ndcg@3",
    "ndcg@5",
    "ndcg@10",
    "mrr@5",
    "mrr@10",
    "hr@1",
    "hr@5",
    "hr@10",
    "auc",
)
"""Metrics that every result holds; it may hold more, and an evaluator may know more."""

_SETS = "sets"
_COLUMNS = {"user", "n_better", "n_tied", "n_candidates", "ranked", "rank_keep", "rank_close"}


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of a verification.

    Attributes:
        n_runs: folders with a manifest.
        n_users: outcomes that were recomputed, over all runs.
        problems: in order of the folders; empty = everything holds.
    """

    n_runs: int
    n_users: int
    problems: tuple[Problem, ...]


def verify_folder(root: Path) -> Verification:
    """Check every result below ``root``.

    Raises:
        ResultError: no folder, or no result in it.
    """
    if not root.is_dir():
        raise ResultError(f"{root} is no folder; expected one with results below it.")
    damaged: list[Any] = []
    runs = RunStore(root).list(damaged=damaged)
    if not runs and not damaged:
        raise ResultError(
            f"no result below {root}: no folder holds a {MANIFEST}. "
            "`bench runs export RUN --publish --out DIR` writes one."
        )
    problems = [Problem(found.path, "readable", found.reason) for found in damaged]
    problems += verify_runs(runs)
    problems += _stray_files(root, [run.path for run in runs] + [d.path for d in damaged])
    n_users = sum(run.n_users for run in runs)
    ordered = tuple(sorted(problems, key=lambda p: (str(p.path), p.check, p.message)))
    return Verification(len(runs) + len(damaged), n_users, ordered)


def verify_runs(runs: Sequence[StoredRun]) -> list[Problem]:
    """Check runs one by one, then against one another."""
    problems: list[Problem] = []
    for run in runs:
        for check, message in _one(run):
            problems.append(Problem(run.path, check, message))
    broken = {problem.path for problem in problems if problem.check in ("readable", "files")}
    return problems + compare_results([run for run in runs if run.path not in broken])


def _one(run: StoredRun) -> Iterator[tuple[str, str]]:
    found = list(_files(run))
    yield from found
    if found:
        return
    try:
        outcomes = run.outcomes()
        further = {key: run.outcomes(key) for key in run.sets}
    except BenchError as error:
        yield "readable", str(error)
        return
    yield from _identity(run)
    yield from _metrics(outcomes, run.metrics, METRICS)
    yield from _sets(run, further)
    yield from _users(run, outcomes)
    yield from _privacy(run)


def _files(run: StoredRun) -> Iterator[tuple[str, str]]:
    listed = dict(run.manifest["files"])
    for name in sorted({METRICS, PER_USER} | set(listed)):
        try:
            check_file(run.path, name, listed)
        except ResultError as error:
            yield "files", str(error)
    present = {p.relative_to(run.path).as_posix() for p in run.path.rglob("*") if p.is_file()}
    extra = sorted(present - set(listed) - {MANIFEST})
    if extra:
        yield "files", f"not in the manifest: {', '.join(extra)}; expected no further file"
    known = {METRICS, PER_USER, *(str(described["file"]) for described in run.sets.values())}
    other = [name for name in listed if name not in known]
    if other:
        yield (
            "files",
            (
                f"{', '.join(sorted(other))} do not belong into a published result; export it with "
                "`bench runs export RUN --publish`"
            ),
        )


def _identity(run: StoredRun) -> Iterator[tuple[str, str]]:
    if not is_sealed(run.manifest):
        yield (
            "seal",
            f"{MANIFEST} is not sealed; publish the run again (`bench runs export --publish`)",
        )
    try:
        expected = identity_of(run.manifest)
    except KeyError as error:
        yield "identity", f"{MANIFEST} lacks the field {error}; expected a manifest of `bench run`"
        return
    if expected != run.run_id:
        yield (
            "identity",
            (
                f"run_id is {run.run_id}, the manifest's own fields give {expected}: task, users, "
                "method, configuration, seed or dtype was changed"
            ),
        )
    name = folder_name(run.stored_method, run.seed, run.run_id)
    if (run.path.name, run.path.parent.name) != (name, slug(run.target)):
        yield "identity", f"expected the folder {slug(run.target)}/{name}"


def _metrics(outcomes: Outcomes, stored: Any, where: str) -> Iterator[tuple[str, str]]:
    """Recompute everything that a metrics record says, and nothing that it does not."""
    figures = stored.get("metrics") if isinstance(stored, Mapping) else None
    if not isinstance(figures, Mapping):
        yield "metrics", f"{where} has no figures"
        return
    absent = [metric for metric in _ALWAYS if metric not in figures]
    if absent:
        yield "metrics", f"{where} lacks {', '.join(absent)}"
    known = []
    for metric in figures:
        try:
            parse_metric(metric)
            known.append(metric)
        except ConfigError:
            yield "metrics", f"{where}: {metric} is no metric of this evaluator"
    expected = json.loads(json.dumps(metrics_record(outcomes, known)))
    means: dict[str, Reported] = {}
    for metric in known:
        found, right = figures[metric], expected["metrics"][metric]
        if not _close(found, right):
            yield "metrics", f"{where}: {metric} is {found}, the per-user outcomes give {right}"
        mean = found.get("mean") if isinstance(found, Mapping) else None
        if metric in _ALWAYS and "@" in metric and isinstance(mean, float) and math.isfinite(mean):
            means[metric] = Reported(mean, 1e-9)
    if means and not is_feasible(means, n_candidates=int(outcomes.n_candidates.max())):
        yield "bounds", f"{where}: no ranking can have these figures together"
    for key in sorted({*stored, *expected} - {"metrics", "sets"}):
        if key not in expected:
            yield "metrics", f"{where}: {key!r} is nothing that the outcomes give"
        elif not _close(stored.get(key), expected[key]):
            yield "metrics", f"{where}: {key!r} differs from what the outcomes give"


def _close(found: Any, expected: Any) -> bool:
    """Equal JSON values, numbers to the tolerance of means."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and set(found) == set(expected)
            and all(_close(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, list):
        return (
            isinstance(found, list)
            and len(found) == len(expected)
            and all(map(_close, found, expected))
        )
    if isinstance(found, bool):
        return bool(found is expected)
    if isinstance(expected, float) and isinstance(found, int | float):
        return abs(found - expected) <= TOLERANCE
    return bool(found == expected)


def _sets(run: StoredRun, further: Mapping[str, Outcomes]) -> Iterator[tuple[str, str]]:
    """Further request sets: their figures, and that they are what the manifest says."""
    stored = run.metrics.get("sets", {})
    if not isinstance(stored, Mapping) or set(stored) != set(run.sets):
        yield "metrics", f"{METRICS} has figures of other request sets than {MANIFEST}"
        return
    kinds: dict[tuple[Any, Any], str] = {}
    for key, described in run.sets.items():
        where, outcomes = f"set {key[:12]}", further[key]
        yield from _metrics(outcomes, stored[key], where)
        kind, seed = described.get("kind"), described.get("candidate_seed")
        if kind not in ("full", "candidates") or (seed is None) != (kind == "full"):
            yield "task", f"{where} is of kind {kind!r} with candidate seed {seed!r}"
            continue
        if key == run.candidates_hash:
            yield "task", f"{where} has the hash of the task's own candidates"
        if described["file"] != f"{_SETS}/{key[:16]}.parquet":
            yield "files", f"{where} is kept as {described['file']}"
        first = kinds.setdefault((kind, seed), key)
        if first != key:
            yield "task", f"{where} has kind and candidate seed of set {first[:12]}"
        yield from _candidates(run, outcomes, where, drawn=kind == "candidates")


def _candidates(
    run: StoredRun, outcomes: Outcomes, where: str, *, drawn: bool
) -> Iterator[tuple[str, str]]:
    """Numbers of candidates that the task can have, and ranks that the method can give."""
    task, options = run.manifest["task"], run.manifest["task"].get("options", {})
    if drawn:
        expected = int(options.get("n_negatives", -1)) + 1
        wrong = int((outcomes.n_candidates != expected).sum())
        if wrong:
            yield (
                "task",
                (
                    f"{where}: {wrong:,} users have other than {expected} candidates, which the options "
                    "state"
                ),
            )
    n_items = task.get("n_items")
    if isinstance(n_items, int) and int(outcomes.n_candidates.max()) > n_items:
        yield "task", f"{where}: more candidates than the {n_items:,} items of the task"
    # Whatever is not ranked shares the bottom; answers of a list have no ties.
    rest = outcomes.n_candidates - outcomes.n_better - 1
    impossible = ~outcomes.ranked & (outcomes.n_tied != rest)
    if outcomes.rank_close is not None:
        ahead = (outcomes.n_tied != 0) | (outcomes.n_better != outcomes.rank_close - 1)
        impossible |= outcomes.ranked & ahead
    if impossible.any():
        yield "outcomes", f"{where}: no ranking gives the outcome of row {int(impossible.argmax())}"
    lists = run.manifest["method"].get("may_leave_unranked", True)
    if not lists and (outcomes.has_slots or not outcomes.ranked.all()):
        yield "task", f"{where}: unranked positives, although the method ranks all candidates"


def _users(run: StoredRun, outcomes: Outcomes) -> Iterator[tuple[str, str]]:
    task = run.manifest["task"]
    total = int(task.get("n_users", -1))
    users = run.users
    if not len(users) or users[0] < 0 or users[-1] >= total:
        yield "users", f"user indices do not lie in 0 to {total - 1:,}"
    negatives = task.get("options", {}).get("negatives")
    yield from _candidates(run, outcomes, PER_USER, drawn=negatives in ("uniform", "popularity"))


def _privacy(run: StoredRun) -> Iterator[tuple[str, str]]:
    import polars as pl

    for name in sorted({PER_USER, *(str(s["file"]) for s in run.sets.values())}):
        schema = pl.read_parquet_schema(run.path / name)
        extra = sorted(set(schema) - _COLUMNS)
        if extra:
            yield (
                "privacy",
                (
                    f"{name} has the columns {', '.join(extra)}; expected canonical user indices and "
                    "outcomes only"
                ),
            )
    for name, record in ((MANIFEST, apart_from_files(run.manifest)), (METRICS, run.metrics)):
        for field, found, what in private_values(record):
            yield "privacy", f"{name}: {field} holds {found!r}, which looks like {what}"


def _stray_files(root: Path, folders: Sequence[Path]) -> list[Problem]:
    """Files below ``root`` that belong to no result."""
    known = set(folders)
    return [
        Problem(path, "files", "belongs to no result; remove it")
        for path in sorted(root.rglob("*"))
        if path.is_file() and not known & set(path.parents)
    ]


def against_data(runs: Sequence[StoredRun], data_root: Path | None) -> list[Problem]:
    """Rebuild the tasks of runs from the raw data, and compare their hashes.

    Args:
        runs: results that :func:`verify_runs` found correct.
        data_root: as for ``bench run``.

    Raises:
        BenchError: a domain is not on disk or cannot be read.
    """
    from bench.runs.spec import RunSpec
    from bench.runs.tasks import TaskCache

    cache, problems = TaskCache(), []
    for run in sorted(runs, key=lambda r: (r.target, r.sources, r.task_hash)):
        values = {k: v for k, v in run.manifest["spec"].items() if k in RunSpec.model_fields}
        if run.manifest["task"]["options"].get("negatives") == "imported":
            problems.append(
                Problem(
                    run.path, "data", "imported candidates cannot be rebuilt without their file"
                )
            )
            continue
        spec = RunSpec.model_validate({**values, "sources": run.sources, "data_root": data_root})
        task = cache.get(spec).task
        facts = [
            ("task_hash", task.task_hash, run.task_hash),
            ("candidates_hash", task.candidates_hash, run.candidates_hash),
            ("users_hash", task.users_hash(run.users), run.users_hash),
        ]
        for key, described in run.sets.items():
            seed, full = described.get("candidate_seed"), described["kind"] == "full"
            requests = task.test(run.users[:1], candidate_seed=seed, full=full)
            facts.append((f"sets.{key[:12]}", requests.candidates_hash, key))
        hashes = run.manifest["task"]["source_hashes"]
        facts += [(f"source_hashes.{n}", task.source_hashes[n], hashes[n]) for n in run.sources]
        problems += [
            Problem(run.path, "data", f"{name} is {found[:12]}, these data give {right[:12]}")
            for name, right, found in facts
            if right != found
        ]
    return problems
