"""Reference rows against their definitions, written as plain loops."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.baselines.reference import arrays, ease
from bench.baselines.reference.memory import available_memory
from bench.data.domain import Sequences
from bench.errors import MethodError
from bench.evaluation import metric_per_user, random_row
from bench.memory import physical_memory
from bench.methods import Requests, resolve, resolve_config
from bench.testing import evaluate, make_context, planted_task

N_ITEMS = 60


@pytest.fixture(scope="module")
def task():
    return planted_task(n_users=120)


@pytest.fixture(scope="module")
def fitted(task, tmp_path_factory):
    def fit(name, **overrides):
        cls = resolve(name)
        method = cls(resolve_config(cls, overrides=overrides))
        context = make_context(tmp_path_factory.mktemp("scratch"), task)
        method.fit(task.train_view(with_sources=False), context)
        return method, context

    return fit


@pytest.fixture(scope="module")
def requests(task):
    return next(task.test(task.subset(None)).chunks(1000))[0]


def training(task):
    sequences = task.train_view(with_sources=False).target.sequences
    return [sequences[row].tolist() for row in range(len(sequences))]


def counted(task):
    counts = np.zeros(N_ITEMS)
    for row in training(task):
        for item in row:
            counts[item] += 1
    return counts


def brute_force(requests, score):
    values = np.zeros(requests.candidates.shape)
    for row in range(len(requests)):
        history = requests.history[row].tolist()
        for column, candidate in enumerate(requests.candidates[row].tolist()):
            values[row, column] = score(history, candidate)
    return values


def test_random_is_a_constant_and_earns_chance(task, fitted):
    method, context = fitted("random")
    outcomes = evaluate(method, task.test(task.subset(None)), context)
    for metric in ("ndcg@1", "ndcg@5", "mrr@5", "auc"):
        expected = random_row(30)[metric]
        assert metric_per_user(outcomes, metric).mean() == pytest.approx(expected, abs=1e-12)


def test_popularity_counts_training_events_only(task, fitted, requests):
    method, context = fitted("popularity")
    counts = counted(task)
    expected = brute_force(requests, lambda _, candidate: counts[candidate])
    np.testing.assert_array_equal(method.score(requests, context).values, expected)


@pytest.mark.parametrize("prior", [1.0, 7.5])
def test_markov_is_the_smoothed_transition_probability(task, fitted, requests, prior):
    method, context = fitted("markov", prior=prior)
    table = np.zeros((N_ITEMS, N_ITEMS))
    for row in training(task):
        for before, after in pairwise(row):
            table[before, after] += 1
    share = counted(task) / counted(task).sum()

    def score(history, candidate):
        last = history[-1]
        return (table[last, candidate] + prior * share[candidate]) / (table[last].sum() + prior)

    np.testing.assert_allclose(
        method.score(requests, context).values, brute_force(requests, score), rtol=1e-5
    )


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pair_decay": 1.0, "candidate_exponent": 0.5, "shrinkage": 0.0, "history_decay": 1.0},
        {"pair_decay": 0.5, "history_exponent": 0.3, "popularity": 0.0},
    ],
)
def test_item_knn_is_its_formula(task, fitted, requests, options):
    method, context = fitted("item-knn", **options)
    config = method.config
    pairs = np.zeros((N_ITEMS, N_ITEMS))
    for row in training(task):
        for i, one in enumerate(row):
            for j, other in enumerate(row):
                if i != j:
                    pairs[one, other] += config.pair_decay ** (abs(i - j) - 1)
    counts = counted(task)
    prior = config.popularity * np.log(1 + counts) / np.log(1 + counts.max())

    def score(history, candidate):
        total = prior[candidate]
        for age, item in enumerate(reversed(history)):
            scale = counts[item] ** config.history_exponent
            scale *= counts[candidate] ** config.candidate_exponent
            similarity = pairs[item, candidate] / (scale + config.shrinkage)
            total += config.history_decay**age * similarity
        return total

    np.testing.assert_allclose(
        method.score(requests, context).values, brute_force(requests, score), rtol=2e-4, atol=1e-6
    )


def test_textbook_item_knn_is_the_cosine_of_columns(task, fitted, requests):
    method, _ = fitted("item-knn", pair_decay=1.0, candidate_exponent=0.5, shrinkage=0.0)
    users = np.zeros((120, N_ITEMS))
    for user, row in enumerate(training(task)):
        users[user, row] = 1
    norms = np.linalg.norm(users, axis=0)
    cosine = users.T @ users / np.outer(norms, norms)
    np.fill_diagonal(cosine, 0)
    np.testing.assert_allclose(method.similarity.toarray(), cosine, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_ease_solves_its_regression_column_by_column(task, fitted, requests, precision):
    """Each column is the ridge regression of one item on all others (Steck, 2019, section 3.1)."""
    method, context = fitted("ease", l2=20.0, precision=precision, popularity=0.0)
    users = np.zeros((120, N_ITEMS))
    for user, row in enumerate(training(task)):
        users[user, row] = 1
    weights = np.zeros((N_ITEMS, N_ITEMS))
    for item in range(N_ITEMS):
        others = np.delete(np.arange(N_ITEMS), item)
        x = users[:, others]
        ridge = np.linalg.solve(x.T @ x + 20.0 * np.eye(N_ITEMS - 1), x.T @ users[:, item])
        weights[others, item] = ridge
    np.testing.assert_allclose(method.weights, weights, atol=1e-5)
    expected = brute_force(requests, lambda history, c: weights[history, c].sum())
    np.testing.assert_allclose(method.score(requests, context).values, expected, atol=1e-5)


def test_ease_mirrors_across_blocks():
    rng = np.random.default_rng(0)
    users = (rng.random((300, 1100)) < 0.02).astype(np.float64)
    gram = np.asfortranarray(users.T @ users)
    inverse = np.linalg.inv(gram + 5 * np.eye(1100))
    expected = -inverse / np.diag(inverse)
    np.fill_diagonal(expected, 0)
    np.testing.assert_allclose(ease.closed_form(gram, 5.0), expected, atol=1e-10)


def test_ease_says_what_to_do_when_the_matrix_is_not_definite():
    with pytest.raises(MethodError, match=r"not positive definite.*precision=float64"):
        ease.closed_form(np.asfortranarray(-np.eye(3)), 0.5)


def test_ease_refuses_before_it_runs_out_of_memory(fitted, monkeypatch):
    monkeypatch.setattr(ease, "available_memory", lambda: 1_000_000)
    with pytest.raises(MethodError, match=r"60 items need about 0\.2 GB.*0\.0 GB are available"):
        fitted("ease")


def test_available_memory_is_the_smaller_of_system_and_container(tmp_path):
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal: 9000 kB\nMemAvailable: 5000 kB\n")
    assert available_memory(meminfo, tmp_path) == 5000 * 1024
    (tmp_path / "memory.max").write_text("3000000\n")
    (tmp_path / "memory.current").write_text("1000000\n")
    assert available_memory(meminfo, tmp_path) == 2_000_000
    (tmp_path / "memory.max").write_text("max\n")
    assert available_memory(meminfo, tmp_path) == 5000 * 1024
    # Without either, as on macOS, all memory of the machine.
    assert available_memory(tmp_path / "none", tmp_path / "none") == physical_memory()


@st.composite
def sequences(draw, n_items=12):
    rows = draw(st.lists(st.lists(st.integers(0, n_items - 1), max_size=9), min_size=1, max_size=8))
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Sequences(offsets, np.array([i for row in rows for i in row], dtype=np.int32))


@settings(max_examples=50, deadline=None)
@given(history=sequences(), seed=st.integers(0, 99), c=st.integers(1, 12), block=st.integers(1, 40))
def test_sums_over_histories_agree_for_dense_sparse_product_and_blocks(history, seed, c, block):
    import scipy.sparse as sp

    rng = np.random.default_rng(seed)
    dense = rng.random((12, 12)) * (rng.random((12, 12)) < 0.4)
    sparse = sp.csr_array(dense.astype(np.float32))
    candidates = rng.integers(0, 12, (len(history), c)).astype(np.int32)
    weights = rng.random(len(history.items))
    expected = np.zeros(candidates.shape)
    for row, event in zip(history.rows, range(len(history.items)), strict=True):
        expected[row] += weights[event] * dense[history.items[event], candidates[row]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(arrays, "_BLOCK", block)
        for table, cost in ((dense, 1), (sparse, 0), (sparse, 10**6)):
            patch.setattr(arrays, "_LOOKUP_COST", cost)
            found = arrays.sum_over_history(table, history, candidates, weights)
            assert found.dtype == np.float32
            np.testing.assert_allclose(found, expected, atol=1e-5)


@given(history=sequences(), decay=st.sampled_from([0.05, 0.5, 1.0]))
def test_decayed_keeps_what_counts(history, decay):
    recent, weights = arrays.decayed(history, decay)
    assert len(recent) == len(history)
    start = 0
    for row in range(len(history)):
        kept = recent[row].tolist()
        full = history[row].tolist()
        assert full[len(full) - len(kept) :] == kept
        ages = range(len(kept) - 1, -1, -1)
        expected = [decay**age for age in ages]
        np.testing.assert_allclose(weights[start : start + len(kept)], expected)
        assert all(decay**age < 1e-4 for age in range(len(kept), len(full)))
        start += len(kept)


def test_full_ranking_equals_candidate_scores(task, fitted, requests):
    everything = np.broadcast_to(np.arange(N_ITEMS, dtype=np.int32), (len(requests), N_ITEMS))
    full = Requests(requests.domain, requests.users, requests.history, everything)
    for name in ("markov", "item-knn", "ease"):
        method, context = fitted(name)
        rows = np.take_along_axis(
            method.score(full, context).values, requests.candidates.astype(np.int64), axis=1
        )
        np.testing.assert_allclose(rows, method.score(requests, context).values, atol=1e-5)
