"""The planted domains hold the pattern they promise, and nothing else gives it away."""

import numpy as np
import pytest

from bench.data.domain import Sequences
from bench.testing import planted_domain, planted_sources, planted_task
from bench.testing.planted import replace_test_items


def successor_share(sequences: Sequences, n_items: int) -> float:
    steps = []
    for row in range(len(sequences)):
        items = sequences[row].astype(int)
        steps.append((items[1:] - items[:-1]) % n_items == 1)
    return float(np.concatenate(steps).mean())


def test_equal_arguments_give_equal_domains():
    assert planted_domain().content_hash == planted_domain().content_hash
    assert planted_domain(seed=1).content_hash != planted_domain().content_hash


@pytest.mark.parametrize("noise", [0.0, 0.15, 0.5])
def test_share_of_successors_follows_the_noise(noise):
    domain = planted_domain(n_users=400, noise=noise)
    share = successor_share(domain.sequences, domain.n_items)
    # A jump hits the successor with probability of about 1/60.
    assert share == pytest.approx(1 - noise, abs=0.04)


def test_nobody_takes_an_item_twice():
    domain = planted_domain(noise=0.5)
    assert all(
        len(set(row.tolist())) == len(row) for row in map(domain.sequences.__getitem__, range(300))
    )


def test_titles_are_distinct_and_name_the_neighbourhood():
    titles = planted_domain().items.titles.to_list()
    assert len(set(titles)) == len(titles)
    topics = [title.split()[0] for title in titles]
    assert topics == sorted(topics, key=topics.index), "neighbours on the cycle share a topic"
    assert 5 <= len(set(topics)) <= 12


def test_sources_overlap_so_that_the_leak_guard_has_work():
    counts = planted_task(n_sources=2).guard_counts["domains"]
    assert counts["planted"]["dropped"] > 0
    assert counts["planted-source-0"]["dropped"] > 0
    assert counts["planted-source-1"]["dropped"] == 0
    users = set(planted_domain().user_ids.to_list())
    assert all(set(source.user_ids.to_list()) <= users for source in planted_sources())


def test_replaced_test_items_change_nothing_else():
    domain = planted_domain(n_users=50)
    changed = replace_test_items(domain, np.arange(0, 50, 2))
    last = domain.sequences.offsets[1:] - 1
    differs = domain.sequences.items != changed.sequences.items
    assert set(np.flatnonzero(differs)) == set(last[::2])
    assert all(
        len(set(row.tolist())) == len(row) for row in map(changed.sequences.__getitem__, range(50))
    )
