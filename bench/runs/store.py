"""The store of finished runs: finding, removing. Imports neither torch nor methods nor protocol.

A store keeps run folders (:mod:`bench.runs.stored`) as ``<target>/<method>-s<seed>-<run id>``;
folders of the same format anywhere below the root (for example committed results) are found as well.
Names that begin with a dot, and ``failed``, are not searched.

Other processes may write, replace and remove runs meanwhile: a reader sees each run whole or not at
all, and never takes one that is gone for a damaged one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import MissingRunError, ResultError, RunGoneError, did_you_mean
from bench.io import StrPath, lock, read_json, store_root
from bench.partial import discard, older, replaced_name, settled, sweep
from bench.runs.stored import MANIFEST, RUN_ID, StoredRun, folder_name, read_run, slug

__all__ = ["Damage", "RunStore", "open_store", "present", "sweep_locks"]

WORK, FAILED = ".work", "failed"

_TRIES = 20
# Names that earlier versions gave to what was under construction.
_UNLOCKED = (".partial-*", f"{WORK}/import-*", f"{WORK}/trash-*")


@dataclass(frozen=True, slots=True)
class Damage:
    """A run folder that cannot be read, and why."""

    path: Path
    reason: str


@dataclass(frozen=True, slots=True)
class RunStore:
    """A folder of runs; it need not exist until something is written.

    Attributes:
        root: the folder.
    """

    root: Path

    def run_folder(self, target: str, method: str, seed: int, run_id: str) -> Path:
        """Where a run is stored."""
        return self.root / slug(target) / folder_name(method, seed, run_id)

    def work_folder(self, run_id: str) -> Path:
        """Where a run in progress keeps its checkpoints; removed when the run is complete."""
        return self.root / WORK / run_id

    def failed_folder(self, target: str, method: str, seed: int, key: str) -> Path:
        """Where the record of a failed run is kept."""
        return self.root / FAILED / slug(target) / folder_name(method, seed, key)

    def folders(self) -> Iterator[Path]:
        """Every folder below the root that holds a manifest, in order of its path.

        A run whose replacement was killed between two renames has its own path here, too; see
        :func:`bench.partial.settled`.
        """
        for current, names, files in os.walk(self.root):
            if MANIFEST in files:
                names.clear()
                yield Path(current)
                continue
            waiting = {replaced_name(name): name for name in names if replaced_name(name)}
            for name in sorted(waiting.keys() - set(names)):
                if (Path(current) / waiting[name] / MANIFEST).is_file():
                    yield Path(current) / name
            hidden_root = Path(current) == self.root
            names[:] = sorted(
                n for n in names if not n.startswith(".") and not (hidden_root and n == FAILED)
            )

    def list(
        self,
        *,
        target: str | None = None,
        method: str | None = None,
        task_hash: str | None = None,
        damaged: list[Damage] | None = None,
    ) -> list[StoredRun]:
        """All readable runs, ordered by target, method, profile, seed and run id.

        Args:
            target: only this target.
            method: only this method.
            task_hash: only runs of this task.
            damaged: receives the folders that cannot be read; None = the first one is an error.

        Raises:
            ResultError: a damaged run, if ``damaged`` is None.
        """
        runs = []
        for folder in self.folders():
            try:
                run = present(folder)
            except ResultError as error:
                if damaged is None:
                    raise
                damaged.append(Damage(folder, str(error)))
                continue
            if run is None:
                continue
            if target is not None and run.target != target:
                continue
            if method is not None and run.method != method:
                continue
            if task_hash is not None and run.task_hash != task_hash:
                continue
            runs.append(run)
        return sorted(runs, key=lambda r: (r.target, r.method, r.profile, r.seed, r.run_id))

    def find(self, target: str, method: str, seed: int, run_id: str) -> StoredRun | None:
        """The run with this identity, or None.

        Raises:
            ResultError: its folder exists and is damaged.
        """
        return present(self.run_folder(target, method, seed, run_id))

    def get(self, name: str) -> StoredRun:
        """Look a run up by run id, by the first digits of one, or by its folder's name.

        Raises:
            MissingRunError: no run or several runs of that name.
            ResultError: a damaged run.
        """
        return read_run(self.locate(name))

    def locate(self, name: str) -> Path:
        """Folder of the run that ``name`` means, readable or not; raises like :meth:`get`."""
        if not name:
            raise MissingRunError("an empty run id; expected the first digits of one.")
        folders = list(self.folders())
        exact = [f for f in folders if f.name == name]
        found = exact or [f for f in folders if f.name.rpartition("-")[2].startswith(name)]
        if not found:
            known = [*(f.name for f in folders), *(f.name.rpartition("-")[2] for f in folders)]
            raise MissingRunError(
                f"no run {name!r} among the {len(folders)} runs in {self.root}."
                f"{did_you_mean(name, known)} "
                "`bench runs list` shows them; `--store DIR` or BENCH_STORE names another store."
            )
        if len(found) > 1:
            shown = ", ".join(f.name for f in found[:8])
            raise MissingRunError(
                f"{name!r} means {len(found)} runs in {self.root}: {shown}. Give more digits."
            )
        return found[0]

    def remove(self, name: str) -> Path:
        """Delete a run (also a damaged one) at once, and return the folder it was in."""
        folder = self.locate(name)
        with self._lock(folder, timeout=5.0):
            for path in (older(folder), folder):
                with suppress(FileNotFoundError):  # removed meanwhile, which is what was asked for
                    discard(path)
        return folder

    def unfinished(self) -> Sequence[Path]:
        """Work folders of runs that were interrupted, killed, failed, or are running now."""
        work = self.root / WORK
        names = sorted(work.iterdir()) if work.is_dir() else []
        return [path for path in names if path.is_dir() and RUN_ID.fullmatch(path.name)]

    def clean(self) -> Sequence[Path]:
        """Delete the checkpoints of runs that no process works on; return their work folders.

        What killed processes left under construction anywhere in the store goes, too.
        """
        removed = []
        for folder in self.unfinished():
            with suppress(ResultError, FileNotFoundError), lock(folder, timeout=0):
                discard(folder)
                removed.append(folder)
        for current, names, _ in os.walk(self.root):
            removed += sweep(Path(current), _UNLOCKED)
            for name in filter(None, map(replaced_name, names)):
                removed += self._settle(Path(current) / name)
            names[:] = [name for name in names if not name.startswith(".partial-")]
        return removed

    def _settle(self, folder: Path) -> Sequence[Path]:
        """Put an older result back whose replacement never came, or delete it if that is there."""
        with suppress(ResultError, FileNotFoundError), self._lock(folder, timeout=0):
            if not folder.exists():
                older(folder).rename(folder)
                return []
            discard(older(folder))
            return [older(folder)]
        return []

    def _lock(self, folder: Path, timeout: float) -> AbstractContextManager[None]:
        """Hold the lock of a stored run."""
        return lock(self.work_folder(folder.name.rpartition("-")[2]), timeout=timeout)

    def failures(self) -> Sequence[dict[str, Any]]:
        """Records of failed runs, in order of their path; unreadable ones are skipped."""
        records = []
        for path in sorted((self.root / FAILED).glob(f"*/*/{MANIFEST}")):
            try:
                records.append({**read_json(path), "path": str(path.parent)})
            except ResultError:
                continue
        return records


def open_store(store: RunStore | StrPath | None = None) -> RunStore:
    """A store, or the store in a folder; None means ``BENCH_STORE``, else ``./bench-runs``."""
    if isinstance(store, RunStore):
        return store
    return RunStore(store_root() if store is None else Path(store))


def sweep_locks(work: Path) -> None:
    """Remove lock files in ``work`` that guard nothing: no folder, and no process that holds them."""
    for file in work.glob("*.lock"):
        folder = file.with_suffix("")
        if not folder.exists():
            # Holding the lock is what makes removing it safe, and its end removes it.
            with suppress(ResultError), lock(folder, timeout=0):
                pass


def present(folder: Path) -> StoredRun | None:
    """The run of a folder, or None if there is none, or none any more.

    Raises:
        ResultError: it is damaged.
    """
    for _ in range(_TRIES):
        if not settled(folder).exists():
            return None
        with suppress(RunGoneError):
            return read_run(folder)
    return None
