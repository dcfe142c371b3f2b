"""title-knn and hybrid-knn against their definitions, written as plain loops."""

from __future__ import annotations

import numpy as np
import pytest

from bench.baselines.reference.hybrid_knn import HybridKNN, weight_grid
from bench.baselines.reference.title_knn import TitleKNN
from bench.baselines.reference.title_vectors import TitleVectors, cosines_over_history
from bench.baselines.text import encode_texts
from bench.data.domain import Sequences
from bench.errors import ConfigError, MissingExtraError
from bench.evaluation import metric_per_user, random_row
from bench.methods import Requests, resolve, resolve_config
from bench.protocol.task import build_task
from bench.testing import assert_conforms, evaluate, make_context, planted_task
from bench.testing.planted import make_domain

N_ITEMS = 60


@pytest.fixture(scope="module")
def task():
    return planted_task(n_users=120)


@pytest.fixture(scope="module")
def fitted(task, encoder, tmp_path_factory):
    def fit(name, of=task, **overrides):
        cls = resolve(name)
        read = {"hybrid-knn": {"title.encoder": encoder}, "title-knn": {"encoder": encoder}}
        method = cls(resolve_config(cls, overrides={**read.get(name, {}), **overrides}))
        context = make_context(tmp_path_factory.mktemp("scratch"), of)
        method.fit(of.train_view(with_sources=False), context)
        return method, context

    return fit


@pytest.fixture(scope="module")
def requests(task):
    return next(task.test(task.subset(None)).chunks(1000))[0]


def values(fitted_pair, requests):
    method, context = fitted_pair
    return method.score(requests, context).values


def brute_force(task, requests, encoder, reduce):
    """Scores by ``reduce(cosines, ages)`` over the history, one pair at a time."""
    vectors = encode_texts(list(task.train_view(with_sources=False).target.items.titles),
                           encoder=encoder).astype(np.float64)  # fmt: skip
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    expected = np.zeros(requests.candidates.shape)
    for row in range(len(requests)):
        history = requests.history[row].tolist()[::-1]
        for column, candidate in enumerate(requests.candidates[row].tolist()):
            cosines = np.array([vectors[candidate] @ vectors[item] for item in history])
            expected[row, column] = reduce(cosines, np.arange(len(history)))
    return expected


def test_title_knn_is_the_largest_cosine(task, fitted, requests, encoder) -> None:
    expected = brute_force(task, requests, encoder, lambda cosines, _: cosines.max())
    np.testing.assert_allclose(values(fitted("title-knn"), requests), expected, atol=1e-5)


@pytest.mark.parametrize("decay", [0.5, 1.0])
def test_recency_weighs_newer_titles_more(task, fitted, requests, encoder, decay) -> None:
    expected = brute_force(task, requests, encoder, lambda c, age: (decay**age * c).sum())
    found = values(fitted("title-knn", mode="recency", history_decay=decay), requests)
    np.testing.assert_allclose(found, expected, atol=2e-5)


# --- cosines over a history


