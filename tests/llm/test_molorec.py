"""MoLoRec as published, and the average with an adapter on all domains, which it is not."""

from __future__ import annotations

from pathlib import Path

import pytest
from test_llm_merged_methods import make, run, task_of, trained

from bench.errors import ConfigError
from bench.evaluation import metric_per_user
from bench.llm.adapters import AdapterStore
from bench.llm.methods.adapted import AdaptedMerge
from bench.merging import merge, read_adapter
from bench.testing import evaluate

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

SHORT = {"requests_per_domain": 6, "adapt.steps": 3, "adapt.batch_requests": 4}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "adapters"


def test_the_general_adapter_has_not_seen_the_target(tiny_llama, tmp_path, root):
    task = task_of("north", ("east", "south"))
    store = AdapterStore(root)
    method = make("molorec", tiny_llama, **SHORT)
    context = run(method, task, tmp_path / "m", store)
    mixtures = [one.domains for one in store.list() if one.kind == "trained"]
    assert sorted(mixtures, key=len) == [("north",), ("east", "south")]
    (merged,) = [one for one in store.list() if one.kind == "merged"]
    report = merged.metadata["report"]
    assert set(report["users"]) == {"north"}
    assert len(report["users"]["north"]) == 6
    assert len(report["entropies"]) == 3
    assert all(sum(row) == pytest.approx(1, abs=1e-6) for row in report["weights"].values())
    # Learnt layer by layer: neither the average nor one mix for all.
    assert len({round(row[0], 6) for row in report["weights"].values()}) > 1
    # In product space: exact, with the sum of the ranks.
    assert read_adapter(merged.folder).config.r == 8
    outcomes = evaluate(method, task.test(task.subset(10)), context)
    assert len(metric_per_user(outcomes, "ndcg@5")) == 10


def test_the_general_adapter_serves_every_target_that_it_has_not_seen(tiny_llama, tmp_path, root):
    for target, expected in (("north", 2), ("west", 1)):
        store = AdapterStore(root)
        task = task_of(target, ("east", "south"))
        run(make("molorec", tiny_llama, **SHORT), task, tmp_path / target, store)
        assert trained(store) == expected


def test_without_steps_it_is_the_product_average(tiny_llama, tmp_path, root):
    task = task_of("north", ("east",))
    store = AdapterStore(root)
    run(make("molorec", tiny_llama, **{**SHORT, "adapt.steps": 0}), task, tmp_path / "m", store)
    adapters = {one.kind: one for one in store.list()}
    parts = [read_adapter(one.folder) for one in store.list() if one.kind == "trained"]
    mean = merge(parts, "weight-average", {"space": "product"})
    found = read_adapter(adapters["merged"].folder)
    for module in found.modules:
        assert found.delta(module).numpy() == pytest.approx(mean.delta(module).numpy(), abs=1e-6)


def test_without_sources_it_is_target_only(tiny_llama, tmp_path, root):
    store = AdapterStore(root)
    method = make("molorec", tiny_llama, **SHORT)
    run(method, task_of("north", ()), tmp_path / "m", store)
    assert [one.kind for one in store.list() if one.kind != "init"] == ["trained"]


def test_what_is_published_is_the_default_but_for_the_requests(tiny_llama):
    config = make("molorec", tiny_llama).config
    assert (config.entropy, config.first_tokens, config.requests_per_domain) == ("token", 5, 100)
    assert config.adapt_on == "validation"
    assert not AdaptedMerge.capabilities(config).transductive
    test = make("molorec", tiny_llama, adapt_on="test")
    assert type(test).capabilities(test.config).transductive
    with pytest.raises(ConfigError, match="entropy=candidate"):
        make("molorec", tiny_llama, prompt="pointwise")


def test_the_average_with_all_domains_trains_nothing_of_its_own(
    tiny_llama: Path, tmp_path: Path, root: Path
) -> None:
    task = task_of("north", ("east",))
    store = AdapterStore(root)
    run(make("all-data", tiny_llama), task, tmp_path / "a", store)
    run(make("target-only", tiny_llama), task, tmp_path / "t", store)
    again = AdapterStore(root)
    run(make("all-data-average", tiny_llama), task, tmp_path / "m", again)
    assert trained(again) == 0
