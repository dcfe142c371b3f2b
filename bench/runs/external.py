"""Scores that another program computed, as a run like any other."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import create_model

from bench.errors import ConfigError, MethodError, ResultError
from bench.io import read_json, sha256_file
from bench.methods import (
    Context,
    Family,
    Method,
    MethodConfig,
    Requests,
    Scores,
    TrainView,
    registry,
)
from bench.protocol import Task, read_scores
from bench.protocol.requests_io import meta_path
from bench.runs.runner import execute, prepare
from bench.runs.spec import RunSpec
from bench.runs.store import RunStore
from bench.runs.stored import StoredRun

__all__ = ["ExternalScores", "store_scores"]


class ExternalConfig(MethodConfig):
    """What identifies the scores: the SHA-256 of the file."""

    scores_sha256: str


class ExternalScores(Method):
    """Scores read from a file; one subclass per imported file.

    Attributes:
        users: int32, shape ``(n,)``, canonical user indices, ascending.
        values: float32, shape ``(n, c)``, in the order of the task's candidates.
    """

    family = Family.SINGLE_DOMAIN
    Config = ExternalConfig
    users: ClassVar[NDArray[np.int32]]
    values: ClassVar[NDArray[np.float32]]

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
    file: Path,
    store: RunStore,
    *,
    version: str = "1",
    requests_file: Path | None = None,
) -> StoredRun:
    """Align a file of scores with the test requests of a task, evaluate it and store the run.

    Args:
        spec: the task; ``spec.method`` is the name that the scores get in tables.
        file: columns ``user_id``, ``item_id``, ``score``; see :func:`bench.protocol.read_scores`.
        store: where the run is kept.
        version: version of the model that scored.
        requests_file: the exported requests; their description must name this very task.

    Raises:
        ConfigError: the name is that of a method, or the requests are of another task.
        ProtocolError: scores are missing, repeated, not finite, or of other users or items.
    """
    if not file.is_file():
        raise ConfigError(f"{file}: no such file; expected a table of user_id, item_id, score.")
    cls = _class_of(spec.method, version, sha256_file(file))
    prepared = prepare(spec)
    task = prepared.loaded.task
    if requests_file is not None:
        _check_requests(requests_file, task, prepared.users_hash)
    cls.users = prepared.users
    cls.values = read_scores(file, task.test(prepared.users))
    return execute(spec, store)


def _class_of(name: str, version: str, digest: str) -> type[ExternalScores]:
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
    found.version = version
    # A default instead of an override: the row of these scores is the default one of its name.
    found.Config = create_model(
        "ImportedScoresConfig", __base__=ExternalConfig, scores_sha256=(str, digest)
    )
    return found


def _check_requests(file: Path, task: Task, users_hash: str) -> None:
    """Compare the description beside exported requests with the task."""
    meta = read_json(meta_path(file))
    for key, here in (
        ("task_hash", task.task_hash),
        ("candidates_hash", task.candidates_hash),
        ("users_hash", users_hash),
    ):
        if not isinstance(meta, dict) or meta.get(key) != here:
            found = meta.get(key) if isinstance(meta, dict) else None
            raise ResultError(
                f"{meta_path(file)}: {key} is {found}, this task's is {here}. Give the protocol options "
                "and --limit-users of the export, and the same data."
            )
