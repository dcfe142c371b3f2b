"""Which stored runs stand in a table, and which of them are one row."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError, MissingRunError, ResultError, did_you_mean
from bench.io import canonical_json
from bench.report.plain import count_text
from bench.runs.privacy import without_paths

if TYPE_CHECKING:
    from bench.evaluation import Outcomes
    from bench.runs.stored import StoredRun

__all__ = [
    "DEFAULT_OPTIONS",
    "Series",
    "choose_task",
    "choose_users",
    "group_series",
    "restrict",
]

DEFAULT_OPTIONS: dict[str, Any] = {
    "negatives": "uniform",
    "n_negatives": 29,
    "candidate_seed": 0,
    "train_on": "train",
    "keep_leak": False,
    "candidates_file": None,
}
"""Options of the standard protocol; a test compares them with ``bench.protocol``."""


@dataclass(frozen=True, slots=True)
class Series:
    """Runs that differ by training seed and scored users only.

    Attributes:
        runs: the runs, by seed, then users, then run id.
        is_default: whether this is the method's default configuration of the profile.
        overrides: what the user set, or what an earlier default had otherwise, for the label of
            other configurations.
    """

    runs: tuple[StoredRun, ...]
    is_default: bool
    overrides: tuple[tuple[str, str], ...]

    @property
    def first(self) -> StoredRun:
        """A representative run."""
        return self.runs[0]

    def covering(self, users: NDArray[np.int32]) -> list[StoredRun]:
        """One run per seed that scored all of ``users``: the one with the fewest others, then the newest."""
        found: dict[int, StoredRun] = {}
        newest_first = sorted(self.runs, key=_age, reverse=True)
        for run in sorted(newest_first, key=lambda r: r.n_users):
            if run.seed not in found and run.n_users >= len(users) and _covers(run, users):
                found[run.seed] = run
        return [found[seed] for seed in sorted(found)]

    def widest(self) -> list[StoredRun]:
        """One run per seed over the largest set of users that any run of the series has scored."""
        best = max(self.runs, key=lambda r: (r.n_users, r.users_hash))
        return self.covering(best.users)


def _covers(run: StoredRun, users: NDArray[np.int32]) -> bool:
    if run.n_users == len(users):
        return bool(np.array_equal(run.users, users))
    return bool(np.isin(users, run.users, assume_unique=True).all())


def choose_task(
    runs: Sequence[StoredRun], target: str, task: str | None
) -> tuple[list[StoredRun], list[str]]:
    """Keep the runs of one task: only they may be compared.

    Args:
        runs: any stored runs.
        target: target domain.
        task: first digits of a task hash, or None for the standard protocol.

    Returns:
        The runs, without repeats, and a note on what was left out (or none).

    Raises:
        ResultError: no runs of this target, or runs that claim one task and other candidates.
        ConfigError: no such task, or several tasks and none of the standard protocol.
    """
    by_task: dict[str, dict[str, StoredRun]] = defaultdict(dict)
    for run in runs:
        if run.target == target:
            by_task[run.task_hash].setdefault(run.run_id, run)
    if not by_task:
        known = sorted({run.target for run in runs})
        raise MissingRunError(
            f"no stored runs for target {target!r}.{did_you_mean(target, known)} "
            f"Targets with runs: {', '.join(known) or 'none'}; `bench domains` lists what can be run. "
            f"Start with `bench run --method popularity,item-knn --target {target}`."
        )
    groups = {key: list(found.values()) for key, found in by_task.items()}
    if task is not None:
        matches = [key for key in groups if key.startswith(task)]
        if len(matches) != 1 or not task:
            raise ConfigError(
                f"--task {task} means {len(matches)} tasks of {target}; expected the first digits "
                f"of one of: {_describe(groups)}."
            )
        chosen = matches[0]
    else:
        chosen = _standard_task(groups, target)
    if len({run.candidates_hash for run in groups[chosen]}) > 1:
        raise ResultError(
            f"runs of task {chosen[:12]} name different test candidates; one of them was changed. "
            "Check them with `bench runs list` and remove the wrong one."
        )
    others = {key: found for key, found in groups.items() if key != chosen}
    notes = []
    if others:
        notes.append(
            f"Runs of other tasks are not comparable and are left out: {_describe(others)}; "
            "choose one with --task."
        )
    return groups[chosen], notes


def _standard_task(groups: dict[str, list[StoredRun]], target: str) -> str:
    """The task of the standard protocol; with several, a checked leak guard, then the newest run.

    Tasks of equal options differ in their data, and the newest run is of the data that are in use.
    """
    if len(groups) == 1:
        return next(iter(groups))
    standard = {
        key: found
        for key, found in groups.items()
        if found[0].manifest["task"].get("options") == DEFAULT_OPTIONS
    }
    if not standard:
        raise ConfigError(
            f"{target} has runs of {len(groups)} tasks, none of the standard protocol; choose one "
            f"with --task: {_describe(groups)}."
        )

    def preference(item: tuple[str, list[StoredRun]]) -> tuple[bool, str, int, str]:
        key, found = item
        checked = found[0].manifest["task"]["guard"] in ("full", "none")
        return checked, max(_age(run)[0] for run in found), len(found), key

    return max(standard.items(), key=preference)[0]


def _describe(groups: dict[str, list[StoredRun]]) -> str:
    parts = []
    for key in sorted(groups):
        runs = groups[key]
        task = runs[0].manifest["task"]
        options = task.get("options", {})
        unusual = [
            f"{name}={value}"
            for name, value in sorted(options.items())
            if value is not None and DEFAULT_OPTIONS.get(name) != value
        ]
        details = ", ".join([*unusual, f"guard {task['guard']}", count_text(len(runs), "run")])
        parts.append(f"{key[:12]} ({details})")
    return "; ".join(parts)


def group_series(
    runs: Iterable[StoredRun], *, profile: str | None, all_configs: bool
) -> tuple[list[Series], list[str]]:
    """Group runs of one task into rows.

    A row is one configuration of one method: runs with other seeds or users belong to it. Of several
    versions of a method (or of a plugin's source, or of its sources' data) the one that ran last
    counts. If a profile's defaults have changed, the ones that ran last are the defaults, and
    earlier ones are another configuration.

    Args:
        runs: runs of one task.
        profile: only this profile; None = all.
        all_configs: also configurations other than the profile's default.

    Returns:
        The series in a fixed order, and notes on what was left out.
    """
    versions: dict[Hashable, dict[Hashable, list[StoredRun]]] = defaultdict(
        lambda: defaultdict(list)
    )
    for run in runs:
        if profile is None or run.profile == profile:
            versions[_identity(run)][_revision(run)].append(run)
    every: list[Series] = []
    n_old = 0
    for revisions in versions.values():
        newest = max(revisions.values(), key=lambda found: max(map(_age, found)))
        n_old += sum(len(found) for found in revisions.values() if found is not newest)
        found = sorted(newest, key=lambda r: (r.seed, r.n_users, r.run_id))
        overrides = min((_overrides(run) for run in found), key=lambda o: (len(o), o))
        every.append(Series(tuple(found), not overrides, overrides))
    every = _with_one_default(every)
    series = [one for one in every if one.is_default or all_configs]
    n_other = sum(len(one.runs) for one in every) - sum(len(one.runs) for one in series)
    notes = []
    if n_old:
        notes.append(f"{count_text(n_old, 'run')} of older versions left out.")
    if n_other:
        notes.append(
            f"{count_text(n_other, 'run')} of other configurations left out (--all-configs)."
        )
    return sorted(series, key=lambda s: s.first.run_id), notes


def _with_one_default(series: Sequence[Series]) -> list[Series]:
    """The same series; of several default configurations of one row, all but the newest get names."""
    newest: dict[Hashable, Series] = {}
    for one in series:
        if one.is_default:
            key = _row(one.first)
            rival = newest.get(key)
            if rival is None or max(map(_age, one.runs)) > max(map(_age, rival.runs)):
                newest[key] = one

    def named(one: Series) -> Series:
        default = newest.get(_row(one.first))
        if not one.is_default or default is None or default is one:
            return one
        now, then = default.first.config, one.first.config
        differing = sorted(k for k in now.keys() | then.keys() if now.get(k) != then.get(k))
        return Series(one.runs, False, tuple((key, _shown(then.get(key))) for key in differing))

    return [named(one) for one in series]


def _identity(run: StoredRun) -> Hashable:
    return (_row(run), canonical_json(run.config))


def _row(run: StoredRun) -> Hashable:
    """What a run's row in a table is, whatever its configuration."""
    return (
        run.method,
        run.manifest["method"].get("plugin_sha256") is None,
        run.profile,
        run.sources,
        run.manifest.get("dtype"),
        run.manifest.get("init_seed"),
    )


