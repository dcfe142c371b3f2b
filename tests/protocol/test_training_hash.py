"""The hash by which adapters are shared: the same whoever the target is, another for other rows."""

from __future__ import annotations

from dataclasses import replace
from itertools import permutations

import pytest
from protocol_domains import random_domain

from bench.data.strings import StringColumn
from bench.errors import ConfigError
from bench.protocol import ProtocolOptions, build_task

NAMES = ("alpha", "beta", "gamma")


def options(**values: object) -> ProtocolOptions:
    return ProtocolOptions(**{"n_negatives": 9, **values})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def domains():
    """Users and items are shared, so that the leak guard drops training events of each."""
    return {
        name: random_domain(seed, name=name, namespace="shop") for seed, name in enumerate(NAMES)
    }


def hashes(domains, target: str, *sources: str, **values: object) -> dict[str, str]:
    siblings = [domain for name, domain in domains.items() if name != target]
    task = build_task(
        domains[target],
        sources=[domains[name] for name in sources],
        siblings=siblings,
        options=options(**values),
    )
    view = task.train_view(with_sources=True)
    seen = {part.name: part.training_hash for part in (view.target, *view.sources)}
    assert seen == task.training_hashes(), "the plan and the fit see the same hashes"
    assert list(seen) == [target, *sources]
    return seen


def test_a_domain_has_one_hash_as_target_and_as_source_of_any_other(domains):
    found = {name: set() for name in NAMES}
    for target, *sources in permutations(NAMES):
        for name, digest in hashes(domains, target, *sources).items():
            found[name].add(digest)
    for name in NAMES:
        found[name].add(hashes(domains, name)[name])
    assert {name: len(seen) for name, seen in found.items()} == dict.fromkeys(NAMES, 1)
    assert len(set.union(*found.values())) == 3


@pytest.mark.parametrize("change", [{"train_on": "train+valid"}, {"keep_leak": True}], ids=str)
def test_other_training_rows_have_another_hash(domains, change):
    plain, changed = hashes(domains, "alpha", "beta"), hashes(domains, "alpha", "beta", **change)
    assert all(plain[name] != changed[name] for name in plain)


@pytest.mark.parametrize(
    "change",
    [{"candidate_seed": 1}, {"n_negatives": 5}, {"negatives": "full"}, {"negatives": "popularity"}],
    ids=str,
)
def test_what_only_ranks_keeps_the_hash(domains, change):
    assert hashes(domains, "alpha", "beta", **change) == hashes(domains, "alpha", "beta")


def branded(domain, brand: str):
    """The same domain, with one brand and one category for all its items."""
    columns = {"brand": brand, "category": "c"}
    extra = {k: StringColumn.from_list([v] * domain.n_items) for k, v in columns.items()}
    return replace(domain, items=replace(domain.items, extra=extra))


def test_further_columns_are_seen_and_hashed_only_where_they_are_declared(domains):
    alpha, beta = domains["alpha"], domains["beta"]
    tasks = {
        (target, source): build_task(
            branded(alpha, target), sources=[branded(beta, source)], options=options()
        )
        for target, source in (("x", "x"), ("y", "x"), ("x", "y"))
    }
    views = {k: task.train_view(with_sources=True) for k, task in tasks.items()}
    assert {tuple(v.target.items.extra) for v in views.values()} == {()}
    assert len({v.target.training_hash for v in views.values()}) == 1

    views = {
        k: task.train_view(with_sources=True, item_columns=["brand"]) for k, task in tasks.items()
    }
    for (target, source), view in views.items():
        assert {k: set(v) for k, v in view.target.items.extra.items()} == {"brand": {target}}
        assert {k: set(v) for k, v in view.sources[0].items.extra.items()} == {"brand": {source}}
        assert tasks[target, source].training_hashes(["brand"]) == {
            part.name: part.training_hash for part in (view.target, *view.sources)
        }
    assert len({v.target.training_hash for v in views.values()}) == 2
    assert len({v.sources[0].training_hash for v in views.values()}) == 2
    # Another column with the same content is not the same text.
    same = build_task(branded(alpha, "c"), options=options())
    assert same.training_hashes(["brand"]) != same.training_hashes(["category"])


def test_a_column_that_a_domain_lacks_is_named_with_those_it_has(domains):
    task = build_task(branded(domains["alpha"], "x"), sources=[domains["beta"]], options=options())
    expected = "beta: its items have no column 'brand'.*they have title\\."
    with pytest.raises(ConfigError, match=expected):
        task.training_hashes(["brand"])
    with pytest.raises(ConfigError, match=expected):
        task.train_view(with_sources=True, item_columns=["brand"])
