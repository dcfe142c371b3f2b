"""WeaveRec's identities: which adapters are one, how many steps they take, which merges are shared."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file

from bench.errors import ConfigError
from bench.llm.adapters import AdapterStore
from bench.llm.backbones import load_tokenizer, resolve_backbone
from bench.llm.batching import n_steps
from bench.llm.examples import Examples
from bench.llm.merge import Merge, merge_spec
from bench.llm.methods.branches import AdapterMethod
from bench.llm.mixtures import AdapterRecipe, mixture_examples
from bench.methods import DomainView
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol.task import Task, build_task
from bench.testing import make_context
from bench.testing.planted import planted_domain

BUDGET = {
    "train_examples": 12,
    "max_history": 5,
    "lora.r": 2,
    "training.learning_rate": 0.01,
}
NAMES = ("north", "east", "south")
SYMMETRIC = ("weight-average", "task-arithmetic", "ties", "dare", "lora-lego")


def make(name: str, backbone: Path | None = None, profile: str = "cpu", **changes: Any):
    method_cls = resolve(name)
    values = {**BUDGET, "backbone": str(backbone), **changes} if backbone else changes
    method = method_cls(resolve_config(method_cls, profile=profile, overrides=values))
    assert isinstance(method, AdapterMethod)
    return method


def task_of(target: str, *sources: str) -> Task:
    made = {
        name: planted_domain(name, n_users=30, n_items=45, seed=number)
        for number, name in enumerate(NAMES)
    }
    return build_task(made[target], sources=[made[name] for name in sources])


def views(task: Task) -> dict[str, DomainView]:
    view = task.train_view(with_sources=True)
    return {one.name: one for one in (view.target, *view.sources)}


def served(method: AdapterMethod, task: Task, folder: Path, store: AdapterStore) -> Path:
    context = make_context(folder, task, adapters=store)
    needs = type(method).capabilities(method.config).needs_sources
    method.fit(task.train_view(with_sources=needs), context)
    assert method.adapter is not None
    return method.adapter


def rows(examples: Examples) -> Counter[bytes]:
    """Every training row, with how often it stands there."""
    bounds = examples.offsets
    return Counter(
        examples.tokens[a:b].tobytes() + examples.labelled[a:b].tobytes()
        for a, b in pairwise(bounds)
    )


def recipe(method: AdapterMethod, order: int = 0) -> AdapterRecipe:
    return AdapterRecipe(method.config, 0, 0, "float32", order)


def test_the_hybrid_of_two_domains_is_one_adapter_for_both(tiny_llama):
    found = recipe(make("weaverec", tiny_llama))
    north, east = ("north", "1" * 64), ("east", "2" * 64)
    assert found.spec([north, east]).adapter_id == found.spec([east, north]).adapter_id
    assert found.spec([north, north]).adapter_id != found.spec([north]).adapter_id
    assert (
        found.spec([north, east]).adapter_id != found.spec([north, ("east", "3" * 64)]).adapter_id
    )


def test_a_hybrid_of_the_target_with_itself_is_the_targets_rows_twice(tiny_llama):
    method = make("weaverec", tiny_llama)
    tokenizer = load_tokenizer(resolve_backbone(str(tiny_llama)))
    north = views(task_of("north"))["north"]
    once = mixture_examples([north], method.config, tokenizer, 0)
    twice = mixture_examples([north, north], method.config, tokenizer, 0)
    assert len(once) == BUDGET["train_examples"]
    assert rows(twice) == rows(once) + rows(once)


def test_hybrid_only_sees_the_rows_of_all_branches_as_often(tiny_llama):
    task = task_of("north", "east", "south")
    tokenizer = load_tokenizer(resolve_backbone(str(tiny_llama)))
    found = views(task)
    seen = {}
    for name in ("weaverec", "hybrid-only"):
        method = make(name, tiny_llama)
        seen[name] = Counter()
        for branch in method.branches("north", ("east", "south")):
            parts = [found[domain] for domain in branch.domains]
            seen[name] += rows(mixture_examples(parts, method.config, tokenizer, 0))
    assert seen["weaverec"] == seen["hybrid-only"]
    assert seen["weaverec"].total() == 5 * BUDGET["train_examples"]


@pytest.mark.parametrize("profile", ["cpu", "paper"])
@pytest.mark.parametrize("n_sources", [1, 2, 3, 5])
def test_controls_take_the_steps_of_weaverec(profile, n_sources):
    sources = tuple(f"s{i}" for i in range(n_sources))

    def steps(name: str, **changes: Any) -> int:
        method = make(name, profile=profile, **changes)
        training = method.config.training
        per_domain = method.config.train_examples
        return sum(
            n_steps(len(b.domains) * per_domain, training.batch_sequences, training.epochs)
            for b in method.branches("t", sources)
        )

    epochs = make("target-only", profile=profile).config.training.epochs
    woven = steps("weaverec")
    alone = steps("target-only", **{"training.epochs": epochs * (2 * n_sources + 1)})
    assert woven == steps("hybrid-only")
    # 40,000 rows are 312.5 batches of 128: alone, every pass over them rounds up.
    assert alone == woven if profile == "cpu" else 0 < alone - woven <= epochs * (n_sources + 1)


def test_budgets_that_do_not_fill_their_batches_differ_by_a_step_per_branch():
    for size in range(1, 40):
        for n_sources in range(1, 5):
            each = n_steps(size, 8, 1) + n_sources * n_steps(2 * size, 8, 1)
            assert 0 <= each - n_steps((2 * n_sources + 1) * size, 8, 1) <= n_sources


def test_seed_average_trains_the_same_rows_in_another_order(tiny_llama, tmp_path):
    method = make("seed-average", tiny_llama)
    store = AdapterStore(tmp_path / "adapters")
    merged = served(method, task_of("north"), tmp_path / "c", store)
    parents = [a.metadata["recipe"] for a in store.list() if a.kind == "trained"]
    different = {key for key in parents[0] if parents[0][key] != parents[1][key]}
    assert different == {"order_seed"}
    factors = [load_file(a.folder / "adapter_model.safetensors") for a in store.list()
               if a.kind == "trained"]  # fmt: skip
    found = load_file(merged / "adapter_model.safetensors")
    for key, value in found.items():
        assert not factors[0][key].equal(factors[1][key])
        assert (value - (factors[0][key] + factors[1][key]) / 2).abs().max() < 1e-6


@pytest.mark.parametrize("merger", ["weight-average", "ties", "dare", "lora-lego"])
def test_the_order_of_the_sources_decides_nothing(merger, tiny_llama, tmp_path):
    store = AdapterStore(tmp_path / "adapters")
    found = {
        served(
            make("weaverec", tiny_llama, merger=merger),
            task_of("north", *sources),
            tmp_path / "-".join(sources),
            store,
        )
        for sources in (("east", "south"), ("south", "east"))
    }
    assert len(found) == 1


def test_targets_of_a_group_share_the_merge_of_their_adapters(tiny_llama, tmp_path):
    store = AdapterStore(tmp_path / "adapters")
    for name, n_adapters in (("merge-average", 1), ("merge-ext-sub", 2)):
        found = {
            served(make(name, tiny_llama), task_of(*domains), tmp_path / name / domains[0], store)
            for domains in (("north", "east"), ("east", "north"))
        }
        assert len(found) == n_adapters
    # All kinds of WeaveRec lean towards their target: their merges are their own.
    hybrids = {
        served(make("weaverec", tiny_llama), task_of(*domains), tmp_path / domains[0], store)
        for domains in (("north", "east"), ("east", "north"))
    }
    assert len(hybrids) == 2


def test_weights_go_with_their_adapters_into_one_order():
    parents, weights = ["c", "a", "b"], [0.5, 0.2, 0.3]
    found = merge_spec(parents, Merge("weight-average", {"weights": weights}), seed=0)
    assert found.parents == ("a", "b", "c")
    assert found.parameters["weights"] == [0.2, 0.3, 0.5]
    again = merge_spec(
        ["b", "c", "a"], Merge("weight-average", {"weights": [0.3, 0.5, 0.2]}), seed=0
    )
    other = merge_spec(["b", "c", "a"], Merge("weight-average", {"weights": weights}), seed=0)
    assert found.adapter_id == again.adapter_id != other.adapter_id


@pytest.mark.parametrize("method", SYMMETRIC)
def test_parents_without_a_role_are_in_one_order(method):
    orders = (["a", "b", "c"], ["c", "a", "b"])
    ids = {merge_spec(order, Merge(method, {}), seed=0).adapter_id for order in orders}
    assert len(ids) == 1


def test_parents_with_a_role_keep_their_places():
    expert = merge_spec(["c", "b", "a"], Merge("ext-sub", {}), seed=0)
    assert expert.parents == ("c", "a", "b")
    reference = merge_spec(["c", "b", "a"], Merge("task-arithmetic", {"reference": 1}), seed=0)
    assert reference.parents == ("c", "b", "a")


def test_paper_as_run_averages_products_and_names_the_way_to_another_merger(tiny_llama):
    method = make("weaverec", profile="paper-as-run")
    assert method.merge(3).settings == {"space": "product"}
    assert make("merge-average", profile="paper-as-run").merge(3).settings["space"] == "product"
    assert make("merge-average", profile="paper").merge(3).settings["space"] == "factor"
    adapted = make("adamerging", profile="paper-as-run").config
    assert (adapted.entropy, adapted.adapt_on) == ("token", "test")
    assert (method.config.label, method.config.match) == ("top5", "strict")
    with pytest.raises(ConfigError, match="--method adamerging --set adapters=woven"):
        make("weaverec", merger="adamerging")
    with pytest.raises(ConfigError, match=r"use space=factor, and merge\.space"):
        make("weaverec", profile="paper-as-run", merger="ties")
    changes = {"merger": "ties", "space": "factor", "merge.space": "product"}
    assert make("weaverec", profile="paper-as-run", **changes).merge(3).settings == {
        "space": "product"
    }
