"""One stored run: its folder read and checked. Imports neither torch nor methods nor protocol.

A run is a folder with ``manifest.json``, ``per_user.parquet``, ``metrics.json`` and ``log.txt``, with
``sets/<hash>.parquet`` for each further request set and optionally ``model/``.

Reading repairs nothing: what is damaged is named, together with the command that removes it.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ResultError, RunGoneError
from bench.io import hash_json, read_json, sha256_file, write_json
from bench.partial import settled
from bench.runs.schema import manifest_fault, metrics_fault

if TYPE_CHECKING:
    from bench.evaluation import Outcomes

__all__ = [
    "FORMAT",
    "RENAMED",
    "StoredRun",
    "check_file",
    "folder_name",
    "is_sealed",
    "read_manifest",
    "read_run",
    "seal_of",
    "slug",
    "write_manifest",
]

FORMAT = 2
"""Version of the run folder; readers refuse newer ones. From 2 on the manifest is sealed."""

SEAL = "seal"
"""Field with the SHA-256 of the canonical JSON of all other fields of the manifest."""

MANIFEST, PER_USER, METRICS, LOG = "manifest.json", "per_user.parquet", "metrics.json", "log.txt"
MODEL = "model"

RUN_ID = re.compile(r"[0-9a-f]{16}")

RENAMED: Mapping[tuple[str, str], str] = {("molorec", "1"): "all-data-average"}
"""What methods are called whose stored runs have another name, by that name and version.

