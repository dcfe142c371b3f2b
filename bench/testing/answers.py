"""Checks that a method does not know the answers: by what it scores, whatever road it took."""

from __future__ import annotations

import gc
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.enclosure import arrays_of, known_formula, own_module, replaced_code
from bench.evaluation import Outcomes, metric_per_user
from bench.protocol.candidate_sets import FixedSets
from bench.protocol.task import RequestSet, Task, build_task
from bench.testing.context import evaluate
from bench.testing.isolation import watch_prints
from bench.testing.planted import with_test_items
from bench.testing.results import CheckFailed
from bench.testing.scoring import different
from bench.testing.session import Fitted, Session, describe

__all__ = ["check_answers_changed", "check_candidate_rule", "outcomes_of"]

_USERS = 100


@dataclass(frozen=True, slots=True)
class _Run:
    """A run that holds its task as those of the harness do, for methods that look for one."""

    _prepared: Any

    def scores(self, session: Session, fitted: Fitted, decoy: int) -> NDArray[np.float32]:
        """Scores of all test requests, with the labels of each chunk on the stack meanwhile."""
        task: Task = self._prepared.loaded.task
        values = []
        for requests, labels in task.test(task.subset(None)).chunks(_USERS):
            values.append(session.values(fitted, requests, decoy))
            del labels
        return np.concatenate(values)


def check_answers_changed(session: Session) -> str:
    """Other answers to identical requests give identical scores, wherever the process keeps them."""
    fitted = session.base()
    _require_own_code(session)
    scores, requests = [], []
    for decoy, other in enumerate((False, True)):
        gc.collect()
        gc.freeze()  # what follows finds no other task among the collector's objects
        try:
            run = _Run(_prepared(session, other))
            requests.append(_requests(run._prepared.loaded.task))
            scores.append(run.scores(session, fitted, decoy))
            del run
        finally:
            gc.unfreeze()
    _require_own_code(session)
    _require_identical(*requests)
    if not np.array_equal(scores[0], scores[1], equal_nan=True):
        raise CheckFailed(
            f"with other held-out items, and everything that score receives byte for byte the same, the "
            f"scores change ({different(*scores)}): the answers reach it by a road of their own (files, the "
            "stack, the objects of the process, module variables). Score from requests and context alone."
        )
    return ""


def _require_own_code(session: Session) -> None:
    replaced = replaced_code(own_module(session.cls)) or session.code.restored()
    if replaced:
        raise CheckFailed(
            f"its code stands in the place of the harness's ({', '.join(replaced[:5])}); expected the "
            "package as it is. Subclass or wrap what you want to change."
        )


def _prepared(session: Session, other: bool) -> Any:
    """What a run holds: the small task, or one whose held-out items are other candidates."""
    target, sources = session.small_domains
    task = build_task(target, sources=sources)
    if other:
        users = task.subset(None)
        requests, labels = next(task.test(users).chunks(len(users)))
        place = (labels.position + 1) % requests.candidates.shape[1]
        items = requests.candidates[np.arange(len(users)), place]
        sets = FixedSets(
            domain=task.target,
            split="test",
            positives=items,
            ids_hash=task._test_sets.ids_hash,
            candidates=requests.candidates,
            position=place.astype(np.int32),
        )
        task = build_task(with_test_items(target, users, items), sources=sources)
        task._test_sets = sets
    return SimpleNamespace(loaded=SimpleNamespace(task=task), users=task.subset(None))


def _requests(task: Task) -> dict[str, NDArray[Any]]:
    chunks = task.test(task.subset(None)).chunks(_USERS)
    return {k: a for i, (r, _) in enumerate(chunks) for k, a in arrays_of(r, str(i)).items()}


def _require_identical(one: dict[str, NDArray[Any]], other: dict[str, NDArray[Any]]) -> None:
    differing = [name for name, array in one.items() if not np.array_equal(array, other[name])]
    if differing:
        raise CheckFailed(
            f"the test requests depend on the answers ({', '.join(differing)}): a fault of the protocol, "
            "not of the method; please report it."
        )


def check_candidate_rule(session: Session) -> str:
    """Is no better on the public candidate sets than on sets drawn alike from a secret seed."""
    task = session.small_task
    fitted = session.base()
    users = task.subset(None)
    public, secret = (
        metric_per_user(outcomes_of(session, fitted, requests), "ndcg@5")
        for requests in (task.test(users), task.secret_test(users, session.secret))
    )
    fault = known_formula(public, secret)
    if fault:
        raise CheckFailed(f"{fault}.")
    return f"NDCG@5 {public.mean():.3f} and {secret.mean():.3f}"


def outcomes_of(session: Session, fitted: Fitted, requests: RequestSet) -> Outcomes:
    """Outcomes of a request set, scored as in a run.

    Raises:
        CheckFailed: ``score`` raised an error.
    """
    try:
        with watch_prints(), session.enclosed("score", fitted.context):
            return evaluate(fitted.method, requests, fitted.context)
    except Exception as error:
        raise CheckFailed(f"score raised {describe(error)}") from error
