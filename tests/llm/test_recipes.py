"""Recipes of adapters: what decides their identity, and what does not."""

from __future__ import annotations

import pytest
from adapter_makers import BEAUTY, SPORTS, recipe
from pydantic import BaseModel

from bench.llm.adapters import InitSpec, MergedSpec


def test_the_hybrid_of_two_domains_is_one_adapter_whoever_asks():
    one, other = recipe(BEAUTY, SPORTS), recipe(SPORTS, BEAUTY)
    assert one == other
    assert one.adapter_id == other.adapter_id
    assert one.domains == other.domains == ("beauty", "sports")
    assert len({recipe(BEAUTY).adapter_id, recipe(SPORTS).adapter_id, one.adapter_id}) == 3


def test_a_domain_named_twice_counts_twice():
    twice = recipe(BEAUTY, BEAUTY)
    assert len(twice.mixture) == 2
    assert twice.adapter_id != recipe(BEAUTY).adapter_id


@pytest.mark.parametrize(
    "change",
    [
        {"backbone_hash": "c" * 64},
        {"mixture": (BEAUTY.model_copy(update={"training_hash": "3" * 64}),)},
        {"mixture": (BEAUTY.model_copy(update={"n_examples": 401}),)},
        {"mixture": (BEAUTY.model_copy(update={"domain": "beauty2"}),)},
        {"objective": "listwise"},
        {"label": "top5"},
        {"template_hash": "u" * 64},
        {"text": {"max_history": 16, "title_tokens": 24}},
        {"lora": {"r": 2, "alpha": 8.0}},
        {"training": {"epochs": 2, "learning_rate": 5e-4}},
        {"init_seed": 1},
        {"order_seed": 1},
        {"negatives_seed": 1},
        {"trainer_version": 2},
        {"dtype": "bfloat16"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_whatever_decides_the_weights_changes_the_identity(change):
    assert recipe(**change).adapter_id != recipe().adapter_id


@pytest.mark.parametrize("change", [{"backbone": "/home/me/toy"}, {"template": "mine.j2"}])
def test_names_do_not_change_the_identity(change):
    assert recipe(**change).adapter_id == recipe().adapter_id


def test_settings_may_be_models_or_mappings():
    class Lora(BaseModel):
        r: int = 2
        alpha: float = 4.0

    assert recipe(lora=Lora()).adapter_id == recipe().adapter_id


def test_kinds_never_share_an_id():
    shared = {"backbone_hash": "b" * 64, "lora": {"r": 2}, "init_seed": 0}
    merged = MergedSpec(method="ties", parents=("0" * 16,), parameters=shared)
    assert merged.adapter_id != InitSpec(**shared).adapter_id


def test_roles_in_a_merge_are_told_apart_and_its_name_is_not():
    a, b = "a" * 16, "b" * 16
    one = MergedSpec(method="ext-sub", parents=(a, b), name="for people")
    assert one.adapter_id == MergedSpec(method="ext-sub", parents=(a, b)).adapter_id
    assert one.adapter_id != MergedSpec(method="ext-sub", parents=(b, a)).adapter_id
    assert one.adapter_id != MergedSpec(method="ties", parents=(a, b)).adapter_id
    assert MergedSpec(method="ties", parents=(a, b, a)).lineage == (a, b)
