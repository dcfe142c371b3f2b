"""Agreement with ranx, pytrec_eval (through ir_measures) and RecBole on tie-free input."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

from bench.evaluation import METRICS, metric_per_user, rank_outcomes

N, C = 400, 30


@pytest.fixture(scope="module")
def problem():
    """Tie-free scores: every row is a permutation of 0 .. c - 1, with every rank present."""
    rng = np.random.default_rng(5)
    values = rng.permuted(np.tile(np.arange(C, dtype=np.float32), (N, 1)), axis=1)
    return values, rng.integers(0, C, N)


@pytest.fixture(scope="module")
def outcomes(problem):
    return rank_outcomes(*problem)


def as_dicts(values, position):
    names = [f"d{j:02d}" for j in range(values.shape[1])]
    qrels = {f"q{i:04d}": {names[p]: 1} for i, p in enumerate(position)}
    run = {
        f"q{i:04d}": dict(zip(names, map(float, row), strict=True)) for i, row in enumerate(values)
    }
    return qrels, run


@pytest.mark.slow  # Numba compiles ranx for 20 s on a fresh machine.
def test_equals_ranx(problem, outcomes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ranx

        qrels, run = as_dicts(*problem)
        names = {m: m.replace("hr@", "hit_rate@") for m in METRICS if m != "auc"}
        found = ranx.evaluate(qrels, run, list(names.values()), return_mean=False, threads=1)
    for metric, name in names.items():
        np.testing.assert_allclose(
            found[name], metric_per_user(outcomes, metric), rtol=0, atol=1e-12
        )


def test_equals_pytrec_eval(problem, outcomes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import ir_measures

        provider = ir_measures.providers.registry["pytrec_eval"]
        qrels, run = as_dicts(*problem)
        measures = {
            "ndcg@1": ir_measures.nDCG @ 1,
            "ndcg@3": ir_measures.nDCG @ 3,
            "ndcg@5": ir_measures.nDCG @ 5,
            "ndcg@10": ir_measures.nDCG @ 10,
            "hr@1": ir_measures.Success @ 1,
            "hr@5": ir_measures.Success @ 5,
            "hr@10": ir_measures.Success @ 10,
            # Reciprocal rank has no cut-off there; 30 candidates are never cut at 30.
            "mrr@30": ir_measures.RR,
        }
        found = {
            (str(value.measure), value.query_id): value.value
            for value in provider.iter_calc(list(measures.values()), qrels, run)
        }
    for metric, measure in measures.items():
        theirs = [found[str(measure), query] for query in sorted(qrels)]
        np.testing.assert_allclose(theirs, metric_per_user(outcomes, metric), rtol=0, atol=1e-12)


@pytest.fixture
def recbole_metrics(monkeypatch):
    """RecBole's metric module, with the NumPy names it still uses put back for the test."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = pytest.importorskip(
            "recbole.evaluator.metrics", reason="RecBole is absent: bench assets pull recbole"
        )
    monkeypatch.setattr(np, "float", float, raising=False)
    if "bool" not in np.__dict__:
        monkeypatch.setattr(np, "bool", bool, raising=False)
    return metrics


def test_equals_recbole(problem, outcomes, recbole_metrics):
    torch = pytest.importorskip("torch")
    values, position = problem
    topk = [1, 3, 5, 10]
    order = np.argsort(-values, axis=1)
    hits = (order[:, : max(topk)] == position[:, None]).astype(np.int64)
    record = torch.from_numpy(np.column_stack([hits, np.ones(N, np.int64)]))
    config = {"topk": topk, "metric_decimal_place": 15}
    for name, cls in {
        "ndcg": recbole_metrics.NDCG,
        "mrr": recbole_metrics.MRR,
        "hr": recbole_metrics.Hit,
    }.items():
        # Per user ...
        metric = cls(config)
        pos_index, pos_len = metric.used_info({"rec.topk": record})
        extra = (pos_len,) if name == "ndcg" else ()
        table = metric.metric_info(pos_index, *extra)
        for k in topk:
            np.testing.assert_allclose(
                table[:, k - 1], metric_per_user(outcomes, f"{name}@{k}"), rtol=0, atol=1e-12
            )
        # ... and through its public door, which averages and rounds.
        means = metric.calculate_metric({"rec.topk": record})
        for k in topk:
            mean = metric_per_user(outcomes, f"{name}@{k}").mean()
            assert means[f"{'hit' if name == 'hr' else name}@{k}"] == pytest.approx(mean, abs=1e-12)


def test_auc_equals_recbole_gauc_with_and_without_ties(recbole_metrics):
    torch = pytest.importorskip("torch")
    from scipy.stats import rankdata

    rng = np.random.default_rng(2)
    values = rng.integers(0, 8, (N, C)).astype(np.float32)
    position = rng.integers(0, C, N)
    mean_rank = rankdata(-values, axis=1)[np.arange(N), position]
    record = torch.from_numpy(np.column_stack([mean_rank, np.full(N, C), np.ones(N)]))
    metric = recbole_metrics.GAUC({"metric_decimal_place": 15})
    found = metric.calculate_metric({"rec.meanrank": record})["gauc"]
    ours = metric_per_user(rank_outcomes(values, position), "auc")
    assert ours.mean() == pytest.approx(found, abs=1e-12)


def test_auc_equals_scikit_learn_with_ties():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(9)
    values = rng.integers(0, 4, (40, 12)).astype(np.float32)
    position = rng.integers(0, 12, 40)
    ours = metric_per_user(rank_outcomes(values, position), "auc")
    for i in range(40):
        truth = np.arange(12) == position[i]
        assert ours[i] == pytest.approx(sklearn_metrics.roc_auc_score(truth, values[i]), abs=1e-12)


def test_ndcg_equals_scikit_learn_averaged_over_ties():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        sklearn_metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(10)
    values = rng.integers(0, 4, (40, 12)).astype(np.float32)
    position = rng.integers(0, 12, 40)
    outcomes = rank_outcomes(values, position)
    for k in (1, 3, 5, 10):
        ours = metric_per_user(outcomes, f"ndcg@{k}")
        for i in range(40):
            truth = (np.arange(12) == position[i]).astype(int)[None, :]
            theirs = sklearn_metrics.ndcg_score(truth, values[i : i + 1], k=k)
            assert ours[i] == pytest.approx(theirs, abs=1e-12)
