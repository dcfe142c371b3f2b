"""The tripwire finds held-out data wherever it hides, and leaves honest objects alone."""

import array
import functools
import itertools
import logging
import types
import weakref

import numpy as np
import pytest

from bench import validation
from bench.baselines.reference.markov import Markov
from bench.methods import Capabilities, QuietProgress
from bench.runs.attempt import Attempt
from bench.runs.context import RunContext
from bench.runs.journal import Journal
from bench.runs.manifest import PreparedRun
from bench.runs.resolve import Resolved
from bench.runs.spec import RunSpec
from bench.runs.tasks import LoadedTask
from bench.runs.work import Work
from bench.testing import held_out_paths, make_context, make_tripwire


@pytest.fixture(scope="module")
def wire():
    return make_tripwire(n_sources=1)


class Holder:
    def __init__(self, value=None):
        self.value = value

    def ask(self):
        return self.value


class Slotted:
    __slots__ = ("inner",)

    def __init__(self, inner):
        self.inner = inner


def closure_over(value):
    def inner():
        return value

    return inner


def suspended(value):
    kept = value
    yield 1
    yield kept


def started(value):
    generator = suspended(value)
    next(generator)
    return generator


def run_context(wire, folder) -> RunContext:
    """The context that a run on the tripwire task makes, with its journal, log and work folder."""
    spec = RunSpec(method="markov", target="tripwire", threads=1)
    config = Markov.Config()
    resolved = Resolved(spec, Markov, config, Capabilities(), None)
    users = wire.task.subset(None)
    prepared = PreparedRun(resolved, LoadedTask(wire.task, {}), users, "", "tripwire")
    work = Work(folder)
    journal = Journal.open(work, anew=True)
    attempt = Attempt(prepared, work, QuietProgress(), 60.0)
    return attempt._context(journal, QuietProgress(), logging.getLogger("x"), 1, lambda: None)


def kit_context(wire, folder):
    return make_context(folder, wire.task)


CONTEXTS = pytest.mark.parametrize("make", [run_context, kit_context], ids=["run", "kit"])


def test_view_of_the_harness_is_clean(wire):
    view = wire.task.train_view(with_sources=True)
    assert len(view.sources) == 1
    assert held_out_paths(view, "view", wire) == []


@CONTEXTS
def test_context_of_the_harness_is_clean_before_and_after_validating(wire, tmp_path, make):
    context = make(wire, tmp_path)
    method = Markov()
    method.fit(wire.task.train_view(with_sources=False), context)
    assert held_out_paths(context, "context", wire) == []
    figures = context.validate(method)
    assert figures.n_users == 40
    assert context.validation_loss(method) > 0
    assert held_out_paths(context, "context", wire) == []
    assert held_out_paths(method, "method", wire) == []


@CONTEXTS
def test_a_plugin_cannot_read_the_validation_labels(wire, tmp_path, make):
    class Thief(Markov):
        """Reads the answers from the context."""

        def fit(self, view, context):
            super().fit(view, context)
            self.labels = context.validator.labels

    with pytest.raises(AttributeError, match="labels"):
        Thief().fit(wire.task.train_view(with_sources=False), make(wire, tmp_path))


@CONTEXTS
def test_no_label_is_in_reach_while_a_method_scores(wire, tmp_path, make):
    found = []

    class Looker(Markov):
        """Searches what it is given, and the local variables of the validator that calls it."""

        def score(self, requests, context):
            import sys

            frame = sys._getframe(1)
            while frame.f_globals["__name__"] == "bench.validation" or "contextlib" in str(frame):
                found.extend(held_out_paths(dict(frame.f_locals), "frame", wire))
                frame = frame.f_back
            found.extend(held_out_paths([self, requests, context], "arguments", wire))
            return super().score(requests, context)

    context = make(wire, tmp_path)
    method = Looker()
    method.fit(wire.task.train_view(with_sources=False), context)
    context.validate(method)
    context.validation_loss(method)
    assert found == []


class Exposing:
    """A validator that keeps the labels, in one of the ways of doing so."""

    def __init__(self, requests, **kept):
        self.requests = requests
        vars(self).update(kept)


def positives_of(requests, labels):
    return requests.candidates[np.arange(len(requests)), labels.position]


