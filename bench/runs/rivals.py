"""The runs that a run may be compared with: those of its store, and published ones in a named folder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import ConfigError, ResultError
from bench.partial import settled
from bench.runs.store import RunStore, present
from bench.runs.stored import MANIFEST, StoredRun, slug

__all__ = ["COMMITTED", "Rivals", "published_folder", "ranks_nothing", "results_in"]

COMMITTED = Path("leaderboards") / "results"
"""Where a checkout keeps published results."""


Stamp = tuple[int, int]
"""Time and inode of a manifest: a run that was replaced has another one."""


@dataclass(frozen=True, slots=True, eq=False)
class Rivals:
    """Two places with runs. Only the folder of a run's target is searched, and a run is read once.

    Attributes:
        store: the runs of this user.
        published: folder of published results, or None.
        wanted: whether published results were asked for, whether or not there are any.
    """

    store: RunStore
    published: Path | None = None
    wanted: bool = False
    _known: dict[Path, tuple[Stamp, StoredRun | None]] = field(default_factory=dict, repr=False)

    def of_task(self, target: str, task_hash: str) -> list[StoredRun]:
        """All readable runs of a task. A run that is in both places counts once, as stored."""
        roots = [self.store.root] if self.published is None else [self.published, self.store.root]
        runs = (run for root in roots for run in self._below(root / slug(target)))
        return list({run.run_id: run for run in runs if run.task_hash == task_hash}.values())

    @property
    def damaged(self) -> list[Path]:
        """Folders that were passed over because they cannot be read."""
        return sorted(
            path for path, (_, run) in self._known.items() if run is None and path.is_dir()
        )

    def _below(self, folder: Path) -> Iterator[StoredRun]:
        for path in RunStore(folder).folders():
            try:
                found = (settled(path) / MANIFEST).stat()
            except FileNotFoundError:  # removed by another process
                continue
            stamp = (found.st_mtime_ns, found.st_ino)
            if path not in self._known or self._known[path][0] != stamp:
                self._known[path] = (stamp, _readable(path))
            run = self._known[path][1]
            if run is not None:
                yield run

    def of_run(self, run: StoredRun, *, without: Collection[str] = ()) -> list[StoredRun]:
        """Runs of other methods or configurations with the same task and the same scored users.

        Runs that rank nothing are rivals only if there is no other.

        Args:
            run: the run that has just ended.
            without: ids of runs that are no rivals here.

        Returns:
            Rivals by NDCG@5, best first.
        """
        rivals = [
            other
            for other in self.of_task(run.target, run.task_hash)
            if other.run_id != run.run_id
            and other.run_id not in without
            and other.users_hash == run.users_hash
            and (other.method, other.config) != (run.method, run.config)
        ]
        ranked = sorted(
            rivals, key=lambda r: (-float(r.metrics["metrics"]["ndcg@5"]["mean"]), r.run_id)
        )
        return [rival for rival in ranked if not ranks_nothing(rival)] or ranked

    def all_runs(self) -> list[StoredRun]:
        """Every readable run of the places."""
        places = [self.store] if self.published is None else [self.store, RunStore(self.published)]
        return [run for place in places for run in place.list(damaged=[])]

    def has(self, target: str, method: str, seed: int, run_id: str) -> bool:
        """Whether a run of this identity is in one of the places."""
        places = [self.store] if self.published is None else [self.store, RunStore(self.published)]
        return any(place.find(target, method, seed, run_id) for place in places)

    def counts(self, rivals: Iterable[StoredRun]) -> tuple[int, int]:
        """How many of some runs are in the store, and how many are published ones."""
        found = {run.run_id: run.path for run in rivals}
        own = sum(self.store.root in path.parents for path in found.values())
        return own, len(found) - own


def _readable(folder: Path) -> StoredRun | None:
    try:
        return present(folder)
    except ResultError:
        return None


def results_in(folder: Path) -> Path:
    """The folder of results that a path means: a checkout's own, or the path itself.

    Raises:
        ConfigError: no such folder.
    """
    if (folder / COMMITTED).is_dir():
        return folder / COMMITTED
    if folder.is_dir():
        return folder
    raise ConfigError(
        f"{folder}: no such folder; expected a checkout with {COMMITTED}, or a folder of results "
        "(TARGET/METHOD-sSEED-ID)."
    )


def published_folder() -> Path | None:
    """Published results: what ``BENCH_PUBLISHED`` names, else those of the package's own checkout.

    None if the package was installed from a wheel, which carries none. The working directory
    plays no part: the same command names the same rivals everywhere.

    Raises:
        ConfigError: ``BENCH_PUBLISHED`` names no folder.
    """
    import bench

    named = os.environ.get("BENCH_PUBLISHED")
    if named:
        return results_in(Path(named))
    own = Path(bench.__file__).resolve().parent.parent / COMMITTED
    return own if own.is_dir() else None


def ranks_nothing(run: StoredRun) -> bool:
    """Whether every candidate of every user is tied, as in the row ``random``.

    Then the positive may stand first or last whatever the user: the bounds of the AUC are 1 and 0.
    """
    auc = run.metrics.get("ties", {}).get("metrics", {}).get("auc", {})
    return (auc.get("optimistic"), auc.get("pessimistic")) == (1.0, 0.0)
