"""Stored runs as contenders of a comparison: seeds stacked, users aligned, options checked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError, ResultError, unknown_name
from bench.evaluation import metric_per_user
from bench.io import canonical_json
from bench.report.labels import row_names, run_labels
from bench.report.select import Series, choose_task, choose_users, group_series, restrict

if TYPE_CHECKING:
    from bench.runs.stored import StoredRun

__all__ = [
    "Contender",
    "contenders_of_runs",
    "contenders_of_target",
    "from_series",
    "require_comparable",
    "require_same_task",
]


@dataclass(frozen=True, eq=False)
class Contender:
    """One method with all its seeds, over the users of a comparison.

    Attributes:
        label: name as displayed, unique in a comparison.
        runs: one run per seed, by seed.
        values: float64, shape ``(S, n)``: the metric per seed and user.
        trainable: whether another training seed would change it.
    """

    label: str
    runs: tuple[StoredRun, ...]
    values: NDArray[np.float64]
    trainable: bool

    @property
    def mean(self) -> float:
        """Mean over seeds and users."""
        return float(self.values.mean())

    @property
    def method(self) -> str:
        """Name of the method."""
        return self.runs[0].method


def from_series(
    series: Series, users: NDArray[np.int32], metric: str, label: str | None = None
) -> Contender | None:
    """A row of a table as contender over ``users``; None if no run has scored them all."""
    runs = series.covering(users)
    return _contender(label or runs[0].method, runs, users, metric) if runs else None


def _contender(
    label: str, runs: Sequence[StoredRun], users: NDArray[np.int32], metric: str
) -> Contender:
    values = np.stack([metric_per_user(restrict(run, users), metric) for run in runs])
    trainable = bool(runs[0].manifest["method"].get("trainable", True))
    return Contender(label, tuple(runs), values, trainable)


def contenders_of_target(
    runs: Sequence[StoredRun],
    target: str,
    methods: Sequence[str] = (),
    *,
    metric: str = "ndcg@5",
    profile: str | None = None,
    users: int | None = None,
    task: str | None = None,
    all_configs: bool = False,
) -> tuple[list[Contender], list[str]]:
    """The rows of one target's table as contenders, best first.

    Args:
        runs: any stored runs.
        target: target domain.
        methods: only these; empty = all that have runs.
        metric: what is compared.
        profile: only this profile; None = all.
        users: number of users; None = all of the task.
        task: first digits of a task hash; None = the standard protocol.
        all_configs: also configurations other than the default.

    Returns:
        The contenders, and notes on what was left out.

    Raises:
        ResultError: no runs of the target, or a method has none over these users.
        ConfigError: an unknown method, metric, task or number of users.
    """
    found, notes = choose_task(runs, target, task)
    chosen = choose_users(found, users)
    series, more = group_series(found, profile=profile, all_configs=all_configs)
    known = {one.first.method for one in series}
    for method in methods:
        if method not in known and not all_configs and any(r.method == method for r in found):
            raise ConfigError(
                f"{method} has runs on {target}, but none with the settings of a profile alone. Take them "
                "in with --all-configs."
            )
        if method not in known:
            raise unknown_name(f"method with runs on {target}", method, known)
    kept = [one for one in series if not methods or one.first.method in methods]
    contenders, lacking = [], []
    for one, label in zip(kept, row_names(kept), strict=True):
        contender = from_series(one, chosen, metric, label)
        if contender is None:
            lacking.append(label)
        else:
            contenders.append(contender)
    if lacking and methods:
        raise ResultError(
            f"no run of {', '.join(lacking)} on {target} has scored all {len(chosen):,} users of "
            "the comparison. Run it without --limit-users, or compare over fewer with --users N."
        )
    if lacking:
        notes.append(f"Scored on other users and left out: {', '.join(lacking)}.")
    return _best_first(contenders), [*notes, *more]


def contenders_of_runs(
    runs: Iterable[StoredRun], metric: str = "ndcg@5"
) -> tuple[list[Contender], list[str]]:
    """Named runs as contenders, best first: runs that differ by their seed only are one contender.

    Seeds of a single method are compared with one another instead.

    Returns:
        The contenders, and notes on how users and seeds were joined.

    Raises:
        ResultError: fewer than two runs, other tasks, or users that are not nested.
    """
    chosen = list({run.run_id: run for run in runs}.values())
    if len(chosen) < 2:
        raise ResultError(
            f"{len(chosen)} run to compare; expected at least two different ones. `bench runs list` "
            "shows what is stored."
        )
    require_same_task(chosen)
    users, notes = _shared_users(chosen)
    groups: dict[str, list[StoredRun]] = defaultdict(list)
    for run in chosen:
        groups[_configuration(run)].append(run)
    if len(groups) == 1 or any(_repeats_seed(group) for group in groups.values()):
        groups = {run.run_id: [run] for run in chosen}
        notes.append("Each run is compared by itself: the figures are those of checkpoints.")
    joined = [sorted(group, key=lambda r: r.seed) for group in groups.values()]
    labels = run_labels([group[0] for group in joined])
    return (
        _best_first(
            [
                _contender(label, group, users, metric)
                for label, group in zip(labels, joined, strict=True)
            ]
        ),
        notes,
    )


def _repeats_seed(runs: Sequence[StoredRun]) -> bool:
    return len({run.seed for run in runs}) < len(runs)


def _best_first(contenders: Iterable[Contender]) -> list[Contender]:
    return sorted(contenders, key=lambda c: (-c.mean, c.label))


def _configuration(run: StoredRun) -> str:
    """What two runs share that differ by seed and users only."""
    manifest = run.manifest
    method = manifest["method"]
    return canonical_json(
        [
            *(run.method, method.get("version"), method.get("plugin_sha256"), run.profile),
            *(run.config, list(run.sources), manifest.get("dtype"), manifest.get("init_seed")),
            manifest["task"].get("source_hashes", {}),
        ]
    ).decode()


def _shared_users(runs: Sequence[StoredRun]) -> tuple[NDArray[np.int32], list[str]]:
    """The users that all runs have scored, if the smallest set lies within every other."""
    smallest = min(runs, key=lambda r: (r.n_users, r.run_id))
    if all(run.users_hash == smallest.users_hash for run in runs):
        return smallest.users, []
    for run in runs:
        if not np.isin(smallest.users, run.users, assume_unique=True).all():
            raise ResultError(
                f"runs {smallest.run_id} and {run.run_id} are not comparable: their users differ "
                f"({smallest.users_hash[:12]} and {run.users_hash[:12]}), and neither set contains "
                "the other. Run one of them again with the other's --limit-users."
            )
    n = smallest.n_users
    return smallest.users, [f"Compared over the {n:,} users that every run has scored."]


def require_same_task(runs: Sequence[StoredRun]) -> None:
    """Refuse runs of different targets, tasks or candidates.

    Raises:
        ResultError: naming the first two runs that differ, and the option in which they do.
    """
    first = runs[0]
    for other in runs[1:]:
        for name, ours, theirs in (
            ("target", first.target, other.target),
            ("task", first.task_hash, other.task_hash),
            ("candidates", first.candidates_hash, other.candidates_hash),
        ):
            if ours != theirs:
                why = _difference(first, other) if name == "task" else ""
                if name != "target":
                    ours, theirs = ours[:12], theirs[:12]
                raise ResultError(
                    f"runs {first.run_id} and {other.run_id} are not comparable: their {name} "
                    f"differ ({ours} and {theirs}{why}). Run one of them again with the "
                    "other's options."
                )


def require_comparable(run: StoredRun, rival: StoredRun) -> None:
    """As :func:`require_same_task`, and the scored users must be the same."""
    require_same_task([run, rival])
    if run.users_hash != rival.users_hash:
        raise ResultError(
            f"runs {run.run_id} and {rival.run_id} are not comparable: their users differ "
            f"({run.users_hash[:12]} and {rival.users_hash[:12]}). Run one of them again with the "
            "other's options."
        )


def _difference(a: StoredRun, b: StoredRun) -> str:
    """What makes two tasks of one target different, in words: options, leak guard, or data."""
    ours, theirs = _task_facts(a), _task_facts(b)
    found = [
        f"{name} is {ours.get(name)} and {theirs.get(name)}"
        for name in [*ours, *(name for name in theirs if name not in ours)]
        if ours.get(name) != theirs.get(name)
    ]
    return "; " + ", ".join(found) if found else "; same options, so the prepared data differ"


def _task_facts(run: StoredRun) -> Mapping[str, Any]:
    task = run.manifest["task"]
    facts = {**task.get("options", {}), "guard": task["guard"]}
    facts |= {name: task[name] for name in ("n_users", "n_items") if name in task}
    data = run.manifest.get("data", {}).get(run.target, {})
    if "content_hash" in data:
        facts["data of the target"] = str(data["content_hash"])[:12]
    return facts
