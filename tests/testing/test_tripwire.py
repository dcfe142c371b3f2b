"""The tripwire finds held-out data wherever it hides, and leaves honest objects alone."""

import functools

import numpy as np
import pytest

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


def test_view_and_context_of_the_harness_are_clean(wire, tmp_path):
    view = wire.task.train_view(with_sources=True)
    assert len(view.sources) == 1
    assert held_out_paths(view, "view", wire) == []
    assert held_out_paths(make_context(tmp_path, wire.task), "context", wire) == []


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
    assert held_out_paths(Holder(labels), "root", wire) == [], "positions alone name no item"


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
    "hyper-parameters": lambda: {"batch": 256, "dim": 64, "seed": 0, "lr": 1e-3},
}


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
