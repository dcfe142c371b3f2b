"""What is wrong with results only shows when they stand side by side: copies, contradictions."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from bench.io import canonical_json
from bench.runs.stored import PER_USER, StoredRun

__all__ = ["Problem", "compare_results"]


@dataclass(frozen=True, slots=True)
class Problem:
    """What is wrong with a result.

    Attributes:
        path: its folder.
        check: ``readable``, ``files``, ``identity``, ``seal``, ``metrics``, ``bounds``, ``outcomes``, ``users``, ``task``,
            ``privacy``, ``duplicate`` or ``data``.
        message: what was found and expected.
    """

    path: Path
    check: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.check}: {self.message}"


def compare_results(runs: Sequence[StoredRun]) -> list[Problem]:
    """What only shows when results stand side by side."""
    problems: list[Problem] = []
    problems += _one_task(runs)
    problems += _one_meaning_of_users(runs)
    by_id: dict[str, StoredRun] = {}
    by_outcomes: dict[str, StoredRun] = {}
    for run in runs:
        first = by_id.setdefault(run.run_id, run)
        if first is not run:
            problems.append(
                Problem(run.path, "duplicate", f"the same run as {first.path}; keep one of them")
            )
            continue
        key = f"{run.task_hash} {run.users_hash} {run.manifest['files'][PER_USER]}"
        twin = by_outcomes.setdefault(key, run)
        if twin is run or _one_is_a_part_of_the_other(run, twin):
            continue
        if run.method != twin.method or (run.config, run.seed) == (twin.config, twin.seed):
            kind = "another method" if run.method != twin.method else "the same configuration"
        elif run.config == twin.config and run.manifest["method"].get("trainable"):
            kind = "another training seed"
        else:
            # Options that change no score, such as a batch size, give equal outcomes rightly.
            continue
        problems.append(
            Problem(
                run.path,
                "duplicate",
                f"every user has the outcome of {twin.path.name}, which is {kind}; one of them was "
                "copied",
            )
        )
    return problems


def _one_is_a_part_of_the_other(run: StoredRun, twin: StoredRun) -> bool:
    """A sum of several methods whose weights left one of them says so in its counters."""
    pairs = ((run, twin), (twin, run))
    return any((a.manifest.get("diagnostics") or {}).get("equals") == b.method for a, b in pairs)


def _one_task(runs: Sequence[StoredRun]) -> list[Problem]:
    """Runs of one task agree on everything that the task is."""
    problems = []
    tasks: dict[str, tuple[StoredRun, dict[str, Any]]] = {}
    for run in runs:
        task = run.manifest["task"]
        facts = {
            "target": run.target,
            **{
                key: task.get(key)
                for key in ("candidates_hash", "options", "guard", "n_users", "n_items")
            },
        }
        first, known = tasks.setdefault(run.task_hash, (run, facts))
        for key, value in facts.items():
            if canonical_json(value) != canonical_json(known[key]):
                problems.append(
                    Problem(
                        run.path,
                        "task",
                        f"{key} is {value!r}; {first.path.name}, of the same task, has {known[key]!r}",
                    )
                )
    return problems


def _one_meaning_of_users(runs: Sequence[StoredRun]) -> list[Problem]:
    """In one task, equal user-set hashes mean equal indices, and the other way round."""
    problems = []
    groups: dict[str, list[StoredRun]] = defaultdict(list)
    for run in runs:
        groups[run.task_hash].append(run)
    for group in groups.values():
        by_hash: dict[str, StoredRun] = {}
        by_users: dict[bytes, StoredRun] = {}
        for run in group:
            for first in (
                by_hash.setdefault(run.users_hash, run),
                by_users.setdefault(run.users.tobytes(), run),
            ):
                same = np.array_equal(first.users, run.users)
                if same != (first.users_hash == run.users_hash):
                    problems.append(
                        Problem(
                            run.path,
                            "users",
                            f"users_hash {run.users_hash[:12]} and the user indices disagree with "
                            f"those of {first.path.name}, a run of the same task",
                        )
                    )
    return problems
