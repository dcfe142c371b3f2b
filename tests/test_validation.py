"""The shared validation: figures as by hand, labels out of reach and gone with the validator."""

import copy
import gc
import pickle

import numpy as np
import pytest

from bench import validation
from bench.errors import MethodError
from bench.methods import Capabilities, Family, Method, Scores
from bench.protocol.types import Labels
from bench.testing import evaluate, make_context, planted_task
from bench.validation import Validator, chunk_rows, validation_users


class Fixed(Method):
    """Scores by a fixed weight per item; ``change`` spoils the answer."""

    name = "fixed"
    version = "1"
    family = Family.REFERENCE

    def fit(self, view, context):
        self.weights = np.random.default_rng(3).normal(size=view.target.n_items)
        self.change = lambda values: values

    def score(self, requests, context):
        return Scores(self.change(self.weights[requests.candidates].astype(np.float32)))


@pytest.fixture(scope="module")
def task():
    return planted_task(n_users=90)


@pytest.fixture
def method(task):
    made = Fixed()
    made.fit(task.train_view(with_sources=False), None)
    return made


def reciprocal_ranks(method, requests, labels):
    """1-based ranks by sorting each row in Python; the weights have no ties."""
    ranks = []
    for row in range(len(requests)):
        values = method.weights[requests.candidates[row]].astype(np.float32)
        order = sorted(range(len(values)), key=lambda c: -values[c])
        ranks.append(order.index(int(labels.position[row])) + 1)
    return np.array(ranks)


@pytest.mark.parametrize("rows", [7, 2048], ids=["chunks", "at once"])
def test_figures_equal_ranks_by_sorting(task, method, tmp_path, monkeypatch, rows):
    monkeypatch.setattr(validation, "_MAX_ROWS", rows)
    requests, labels = task.validation(task.subset(40))
    ranks = reciprocal_ranks(method, requests, labels)
    context = make_context(tmp_path, task, validation_users=40)
    figures = context.validate(method)
    assert figures.n_users == 40
    for k in (1, 3, 5, 10):
        expected = np.where(ranks <= k, 1 / np.log2(ranks + 1), 0).mean()
        assert figures.ndcg[k] == pytest.approx(expected, abs=1e-12)
        ideal = [1 / np.log2(rank + 1) for rank in range(1, k + 1)]
        assert figures.chance[k] == pytest.approx(sum(ideal) / 30)
    for k in (5, 10):
        assert figures.mrr[k] == pytest.approx(np.where(ranks <= k, 1 / ranks, 0).mean())
    (call,) = context.validator.calls
    assert (call.ndcg1, call.ndcg5) == (figures.ndcg[1], figures.ndcg[5])


def test_loss_leaves_excluded_candidates_out(task, method, tmp_path):
    requests, labels = task.validation(task.subset(20))
    excluded = np.zeros(requests.candidates.shape, dtype=bool)
    excluded[np.arange(20), (labels.position + 1) % 30] = True
    validator = Validator(requests, Labels(labels.position, excluded), Capabilities())
    expected = []
    for row in range(20):
        values = method.weights[requests.candidates[row]].astype(np.float32).astype(float)
        kept = [v for v, out in zip(values, excluded[row], strict=True) if not out]
        expected.append(np.log(np.sum(np.exp(kept))) - values[labels.position[row]])
    found = validator.loss(method, make_context(tmp_path))
    assert found == pytest.approx(np.mean(expected), abs=1e-12)


SPOILED = {
    "float16": (lambda v: v.astype(np.float16), "float16"),
    "one column less": (
        lambda v: v[:, 1:],
        r"\(30, 29\), expected float32 or float64 of shape \(30, 30\)",
    ),
    "list": (lambda v: v.tolist(), "is list"),
    "NaN": (lambda v: np.full_like(v, np.nan), "NaN|unranked"),
    "infinite": (lambda v: np.full_like(v, np.inf), "infinite|inf"),
    "error": (lambda v: 1 // 0, r"score\(\) failed with ZeroDivisionError"),
}


@pytest.mark.parametrize("fault", SPOILED)
@pytest.mark.parametrize("ask", ["validate", "validation_loss", "evaluate"])
def test_spoiled_scores_are_refused_wherever_they_are_asked_for(task, method, tmp_path, fault, ask):
    method.change, message = SPOILED[fault]
    context = make_context(tmp_path, task, validation_users=30)
    with pytest.raises(MethodError, match=message):
        if ask == "evaluate":
            evaluate(method, [task.validation(task.subset(30))], context)
        else:
            getattr(context, ask)(method)


def test_labels_go_with_the_validator(task):
    gc.collect()  # validators that earlier tests left in a cycle go first, or they would go below
    before = set(validation._held)
    requests, labels = task.validation(task.subset(20))
    validator = Validator(requests, labels, Capabilities())
    (number,) = set(validation._held) - before
    assert validation._held[number] is labels
    del validator
    gc.collect()
    assert number not in validation._held


def test_closing_drops_the_labels(task, method, tmp_path):
    gc.collect()
    before = set(validation._held)
    context = make_context(tmp_path, task)
    (number,) = set(validation._held) - before
    context.validator.close()
    assert number not in validation._held
    context.validator.close()
    with pytest.raises(MethodError, match="closed"):
        context.validate(method)


def test_a_copy_shares_the_labels_and_its_end_leaves_them(task, method, tmp_path):
    context = make_context(tmp_path, task)
    for make in (copy.copy, copy.deepcopy):
        other = make(context.validator)
        assert other.figures(method, context).ndcg == context.validate(method).ndcg
        del other
        gc.collect()
        context.validate(method)


def test_labels_do_not_leave_the_process_in_a_pickle(task, tmp_path):
    with pytest.raises(TypeError, match="labels stay"):
        pickle.dumps(make_context(tmp_path, task).validator._token)


def test_number_of_users_follows_the_configuration():
    class Few:
        validation_users = 12

    class Every:
        validation_users = None

    assert validation_users(Few()) == 12
    assert validation_users(Every()) is None
    assert validation_users(object()) == 2000
    assert chunk_rows(30) == 2048
    assert chunk_rows(8_000_000) == 1


def test_a_context_validates_on_2000_users_unless_told(tmp_path):
    task = planted_task(n_users=2100)
    context = make_context(tmp_path, task)
    assert len(context.validator.requests) == 2000
    assert context.validator.requests.users.tolist() == task.subset(2000).tolist()
    assert len(make_context(tmp_path, task, validation_users=None).validator.requests) == 2100


def test_a_context_without_a_task_cannot_validate(method, tmp_path):
    with pytest.raises(MethodError, match="without a task"):
        make_context(tmp_path).validate(method)