Run ids and folders hold the name that a run was made under; tables, commands and messages the new one.
"""


_State = tuple[int, int] | None


@dataclass(frozen=True, eq=False, repr=False)
class StoredRun:
    """One finished run.

    Attributes:
        path: its folder.
        manifest: identity, configuration, environment, times; see ``docs/runs.md``.
        metrics: content of ``metrics.json``.
        state: which folder it was when it was read, see :meth:`reading`.
    """

    path: Path
    manifest: Mapping[str, Any]
    metrics: Mapping[str, Any]
    state: _State = None

    def __repr__(self) -> str:
        return f"StoredRun({self.shown_name} on {self.target}, seed {self.seed}, {self.run_id[:8]})"

    @property
    def run_id(self) -> str:
        """Identity, 16 hex digits."""
        return str(self.manifest["run_id"])

    @property
    def method(self) -> str:
        """The method's own name; not the stored one if it was renamed since (:data:`RENAMED`)."""
        return RENAMED.get(
            (self.stored_method, self.manifest["method"]["version"]), self.stored_method
        )

    @property
    def stored_method(self) -> str:
        """The method's name when the run was made: part of its identity and of its folder's name."""
        return str(self.manifest["method"]["name"])

    @property
    def family(self) -> str:
        """The method's family, a value of :class:`bench.methods.Family`."""
        return str(self.manifest["method"]["family"])

    @property
    def target(self) -> str:
        """Target domain."""
        return str(self.manifest["target"])

    @property
    def sources(self) -> tuple[str, ...]:
        """Source domains, in the order given."""
        return tuple(self.manifest["sources"])

    @property
    def profile(self) -> str:
        """Named hyper-parameters."""
        return str(self.manifest["profile"])

    @property
    def seed(self) -> int:
        """Training seed."""
        return int(self.manifest["seed"])

    @property
    def config(self) -> dict[str, Any]:
        """Resolved configuration."""
        return dict(self.manifest["config"])

    @property
    def task_hash(self) -> str:
        """Runs with equal task hash are comparable."""
        return str(self.manifest["task"]["task_hash"])

    @property
    def candidates_hash(self) -> str:
        """Identity of the test candidates."""
        return str(self.manifest["task"]["candidates_hash"])

    @property
    def users_hash(self) -> str:
        """Identity of the scored user set."""
        return str(self.manifest["users"]["users_hash"])

    @property
    def n_users(self) -> int:
        """How many users were scored."""
        return int(self.manifest["users"]["n_users"])

    @property
    def imported(self) -> Mapping[str, Any] | None:
        """What is declared of scores that another program computed; None for runs of a method."""
        found = self.manifest.get("imported")
        if found is None and set(self.config) == {"scores_sha256"}:
            found = self.config  # imported by a version that recorded the hash alone
        return found

    @property
    def shown_name(self) -> str:
        """The method's name for people: imported scores are marked wherever they stand."""
        return self.method if self.imported is None else f"{self.method} (imported)"

    @property
    def figures(self) -> dict[str, dict[str, Any]]:
        """``mean`` and ``ci95`` by metric, in the evaluator's order; JSON files sort them by name."""
        from bench.evaluation import METRICS

        found = self.metrics["metrics"]
        return {name: found[name] for name in METRICS if name in found}

    @property
    def sets(self) -> dict[str, dict[str, Any]]:
        """Further request sets scored by the same fit, by candidates hash."""
        return dict(self.manifest.get("sets", {}))

    @contextmanager
    def reading(self) -> Iterator[None]:
        """While its files are read: a run that is not the one of its manifest any more is gone.

        Raises:
            RunGoneError: reading failed, and another process removed or replaced the run.
        """
        with _reading(self.path, self.state):
            yield

    @cached_property
    def _main(self) -> tuple[NDArray[np.int32], Outcomes]:
        return self._read(PER_USER)

    @property
    def users(self) -> NDArray[np.int32]:
        """Canonical user indices, int32, ascending, one per outcome."""
        return self._main[0]

    def outcomes(self, candidates_hash: str | None = None) -> Outcomes:
        """Outcomes of the task's test candidates, or of a further request set.

        Args:
            candidates_hash: key of :attr:`sets`; None or the run's own hash = the task's candidates.

        Raises:
            ResultError: the file is absent, damaged, or not the one the manifest describes.
        """
        if candidates_hash is None or candidates_hash == self.candidates_hash:
            return self._main[1]
        if candidates_hash not in self.sets:
            known = ", ".join(self.sets) or "none"
            raise ResultError(
                f"run {self.run_id} has no request set {candidates_hash}; its further sets: {known}."
            )
        name = str(self.sets[candidates_hash]["file"])
        users, outcomes = self._read(name)
        if not np.array_equal(users, self.users):
            raise _damaged(self.path, f"{name}: 'user' is not that of {PER_USER}")
        return outcomes

    def _read(self, name: str) -> tuple[NDArray[np.int32], Outcomes]:
        import polars as pl

        from bench.evaluation import Outcomes

        with self.reading():
            check_file(self.path, name, self.manifest["files"])
            content = (self.path / name).read_bytes()
        try:
            frame = pl.read_parquet(io.BytesIO(content))
        except Exception as error:
            raise _damaged(self.path, f"{name} is not a readable Parquet file ({error})") from error
        columns = {column: frame[column].to_numpy() for column in frame.columns}
        users = columns.pop("user", None)
        if users is None or users.dtype != np.int32 or len(users) != self.n_users:
            found = "no column" if users is None else f"{len(users)} rows of {users.dtype}"
            raise _damaged(self.path, f"{name}: 'user' has {found}, expected {self.n_users} int32")
        if np.any(np.diff(users) <= 0):
            raise _damaged(self.path, f"{name}: 'user' is not strictly ascending")
        try:
            return users, Outcomes.from_columns(columns)
        except ResultError as error:
            raise _damaged(self.path, f"{name}: {error}") from error


def check_file(folder: Path, name: str, files: Mapping[str, str]) -> None:
    """Compare a file of a run with the SHA-256 in its manifest.

    Raises:
        ResultError: the file is absent, changed, or not listed.
    """
    path = folder / name
    if name not in files:
        raise _damaged(folder, f"the manifest does not list {name}")
    if not path.is_file():
        raise _damaged(folder, f"{name} is missing")
    found = sha256_file(path)
    if found != files[name]:
        raise _damaged(
            folder,
            f"{name} was changed: SHA-256 {found[:12]}..., the manifest says {files[name][:12]}...",
        )


def _damaged(folder: Path, reason: str) -> ResultError:
    return ResultError(
        f"{folder}: damaged run: {reason}. Remove it with `bench runs rm {folder.name}` and run it "
        "again, or restore it from an export."
    )