def random_titles(n_titles=400, n_items=500, width=16, seed=0) -> TitleVectors:
    rng = np.random.default_rng(seed)
    unit = rng.normal(size=(n_titles, width)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    return TitleVectors(unit, rng.integers(0, n_titles, n_items).astype(np.int32))


def random_histories(lengths, n_items=500, seed=1) -> Sequences:
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return Sequences(offsets, rng.integers(0, n_items, int(offsets[-1])).astype(np.int32))


# 400 titles: 5 candidates are looked up one by one, 200 by a product with all titles.
@pytest.mark.parametrize("n_candidates", [5, 200])
@pytest.mark.parametrize("decay", [None, 0.7])
def test_both_ways_of_computing_equal_plain_loops(n_candidates, decay, monkeypatch) -> None:
    # Blocks of a few rows, so that their borders are crossed.
    monkeypatch.setattr("bench.baselines.reference.title_vectors._BLOCK", 3000)
    titles, history = random_titles(), random_histories([3, 0, 1, 9, 2, 0, 5, 9, 1, 30])
    candidates = np.random.default_rng(2).integers(0, 500, (10, n_candidates)).astype(np.int32)
    expected = np.zeros(candidates.shape)
    unit = titles.unit.astype(np.float64)[titles.of_item]
    for row in range(10):
        past = history[row][::-1]
        for column, candidate in enumerate(candidates[row]):
            cosines = unit[past] @ unit[candidate]
            if decay is None:
                expected[row, column] = cosines.max(initial=-2) if len(past) else 0
            else:
                expected[row, column] = (cosines * decay ** np.arange(len(past))).sum()
    found = cosines_over_history(titles, history, candidates, decay=decay)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("n_candidates", [7, 200])
@pytest.mark.parametrize("decay", [None, 0.7])
def test_order_of_candidates_and_rows_changes_nothing(n_candidates, decay) -> None:
    titles, history = random_titles(), random_histories(np.arange(20) % 6)
    rng = np.random.default_rng(3)
    candidates = rng.integers(0, 500, (20, n_candidates)).astype(np.int32)
    plain = cosines_over_history(titles, history, candidates, decay=decay)
    columns, rows = rng.permutation(n_candidates), rng.permutation(20)
    moved = cosines_over_history(
        titles, history.take(rows), candidates[rows][:, columns], decay=decay
    )
    np.testing.assert_allclose(moved, plain[rows][:, columns], atol=1e-6)


@pytest.mark.parametrize("n_candidates", [7, 200])
@pytest.mark.parametrize("decay", [None, 0.7])
def test_equal_titles_tie_exactly(n_candidates, decay) -> None:
    titles, history = random_titles(), random_histories([4] * 30)
    candidates = np.random.default_rng(4).integers(0, 500, (30, n_candidates)).astype(np.int32)
    twin = int(np.flatnonzero(np.bincount(titles.of_item, minlength=400) >= 3)[0])
    candidates[:, [0, 3, n_candidates - 1]] = np.flatnonzero(titles.of_item == twin)[:3]
    found = cosines_over_history(titles, history, candidates, decay=decay)
    np.testing.assert_array_equal(found[:, 0], found[:, 3])
    np.testing.assert_array_equal(found[:, 0], found[:, n_candidates - 1])


def test_an_empty_history_ties_all_candidates_and_disturbs_nobody(fitted, requests) -> None:
    pair = fitted("title-knn")
    lengths = requests.history.lengths.copy()
    lengths[::2] = 0
    keep = np.repeat(lengths > 0, requests.history.lengths)
    cut = Requests("planted", requests.users, requests.history.select(keep), requests.candidates)
    found = values(pair, cut)
    assert not found[::2].any()
    np.testing.assert_allclose(found[1::2], values(pair, requests)[1::2], atol=1e-6)


def test_items_nobody_trained_on_are_ranked_by_their_titles(fitted) -> None:
    """A cold item that is called like the history's items is first, a stranger is not."""
    titles = [*(f"blue shampoo {i}" for i in range(20)), *(f"star wars toy {i}" for i in range(20))]
    rows = [[u % 18, (u + 1) % 18, (u + 2) % 18, (u + 3) % 18] for u in range(40)]
    cold = build_task(make_domain("cold", rows, n_items=40, titles=titles), options=None)
    pair = fitted("title-knn", of=cold)
    history = Sequences(np.array([0, 2]), np.array([1, 2], dtype=np.int32))
    candidates = np.array([[19, *range(20, 40)]], dtype=np.int32)  # none was ever trained on
    found = values(pair, Requests("cold", np.zeros(1, np.int32), history, candidates))
    assert found[0, 0] > found[0, 1:].max()


# --- the hybrid


def test_the_hybrid_is_its_formula(task, fitted, requests) -> None:
    weights = (0.3, 0.6, 0.1)
    found = values(fitted("hybrid-knn", weights=list(weights)), requests)
    view = task.train_view(with_sources=False)
    title, context = fitted("title-knn")
    knn, _ = fitted("item-knn")
    counts = np.zeros(N_ITEMS)
    for row in range(len(view.target.sequences)):
        for item in view.target.sequences[row]:
            counts[item] += 1
    popularity = np.log(1 + counts) / np.log(1 + counts.max())

    def three(wanted):
        return (
            title.score(wanted, context).values,
            knn.score(wanted, context).values,
            popularity[wanted.candidates],
        )

    spreads = [np.std(part.astype(np.float64)) for part in three(view.target.validation)]
    expected = sum(
        weight * part / spread
        for weight, part, spread in zip(weights, three(requests), spreads, strict=True)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)


def test_a_single_weight_keeps_the_order_of_its_part(fitted, requests) -> None:
    for weights, name in (([2, 0, 0], "title-knn"), ([0, 1, 0], "item-knn")):
        expected = values(fitted(name), requests)
        found = values(fitted("hybrid-knn", weights=weights), requests)
        np.testing.assert_array_equal(
            np.argsort(found, axis=1, kind="stable"), np.argsort(expected, axis=1, kind="stable")
        )


def test_the_grid_is_every_triple_of_tenths() -> None:
    grid = weight_grid(10)
    assert len(grid) == len(set(grid)) == 66
    assert grid == sorted(grid)
    assert all(min(one) >= 0 and sum(one) == pytest.approx(1) for one in grid)
    assert {(1, 0, 0), (0, 1, 0), (0, 0, 1), (0.2, 0.7, 0.1)} <= set(grid)
    assert weight_grid(1) == [(0, 0, 1), (0, 1, 0), (1, 0, 0)]


def test_the_first_of_the_best_weights_on_validation_is_taken(fitted) -> None:
    method, context = fitted("hybrid-knn", steps=4, validation_users=60)
    chosen = tuple(method.weights.tolist())
    figures = {}
    for weights in weight_grid(4):
        method.weights = np.array(weights, dtype=np.float32)
        figures[weights] = context.validate(method).ndcg[5]
    best = max(figures.values())
    assert chosen == next(weights for weights, figure in figures.items() if figure == best)
    assert best > min(figures.values())


def test_given_weights_ask_for_no_validation(fitted, monkeypatch) -> None:
    monkeypatch.setattr(HybridKNN, "_choose", lambda *_: pytest.fail("validated"))
    method, _ = fitted("hybrid-knn", weights=[1, 1, 1])
    assert method.weights.tolist() == [1, 1, 1]


def test_the_chosen_weights_are_in_the_diagnostics(fitted, requests) -> None:
    method, context = fitted("hybrid-knn", weights=[0.25, 0.5, 0.25])
    diagnostics = method.score(requests, context).diagnostics
    assert diagnostics == {"weights": "title-knn 0.25, item-knn 0.5, log popularity 0.25"}
    for weights, name in (([0, 2, 0], "item-knn"), ([0, 0, 1], "popularity")):
        method, context = fitted("hybrid-knn", weights=weights)
        assert method.score(requests, context).diagnostics["equals"] == name


@pytest.mark.parametrize("weights", [[0, 0, 0], [1, -1, 1], [1, 2], [1, float("nan"), 1]])
def test_weights_that_rank_nothing_are_refused(weights) -> None:
    with pytest.raises(ConfigError, match="weights"):
        resolve_config(HybridKNN, overrides={"weights": weights})


def test_parts_are_scored_once_for_all_weights_that_are_tried(fitted, monkeypatch) -> None:
    calls: list[int] = []
    score = TitleKNN.score

    def counted(self, requests, context):
        calls.append(len(requests))
        return score(self, requests, context)

    monkeypatch.setattr(TitleKNN, "score", counted)
    counts = []
    for steps in (1, 6):
        calls.clear()
        fitted("hybrid-knn", steps=steps, validation_users=60)
        counts.append(len(calls))
    assert counts[0] == counts[1] > 0


@pytest.mark.parametrize("name", ["title-knn", "hybrid-knn"])
def test_rows_beat_chance_by_a_margin(task, fitted, name) -> None:
    method, context = fitted(name)
    outcomes = evaluate(method, task.test(task.subset(None)), context)
    assert metric_per_user(outcomes, "ndcg@5").mean() > random_row(30)["ndcg@5"] + 0.1


@pytest.mark.parametrize("name", ["title-knn", "hybrid-knn"])
def test_rows_conform(name, encoder) -> None:
    cls = resolve(name)
    key = "title.encoder" if name == "hybrid-knn" else "encoder"
    assert_conforms(cls, resolve_config(cls, overrides={key: encoder}))


@pytest.mark.usefixtures("own_cache")
@pytest.mark.parametrize("name", ["title-knn", "hybrid-knn"])
def test_an_absent_encoder_is_noticed_before_the_run(name) -> None:
    cls = resolve(name)
    config = resolve_config(cls)
    assert cls.capabilities(config).needs_text
    assert not cls.capabilities(config).trainable
    with pytest.raises(MissingExtraError, match="bench assets pull all-minilm-l6-v2"):
        cls.require(config)
