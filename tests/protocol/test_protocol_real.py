"""The protocol on the real domains: published counts, the overlap of the Amazon domains, time."""

from __future__ import annotations

import os
import time

import numpy as np
import pytest

from bench.data.catalogue import CATALOGUE, namespace_members
from bench.data.domain import Domain
from bench.data.load import is_available, load_domain
from bench.errors import ProtocolError
from bench.protocol import ProtocolOptions, Task, build_task

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif("BENCH_DATA_ROOT" not in os.environ, reason="BENCH_DATA_ROOT is not set"),
]

AMAZON = ("amazon-beauty", "amazon-clothing", "amazon-food", "amazon-sports", "amazon-toys")


@pytest.fixture(scope="module")
def domains() -> dict[str, Domain]:
    missing = [name for name in AMAZON if not is_available(name)]
    if missing:
        pytest.skip(f"not under BENCH_DATA_ROOT: {', '.join(missing)}")
    assert set(namespace_members("amazon-2014")) == set(AMAZON)
    return {name: load_domain(name) for name in AMAZON}


def others(domains: dict[str, Domain], name: str) -> list[Domain]:
    return [domain for other, domain in domains.items() if other != name]


@pytest.fixture(scope="module")
def sports(domains: dict[str, Domain]) -> Task:
    rest = others(domains, "amazon-sports")
    return build_task(domains["amazon-sports"], sources=rest, siblings=rest)


def pairs(domain: Domain, events: np.ndarray) -> set[tuple[str, str]]:
    users, items = domain.user_ids.to_list(), domain.items.ids.to_list()
    rows = domain.sequences.rows[events]
    return {
        (users[u], items[i])
        for u, i in zip(rows.tolist(), domain.sequences.items[events].tolist(), strict=True)
    }


def test_guard_agrees_with_sets_of_raw_pairs(domains: dict[str, Domain], sports: Task) -> None:
    """241 test events and 378 validation events of Sports stand in Clothing's training rows."""
    held_out = {}
    for name in ("amazon-sports", "amazon-clothing"):
        ends = domains[name].sequences.offsets[1:]
        held_out[name] = {
            "test": pairs(domains[name], ends - 1),
            "valid": pairs(domains[name], ends - 2),
        }
    clothing = domains["amazon-clothing"]
    ends = clothing.sequences.offsets[1:]
    train = pairs(clothing, np.setdiff1d(np.arange(clothing.n_events), [*(ends - 1), *(ends - 2)]))
    counts = sports.guard_counts["domains"]["amazon-clothing"]["dropped_by"]["amazon-sports"]
    assert counts == {k: len(train & v) for k, v in held_out["amazon-sports"].items()}
    assert counts["test"] == 241
    view = sports.train_view(with_sources=True)
    shown = {source.name: source for source in view.sources}["amazon-clothing"]
    users, items = clothing.user_ids.to_list(), clothing.items.ids.to_list()
    kept = {
        (users[u], items[i])
        for u, i in zip(shown.sequences.rows.tolist(), shown.sequences.items.tolist(), strict=True)
    }
    assert not kept & (held_out["amazon-sports"]["test"] | held_out["amazon-sports"]["valid"])
    assert kept < train


@pytest.mark.parametrize("name", [*AMAZON, "ml-1m"])
def test_task_of_every_domain(domains: dict[str, Domain], name: str) -> None:
    domain = domains[name] if name in domains else load_domain(name)
    siblings = others(domains, name) if name in domains else []
    task = build_task(domain, siblings=siblings)
    expected = CATALOGUE[name].expected
    if expected is not None:
        assert (domain.n_users, domain.n_items, domain.n_events) == (
            expected.users,
            expected.items,
            expected.events,
        )
    assert (task.n_users, task.n_short_users) == (domain.n_users, 0)
    assert task.guard == ("full" if siblings else "none")
    users = task.subset(500)
    for requests in (task.validation_set(users), task.test(users)):
        ((part, labels),) = list(requests.chunks(500))
        assert part.candidates.shape == (500, 30)
        for row, user in enumerate(users):
            own = set(domain.sequences[int(user)].tolist())
            found = part.candidates[row].tolist()
            assert set(found) & own == {found[labels.position[row]]}
            assert len({domain.items.titles[i].casefold() for i in found}) == 30


def test_identity_ignores_sources_and_reads_the_same_twice(
    domains: dict[str, Domain], sports: Task
) -> None:
    again = build_task(
        load_domain("amazon-sports"),
        siblings=[load_domain(n) for n in AMAZON if n != "amazon-sports"],
    )
    assert again.task_hash == sports.task_hash
    alone = build_task(domains["amazon-sports"], missing_siblings=["amazon-clothing"])
    assert alone.guard == "partial"
    assert alone.task_hash != sports.task_hash


def test_too_many_negatives_for_films(domains: dict[str, Domain]) -> None:
    """Users of ml-1m saw up to 2,314 of 3,706 films, so 999 fit and 2,000 do not."""
    films = load_domain("ml-1m")
    assert build_task(films, options=ProtocolOptions(n_negatives=999)).n_users == films.n_users
    left_out = build_task(films, options=ProtocolOptions(n_negatives=2000)).left_out
    assert left_out is not None and 0 < left_out.n_users < 10
    assert left_out.fewest == 3706 - 2314
    with pytest.raises(ProtocolError, match="of the nested sizes 29, 99, 999: 29, 99, 999"):
        build_task(films, options=ProtocolOptions(n_negatives=3700))


@pytest.mark.slow
def test_sports_task_takes_under_two_seconds(domains: dict[str, Domain]) -> None:
    rest = others(domains, "amazon-sports")
    times = []
    for _ in range(3):
        start = time.perf_counter()
        build_task(domains["amazon-sports"], siblings=rest)
        times.append(time.perf_counter() - start)
    assert min(times) < 2