def slug(name: str) -> str:
    """A method or domain name as part of a folder name: letters, digits, ``.``, ``_`` and ``-``."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", name).strip(".-") or "unnamed"


def folder_name(method: str, seed: int, run_id: str) -> str:
    """Name of a run's folder below its target's."""
    return f"{slug(method)}-s{seed}-{run_id}"


def read_run(path: Path) -> StoredRun:
    """Read one run folder.

    Raises:
        ResultError: not a run, damaged, or written by a newer version; the message names field and
            remedy.
        RunGoneError: another process removed or replaced it meanwhile.
    """
    path = settled(path)
    state = _state(path)
    with _reading(path, state):
        manifest = read_manifest(path)
        if manifest["status"] != "done":
            raise _damaged(path, f"status is {manifest['status']!r}, expected 'done'")
        for name in (METRICS, PER_USER):
            if not (path / name).is_file():
                raise _damaged(path, f"{name} is missing")
        check_file(path, METRICS, manifest["files"])
        metrics = read_json(path / METRICS)
    fault = metrics_fault(metrics)
    if fault is not None:
        raise _damaged(path, f"{METRICS}: {fault}")
    return StoredRun(path, manifest, metrics, state)


def _state(path: Path) -> _State:
    """Which folder a path means now; None if there is none."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_ctime_ns


@contextmanager
def _reading(path: Path, state: _State) -> Iterator[None]:
    """Tell a damaged run from one that is not the folder ``state`` any more."""
    try:
        yield
    except (ResultError, OSError) as error:
        if state is None or _state(path) != state:
            raise RunGoneError(
                f"{path}: another process removed or replaced this run while it was read. "
                "Repeat the command."
            ) from error
        raise


def seal_of(manifest: Mapping[str, Any]) -> str:
    """SHA-256 (64 hex digits) of the canonical JSON of everything but the seal.

    Raises:
        ValueError: NaN or infinity.
    """
    return hash_json({key: value for key, value in manifest.items() if key != SEAL})


def is_sealed(manifest: Mapping[str, Any]) -> bool:
    """Whether a manifest that was read carries its seal; runs of format 1 may not."""
    return SEAL in manifest


def write_manifest(folder: Path, manifest: Mapping[str, Any]) -> None:
    """Seal a manifest and write it into a run folder; the one way to do it."""
    # As it will be read: keys that are numbers become texts, which sort otherwise.
    values = json.loads(json.dumps({**manifest, "format": FORMAT}, allow_nan=False))
    write_json(folder / MANIFEST, {**values, SEAL: seal_of(values)})


def read_manifest(path: Path) -> dict[str, Any]:
    """Read and check a run's manifest; raises like :func:`read_run`."""
    try:
        manifest = read_json(path / MANIFEST)
    except ResultError as error:
        raise _damaged(path, str(error)) from error
    if not isinstance(manifest, dict):
        raise _damaged(path, f"{MANIFEST} holds {type(manifest).__name__}, expected an object")
    found = manifest.get("format")
    if isinstance(found, int) and found > FORMAT:
        raise ResultError(
            f"{path}: run format {found}; this version reads up to {FORMAT}. Update weavebench."
        )
    _check_seal(path, manifest)
    fault = manifest_fault(manifest)
    if fault is not None:
        raise _damaged(path, f"{MANIFEST}: {fault}")
    _check_names(path, manifest)
    return manifest


def _check_seal(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse a manifest that is not the one that was written; format 1 knew no seal."""
    if not is_sealed(manifest):
        if manifest.get("format") == 1:
            return
        raise _damaged(path, f"{MANIFEST} has no field '{SEAL}'")
    try:
        right = seal_of(manifest)
    except ValueError as error:
        raise _damaged(path, f"{MANIFEST}: {error}") from error
    if manifest[SEAL] != right:
        raise _damaged(
            path,
            f"{MANIFEST} was changed: its fields give the seal {right[:12]}..., it says "
            f"{str(manifest[SEAL])[:12]}...",
        )


def _check_names(path: Path, manifest: Mapping[str, Any]) -> None:
    """Refuse file names that lead out of the run's folder: a manifest may come from anywhere."""
    files, sets = manifest["files"], manifest.get("sets", {})
    for name in files:
        parts = PurePosixPath(name).parts
        if not parts or ".." in parts or name.startswith("/") or re.search(r"[\\:\0]", name):
            raise _damaged(path, f"{MANIFEST}: file name {name!r} leads out of the folder")
    for key, described in sets.items():
        if described.get("file") not in files:
            raise _damaged(path, f"{MANIFEST}: request set {key} names no file of the run")
