"""Scores that another program computed, as a run like any other, marked as imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError, MethodError, ResultError
from bench.io import StrPath, read_json, sha256_file
from bench.methods import (
    Capabilities,
    Context,
    Family,
    Method,
    Requests,
    Scores,
    TrainView,
    registry,
)
from bench.protocol import Task, read_scores
from bench.protocol.requests_io import meta_path
from bench.runs.imported import Imported, declared
from bench.runs.manifest import PreparedRun
from bench.runs.runner import execute, prepare
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore, open_store
from bench.runs.stored import StoredRun
from bench.runs.tasks import TaskCache

__all__ = ["ExternalScores", "store_scores"]


class ExternalScores(Method):
    """Scores read from a file; one subclass per imported name.

    Attributes:
        imported: what was declared of them.
        users: int32, shape ``(n,)``, canonical user indices, ascending.
        values: float64, shape ``(n, c)``, in the order of the task's candidates.
    """

    family = Family.SINGLE_DOMAIN
    imported: ClassVar[Imported]
    users: ClassVar[NDArray[np.int32]]
    values: ClassVar[NDArray[np.float64]]

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return Capabilities(trainable=cls.imported.trained)

    @classmethod
    def content_hashes(cls, config: Any) -> Mapping[str, str]:
        """The file identifies a run. It is no setting: seeds of one model are files of one row."""
        return {"scores": cls.imported.scores_sha256}

    def fit(self, view: TrainView, context: Context) -> None:
        """Nothing to learn: the other program has done it."""

    def score(self, requests: Requests, context: Context) -> Scores:
        rows = np.searchsorted(self.users, requests.users)
        if not np.array_equal(self.users[np.minimum(rows, len(self.users) - 1)], requests.users):
            raise MethodError(
                f"{self.name}: requests of users without imported scores; import the scores of every "
                "exported request."
            )
        return Scores(self.values[rows])


def store_scores(
    spec: RunSpec,
    file: StrPath,
    store: RunStore | StrPath,
    *,
    version: str = "1",
    requests_file: StrPath | None = None,
    replace: bool = False,
    tasks: TaskCache | None = None,
    **facts: Any,
) -> StoredRun:
    """Align a file of scores with the test requests of a task, evaluate it and store the run.

    Args:
        spec: the task and the training seed; ``spec.method`` is the name that the scores get in tables.
        file: columns ``user_id``, ``item_id``, ``score``; see :func:`bench.protocol.read_scores`.
        store: where the run is kept.
        version: version of the model that scored.
        requests_file: the exported requests; their description must name this very task.
        replace: whether another import of the same name, version, seed, task and users is replaced.
        tasks: tasks that are built already; None builds them.
        facts: fields of :class:`bench.runs.imported.Imported` that are known.

    Returns:
        The stored run; the one that is stored already if the file and the facts are the same.

    Raises:
        ConfigError: the name is that of a method, the requests are of another task, a fact is not
            allowed, or a seed is given for a model without training.
        ProtocolError: scores are missing, repeated, not finite, or of other users or items.
        ResultError: something else is stored under this name; the message says what differs.
    """
    file, store = Path(file), open_store(store)
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; expected a table of user_id, item_id, score.")
    record = declared({"file": file.name, "scores_sha256": sha256_file(file), **facts})
    if spec.seed and not record.trained:
        raise ConfigError(
            f"--seed {spec.seed} with --untrained: what was not trained has no training seed. Leave one "
            "of the two out."
        )
    cls = _class_of(spec.method, version, record)
    spec = spec.model_copy(update={"imported": record})
    tasks = tasks or TaskCache()
    prepared = prepare(spec, tasks=tasks)
    task = prepared.loaded.task
    if requests_file is not None:
        _check_requests(Path(requests_file), task, prepared.users_hash)
    siblings = _siblings(prepared, version, store)
    for run in siblings:
        known = (run.imported or {}).get("scores_sha256")
        if run.seed != prepared.spec.seed and known == record.scores_sha256:
            raise ResultError(
                f"{file}: these scores are imported as seed {run.seed} already (run {run.run_id}). Training "
                "seeds say how far scores vary; give the scores of another training, or --untrained."
            )
    found = {
        run: record.differences(run.imported or {})
        for run in siblings
        if run.seed == prepared.spec.seed
    }
    others = {run: differences for run, differences in found.items() if differences}
    if others and not replace:
        run, differences = next(iter(others.items()))
        raise ResultError(
            f"{spec.method}, version {version}, seed {spec.seed} is imported on {spec.target} already "
            f"(run {run.run_id}, {str(run.manifest.get('finished', ''))[:10]}): {'; '.join(differences)}. "
            "Give another --name, --version or --seed, or --replace it."
        )
    same = [run for run, differences in found.items() if not differences]
    cls.users = prepared.users
    cls.values = read_scores(file, task.test(prepared.users))
    stored = same[0] if same else execute(spec, store, force=True, tasks=tasks)
    for run in others:
        # The older one goes when the new one is complete.
        if run.run_id != stored.run_id:
            store.remove(run.path.name)
    return stored


def _siblings(prepared: PreparedRun, version: str, store: RunStore) -> list[StoredRun]:
    """Imports of the same name and version over the same task and users: seeds of one row."""
    spec, task = prepared.spec, prepared.loaded.task
    return [
        run
        for run in store.list(target=spec.target, method=spec.method, damaged=[])
        if run.imported is not None
        and run.manifest["method"]["version"] == version
        and (run.task_hash, run.users_hash) == (task.task_hash, prepared.users_hash)
    ]


def _class_of(name: str, version: str, record: Imported) -> type[ExternalScores]:
    """The method class that stands for a file of scores, known under ``name`` in this process."""
    if name in registry.names():
        known = registry.load_class(name)
        if not issubclass(known, ExternalScores):
            raise ConfigError(
                f"--name {name}: a method of this name exists; imported scores need their own."
            )
    else:
        known = type("ImportedScores", (ExternalScores,), {"name": name, "__module__": __name__})
        registry.register(name, known)
    found: type[ExternalScores] = known
    found.version, found.family, found.imported = version, record.family, record
    return found


def _check_requests(file: Path, task: Task, users_hash: str) -> None:
    """Compare the description beside exported requests with the task."""
    meta = read_json(meta_path(file))
    meta = meta if isinstance(meta, dict) else {}
    advice = "Give the protocol options and --limit-users of the export, and the same data"
    sets = {"candidates_hash": task.candidates_hash, "users_hash": users_hash}
    if sets.items() <= meta.items():
        advice = (
            "Users and candidates agree, but not the data beside them (titles, training rows) or "
            "--train-on, --keep-leak or --ties. Give those of the export, or export again"
        )
    for key, here in (
        ("split", "test"),
        ("target", task.target),
        ("task_hash", task.task_hash),
        *sets.items(),
    ):
        if meta.get(key) != here:
            raise ResultError(
                f"{meta_path(file)}: {key} is {meta.get(key)}, this task's is {here}. {advice}."
            )
