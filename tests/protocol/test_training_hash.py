"""The hash by which adapters are shared: the same whoever the target is, another for other rows."""

from __future__ import annotations

from itertools import permutations

import pytest
from protocol_domains import random_domain

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
    assert seen == dict(task.training_hashes), "the plan and the fit see the same hashes"
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
