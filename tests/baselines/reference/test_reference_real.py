"""Reference rows on the real domains: figures of an independent trial, within what a draw moves."""

import os
from pathlib import Path

import pytest

from bench import assets
from bench.data.load import load_domain
from bench.evaluation import metric_per_user
from bench.methods import resolve, resolve_config
from bench.protocol.task import build_task
from bench.testing import evaluate, make_context

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(
        "BENCH_DATA_ROOT" not in os.environ, reason="BENCH_DATA_ROOT is unset: no real domains"
    ),
]

TEXTBOOK = {"pair_decay": 1.0, "candidate_exponent": 0.5, "shrinkage": 0.0, "popularity": 1e-5}
TRIAL = {
    ("amazon-beauty", "popularity"): (0.124, 0.255),
    ("amazon-beauty", "item-knn"): (0.257, 0.390),
    ("amazon-sports", "popularity"): (0.141, 0.268),
    ("amazon-sports", "item-knn"): (0.219, 0.358),
    ("amazon-beauty", "title-knn"): (0.236, 0.358),
    ("amazon-toys", "title-knn"): (0.261, 0.370),
    ("amazon-beauty", "hybrid-knn"): (0.322, 0.450),  # weights set by hand
    ("amazon-toys", "hybrid-knn"): (0.314, 0.434),
}


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    tasks = {}

    def measure(domain, name, **overrides):
        if domain not in tasks:
            root = Path(os.environ["BENCH_DATA_ROOT"])
            if not (root / domain).is_dir():
                pytest.skip(f"{domain} is not under BENCH_DATA_ROOT")
            tasks[domain] = build_task(load_domain(domain))
        task = tasks[domain]
        cls = resolve(name)
        method = cls(resolve_config(cls, overrides=overrides))
        context = make_context(tmp_path_factory.mktemp("scratch"), task)
        method.fit(task.train_view(with_sources=False), context)
        outcomes = evaluate(method, task.test(task.subset(None)), context)
        return tuple(float(metric_per_user(outcomes, m).mean()) for m in ("ndcg@1", "ndcg@5"))

    return measure


@pytest.mark.parametrize("domain", ["amazon-beauty", "amazon-sports"])
def test_popularity_matches_the_trial(figures, domain):
    assert figures(domain, "popularity") == pytest.approx(TRIAL[domain, "popularity"], abs=0.01)


@pytest.mark.parametrize("domain", ["amazon-beauty", "amazon-sports"])
def test_textbook_item_knn_matches_the_trial_and_the_default_is_as_strong(figures, domain):
    trial = TRIAL[domain, "item-knn"]
    assert figures(domain, "item-knn", **TEXTBOOK) == pytest.approx(trial, abs=0.01)
    default = figures(domain, "item-knn")
    assert default[0] >= trial[0] - 0.01
    assert default[1] >= trial[1] - 0.01


@pytest.mark.parametrize("domain", ["amazon-beauty", "amazon-toys", "amazon-food"])
@pytest.mark.parametrize("name", ["markov", "item-knn", "ease"])
def test_personalised_rows_beat_popularity(figures, domain, name):
    assert figures(domain, name)[1] > figures(domain, "popularity")[1]


needs_encoder = pytest.mark.skipif(
    not assets.is_present("all-minilm-l6-v2"),
    reason="all-MiniLM-L6-v2 is absent: run `bench assets pull all-minilm-l6-v2`",
)


@needs_encoder
@pytest.mark.parametrize("domain", ["amazon-beauty", "amazon-toys"])
def test_title_rows_reach_the_trial(figures, domain):
    title, trial = figures(domain, "title-knn"), TRIAL[domain, "title-knn"]
    assert title == pytest.approx(trial, abs=0.015)
    hybrid, trial = figures(domain, "hybrid-knn"), TRIAL[domain, "hybrid-knn"]
    assert hybrid[0] > trial[0] - 0.015
    assert hybrid[1] > trial[1] - 0.015
    assert hybrid[1] > max(title[1], figures(domain, "item-knn")[1])