EXPOSED = {
    "labels": lambda q, a: {"labels": a},
    "method of the labels": lambda q, a: {"n": a.__len__},
    "closure over labels": lambda q, a: {"check": closure_over(a)},
    "generator over labels": lambda q, a: {"parts": started(a)},
    "positions": lambda q, a: {"position": a.position},
    "positions as list": lambda q, a: {"position": a.position.tolist()},
    "positions as floats": lambda q, a: {"position": a.position.astype(np.float32)},
    "positions of some users": lambda q, a: {"position": a.position[::3].copy()},
    "user and position": lambda q, a: {"p": np.stack([q.users, a.position], axis=1)},
    "positions by user": lambda q, a: {
        "p": dict(zip(q.users.tolist(), a.position.tolist(), strict=True))
    },
    "array module": lambda q, a: {"p": array.array("i", a.position.tolist())},
    "one-hot": lambda q, a: {"y": np.arange(30) == a.position[:, None]},
    "cost": lambda q, a: {"y": 1.0 - (np.arange(30) == a.position[:, None])},
    "items": lambda q, a: {"items": positives_of(q, a)},
    "pairs": lambda q, a: {
        "pairs": list(zip(q.users.tolist(), positives_of(q, a).tolist(), strict=True))
    },
    "set of pairs": lambda q, a: {
        "pairs": set(zip(q.users.tolist(), positives_of(q, a).tolist(), strict=True))
    },
    "item by user": lambda q, a: {
        "items": dict(zip(q.users.tolist(), positives_of(q, a).tolist(), strict=True))
    },
    "raw ids": lambda q, a: {"ids": [f"item{i:04d}" for i in positives_of(q, a)]},
    "positive first": lambda q, a: {
        "candidates": np.concatenate([positives_of(q, a)[:, None], q.candidates], axis=1)
    },
    "user by item": lambda q, a: {"y": np.arange(1200) == positives_of(q, a)[:, None]},
    "iterator": lambda q, a: {"rows": iter([a])},
    "map": lambda q, a: {"rows": map(len, [a])},
    "chain": lambda q, a: {"rows": itertools.chain([1], [a])},
    "view of a dict": lambda q, a: {"rows": {1: a}.values()},
    "read-only mapping": lambda q, a: {"rows": types.MappingProxyType({"a": a})},
}


@pytest.mark.parametrize("way", EXPOSED)
def test_finds_validation_labels_that_a_context_exposes(wire, tmp_path, way):
    requests, labels = wire.task.validation(wire.task.subset(None))
    context = make_context(tmp_path, wire.task)
    context.validator = Exposing(requests, **EXPOSED[way](requests, labels))
    found = held_out_paths(context, "context", wire)
    assert found, way
    assert all(line.startswith("context.validator") for line in found)


def test_finds_labels_behind_a_property_of_the_package(wire, monkeypatch, tmp_path):
    context = make_context(tmp_path, wire.task)
    opened = property(lambda self: validation._held[self._token._number])
    monkeypatch.setattr(validation.Validator, "answers", opened, raising=False)
    (line, *_) = held_out_paths(context, "context", wire)
    assert line.startswith("context.validator.answers: the Labels of 40 requests")


def test_finds_labels_behind_weak_references(wire):
    kept = Holder(wire.task.validation(wire.task.subset(None))[1])
    assert held_out_paths(Holder(weakref.ref(kept)), "root", wire)
    watched = Holder()
    table = weakref.WeakKeyDictionary({watched: kept})
    assert held_out_paths(watched, "root", wire), "the callback leads to the table"
    assert len(table) == 1


class Foreign:
    """Answers for its attributes with what they cannot be, or not at all."""

    __slots__ = ("slot",)

    def __getattribute__(self, name):
        if name == "__dict__":
            return print
        if name == "slot":
            raise ValueError(name)
        return super().__getattribute__(name)


def test_objects_that_answer_with_anything_are_walked_past(wire):
    assert held_out_paths(Holder([Foreign()]), "root", wire) == []
    labels = wire.task.validation(wire.task.subset(None))[1]
    assert held_out_paths(Holder([Foreign(), labels]), "root", wire)


def test_finds_labels_in_the_traceback_of_a_kept_error(wire):
    def fail(labels):
        raise ValueError(len(labels))

    try:
        fail(wire.task.validation(wire.task.subset(None))[1])
    except ValueError as error:
        kept = error
    assert any("the Labels of 40" in line for line in held_out_paths(Holder(kept), "root", wire))


def test_finds_histories_that_hold_the_validation_item(wire):
    tests, _ = next(wire.task.test(wire.task.subset(None)).chunks(100))
    found = held_out_paths(tests.history, "root", wire)
    assert any("40 validation events in sequences" in line for line in found)
    assert any("validation items among" in line for line in found), "the flat array too"


HIDING_PLACES = {
    "attribute": lambda task: Holder(task),
    "slot": lambda task: Slotted(Slotted(task)),
    "dict value": lambda task: {"a": [{"b": task}]},
    "closure": lambda task: Holder(closure_over(task)),
    "bound method": lambda task: Holder(Holder(task).ask),
    "partial": lambda task: functools.partial(print, 1, task=task),
    "default argument": lambda task: Holder(lambda x=task: x),
    "keyword default": lambda task: Holder(lambda *, x=task: x),
    "suspended generator": lambda task: Holder(started(task)),
    "bound method of the task": lambda task: Holder(task.test),
    "set": lambda task: frozenset({task}),
}