def _revision(run: StoredRun) -> Hashable:
    method = run.manifest["method"]
    return (
        method["version"],
        method.get("plugin_sha256"),
        # Every seed of an imported model is a file of its own.
        canonical_json((method.get("content") or {}) if run.imported is None else {}),
        canonical_json(run.manifest["task"].get("source_hashes", {})),
    )


def _age(run: StoredRun) -> tuple[str, str]:
    return (str(run.manifest.get("finished", "")), run.run_id)


def _overrides(run: StoredRun) -> tuple[tuple[str, str], ...]:
    overrides = run.manifest.get("spec", {}).get("overrides") or {}
    return tuple((key, _shown(overrides[key])) for key in sorted(overrides))


def _shown(value: object) -> str:
    """A setting in a label: tables are shared, so that of a path only the name is shown."""
    return str(without_paths(value))


def choose_users(runs: Sequence[StoredRun], n_users: int | None) -> NDArray[np.int32]:
    """The users that the main block is about.

    Args:
        runs: runs of one task.
        n_users: number of users; None = all users of the task.

    Returns:
        Canonical indices, int32, ascending.

    Raises:
        ConfigError: no run scored exactly ``n_users`` users, so that nobody knows which they are.
    """
    total = max(int(run.manifest["task"]["n_users"]) for run in runs)
    if n_users is None or n_users >= total:
        whole = sorted((r for r in runs if r.n_users == total), key=lambda r: r.run_id)
        return whole[0].users if whole else np.arange(total, dtype=np.int32)
    exact = sorted((r for r in runs if r.n_users == n_users), key=lambda r: r.run_id)
    if not exact:
        sizes = ", ".join(f"{n:,}" for n in sorted({r.n_users for r in runs}))
        raise ConfigError(
            f"no run scored exactly {n_users:,} users; sizes on record: {sizes}. Choose one of them, "
            f"or run a method with --limit-users {n_users}."
        )
    return exact[0].users


def restrict(run: StoredRun, users: NDArray[np.int32], candidates: str | None = None) -> Outcomes:
    """Outcomes of ``users``, all of which the run has scored (both ascending).

    Args:
        run: the run.
        users: canonical indices.
        candidates: hash of a further request set; None = the task's own candidates.
    """
    outcomes = run.outcomes(candidates)
    if run.n_users == len(users):
        return outcomes
    return outcomes.take(np.searchsorted(run.users, users))
