"""The merge gate for results: every figure is recomputed, every hash checked, nothing private inside.

A result folder is trusted in nothing that can be recomputed from its per-user outcomes or its
manifest. What needs the raw data (that the user indices mean the users of ``users_hash``, that the
task hash belongs to these files) is checked by :func:`against_data` where the domain is on disk.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import BenchError, ResultError
from bench.evaluation import Outcomes
from bench.evaluation.bounds import Reported, is_feasible
from bench.report.verify_across import Problem, compare_results
from bench.runs.records import metrics_record
from bench.runs.spec import run_id
from bench.runs.store import RunStore
from bench.runs.stored import MANIFEST, METRICS, PER_USER, StoredRun, check_file, folder_name, slug

__all__ = ["Problem", "Verification", "against_data", "verify_folder", "verify_runs"]

MEAN_TOLERANCE = 1e-12
"""Means are sums of at most a million figures below 1: processors differ by less."""

_INTERVAL_TOLERANCE = 0.05
"""Of the interval's width: NumPy may change the stream of its generators between versions."""

_SETS = "sets"
_COLUMNS = {"user", "n_better", "n_tied", "n_candidates", "ranked", "rank_keep", "rank_close"}
# Amazon's reviewer ids are an A and 10 to 20 capitals and digits; hashes here are lower case.
_REVIEWER = re.compile(r"\bA(?=[A-Z]*[0-9])[0-9A-Z]{10,20}\b")
_ABSOLUTE = re.compile(r"(?<![\w.:/])(?:/(?:home|root|Users|mnt|tmp|work|data|scratch)/|[A-Z]:\\)")
_EMAIL = re.compile(r"[\w.+-]+@[\w-]+\.\w{2,}")


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
    for key, other in further.items():
        stored = run.sets[key].get("metrics")
        if isinstance(stored, Mapping):
            yield from _metrics(other, {"metrics": stored}, f"set {key[:12]}", whole=False)
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
    other = [n for n in listed if n not in (METRICS, PER_USER) and not n.startswith(f"{_SETS}/")]
    if other:
        yield (
            "files",
            (
                f"{', '.join(sorted(other))} do not belong into a published result; export it with "
                "`bench runs export RUN --publish`"
            ),
        )


def _identity(run: StoredRun) -> Iterator[tuple[str, str]]:
    manifest, method, task = run.manifest, run.manifest["method"], run.manifest["task"]
    try:
        hashes = task["source_hashes"]
        expected = run_id(
            task_hash=run.task_hash,
            users_hash=run.users_hash,
            method=run.stored_method,
            version=str(method["version"]),
            plugin_sha256=method["plugin_sha256"],
            config=run.config,
            sources=[(name, hashes[name]) for name in run.sources],
            seed=run.seed,
            init_seed=int(manifest["init_seed"]),
            dtype=str(manifest["dtype"]),
            content=method.get("content") or {},
        )
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


def _metrics(
    outcomes: Outcomes, stored: Mapping[str, Any], where: str, *, whole: bool = True
) -> Iterator[tuple[str, str]]:
    """Recompute everything that a metrics record says."""
    expected = json.loads(json.dumps(metrics_record(outcomes)))
    figures = stored["metrics"]
    if not isinstance(figures, Mapping) or (whole and set(figures) != set(expected["metrics"])):
        yield "metrics", f"{where} holds other metrics than {', '.join(expected['metrics'])}"
        return
    means: dict[str, Reported] = {}
    for metric, found in figures.items():
        right = expected["metrics"].get(metric)
        try:
            mean = float(found["mean"])
            low, high = map(float, found["ci95"])
        except (TypeError, KeyError, ValueError):
            yield "metrics", f"{where}: {metric} has no mean and interval"
            continue
        if right is None:
            yield "metrics", f"{where}: {metric} is no metric of this evaluator"
            continue
        means[metric] = Reported(mean, 1e-9)
        if not abs(mean - right["mean"]) <= MEAN_TOLERANCE:
            yield (
                "metrics",
                (f"{where}: {metric} is {mean!r}, the per-user outcomes give {right['mean']!r}"),
            )
        width = right["ci95"][1] - right["ci95"][0]
        allowed = _INTERVAL_TOLERANCE * width + MEAN_TOLERANCE
        if not max(abs(low - right["ci95"][0]), abs(high - right["ci95"][1])) <= allowed:
            yield (
                "metrics",
                (
                    f"{where}: the interval of {metric} is [{low!r}, {high!r}], the outcomes give "
                    f"{right['ci95']}"
                ),
            )
    cut = {metric: value for metric, value in means.items() if "@" in metric}
    if cut and not is_feasible(cut, n_candidates=int(outcomes.n_candidates.max())):
        yield "bounds", f"{where}: no ranking can have these figures together"
    if whole:
        for key in ("n_users", "ties"):
            if not _close(stored.get(key), expected[key]):
                yield "metrics", f"{where}: {key!r} differs from what the outcomes give"


def _close(found: Any, expected: Any) -> bool:
    """Equal JSON values, numbers to the tolerance of means."""
    if isinstance(expected, dict):
        return (
            isinstance(found, dict)
            and set(found) == set(expected)
            and all(_close(found[key], value) for key, value in expected.items())
        )
    if isinstance(expected, float) and isinstance(found, int | float):
        return abs(found - expected) <= MEAN_TOLERANCE
    return bool(found == expected)


def _users(run: StoredRun, outcomes: Outcomes) -> Iterator[tuple[str, str]]:
    task = run.manifest["task"]
    total = int(task.get("n_users", -1))
    users = run.users
    if not len(users) or users[0] < 0 or users[-1] >= total:
        yield "users", f"user indices do not lie in 0 to {total - 1:,}"
    options = task.get("options", {})
    if options.get("negatives") in ("uniform", "popularity"):
        expected = int(options.get("n_negatives", -1)) + 1
        wrong = int((outcomes.n_candidates != expected).sum())
        if wrong:
            yield (
                "task",
                (f"{wrong:,} users have other than {expected} candidates, which the options state"),
            )


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
    for name in (MANIFEST, METRICS):
        text = (run.path / name).read_text(encoding="utf-8")
        for what, pattern in (
            ("a reviewer id", _REVIEWER),
            ("a path of a machine", _ABSOLUTE),
            ("an e-mail address", _EMAIL),
        ):
            match = pattern.search(text)
            if match:
                line = text.count("\n", 0, match.start()) + 1
                yield "privacy", f"{name}, line {line}: {match.group()!r} looks like {what}"


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
        hashes = run.manifest["task"]["source_hashes"]
        facts += [(f"source_hashes.{n}", task.source_hashes[n], hashes[n]) for n in run.sources]
        problems += [
            Problem(run.path, "data", f"{name} is {found[:12]}, these data give {right[:12]}")
            for name, right, found in facts
            if right != found
        ]
    return problems