@pytest.mark.parametrize("place", HIDING_PLACES)
def test_finds_the_task_in_every_hiding_place(wire, place):
    found = held_out_paths(HIDING_PLACES[place](wire.task), "root", wire)
    assert any("the Task itself" in line for line in found), found


def test_names_the_path(wire):
    found = held_out_paths(Holder([wire.task]), "context", wire)
    assert found[0].startswith("context.value[0]: the Task itself")


def test_finds_test_requests_by_their_histories(wire):
    requests, labels = next(wire.task.test(wire.task.subset(None)).chunks(100))
    found = held_out_paths(Holder(requests), "root", wire)
    assert any("test requests" in line for line in found)
    assert any("Labels" in line for line in held_out_paths(Holder(labels), "root", wire))


def test_finds_candidates_without_history(wire):
    requests, _ = next(wire.task.test(wire.task.subset(None)).chunks(100))
    validation, _ = wire.task.validation(wire.task.subset(None))
    mixed = type(requests)(requests.domain, requests.users, validation.history, requests.candidates)
    assert any("among the candidates" in line for line in held_out_paths(mixed, "root", wire))


DATA = {
    "array of test items": lambda t: t.copy(),
    "permuted array": lambda t: np.random.default_rng(0).permutation(t),
    "float array": lambda t: t.astype(np.float64),
    "view of a hidden array": lambda t: np.concatenate([t, np.zeros(5, np.int64)])[-5:],
    "list": lambda t: t.tolist(),
    "dict user -> item": lambda t: dict(enumerate(t.tolist())),
    "raw ids": lambda t: [f"item{i:04d}" for i in t],
    "object array of raw ids": lambda t: np.array([f"item{i:04d}" for i in t], dtype=object),
    "2-D array": lambda t: np.stack([np.arange(len(t)), t], axis=1),
}


@pytest.mark.parametrize("kind", DATA)
def test_finds_test_items_as_plain_data(wire, kind):
    assert held_out_paths(Holder(DATA[kind](wire.test)), "root", wire)


def test_finds_a_torch_tensor_of_test_items(wire):
    torch = pytest.importorskip("torch")
    assert held_out_paths(Holder(torch.tensor(wire.test)), "root", wire)


INNOCENT = {
    "the vocabulary": lambda: np.arange(1200),
    "random negatives": lambda: np.random.default_rng(0).integers(0, 1200, 5000),
    "an embedding": lambda: np.random.default_rng(0).normal(size=(1200, 8)).astype(np.float32),
    "a few canaries as negatives": lambda: np.array([1151, 1152, 3, 4]),
    "counts": lambda: np.ones(1200),
    "small numbers": lambda: [np.arange(n) for n in range(6, 41)],
    "zeros": lambda: [np.zeros(n, np.int64) for n in range(6, 41)],
    "ones": lambda: [[1] * n for n in range(6, 41)],
    "other columns": lambda: np.random.default_rng(0).integers(0, 30, (200, 40)),
    "scores of the candidates": lambda: np.random.default_rng(0).normal(size=(40, 30)),
    "scores of all items": lambda: np.random.default_rng(0).normal(size=(40, 1200)),
    "hyper-parameters": lambda: {"batch": 256, "dim": 64, "seed": 0, "lr": 1e-3},
}


def test_leaves_the_unlabelled_validation_requests_alone(wire):
    requests, _ = wire.task.validation(wire.task.subset(None))
    shapes = [
        requests,
        requests.candidates.copy(),
        requests.candidates.ravel().tolist(),
        np.unique(requests.candidates),
        np.sort(requests.candidates, axis=1),
        [
            wire.task.train_view(with_sources=False).target.items.ids[i]
            for i in requests.candidates[0]
        ],
    ]
    assert held_out_paths(shapes, "root", wire) == []


@pytest.mark.parametrize("kind", INNOCENT)
def test_leaves_honest_data_alone(wire, kind):
    assert held_out_paths(Holder(INNOCENT[kind]()), "root", wire) == []


def test_circular_structures_end(wire):
    a, b = Holder(), Holder()
    a.value, b.value = b, a
    assert held_out_paths(a, "root", wire) == []


def test_every_user_has_a_canary_of_their_own(wire):
    requests, labels = next(wire.task.test(wire.task.subset(None)).chunks(100))
    positives = requests.candidates[np.arange(len(requests)), labels.position]
    assert positives.tolist() == wire.test[requests.users].tolist()
    training = wire.task.train_view(with_sources=False).target.sequences.items
    assert not np.isin(training, np.concatenate([wire.test, wire.valid])).any()
