"""The six real domains, read from BENCH_DATA_ROOT: counts, times, order, ties, speed of loading."""

from __future__ import annotations

import csv
import gzip
import os
import time
from collections import defaultdict
from pathlib import Path

import numpy as np
import pytest

from bench.data.catalogue import CATALOGUE, GROUPS
from bench.data.load import load_domain
from bench.data.stats import overlap

pytestmark = pytest.mark.real
SIX = (*GROUPS["amazon-4"], *GROUPS["toys-ml"])
ROOT = os.environ.get("BENCH_DATA_ROOT")


@pytest.fixture(scope="module")
def data_root():
    if not ROOT:
        pytest.skip("BENCH_DATA_ROOT is not set")
    return Path(ROOT)


@pytest.fixture
def load(data_root):
    def call(name, **options):
        if not (data_root / name).is_dir():
            pytest.skip(f"{name} is not under BENCH_DATA_ROOT")
        return load_domain(name, data_root=data_root, **options)

    return call


def rows_of(data_root, name):
    """The interaction file read in the plainest way: user -> items in order of time."""
    path = data_root / name / f"{name}.inter"
    opened = open(path) if path.is_file() else gzip.open(f"{path}.gz", "rt")  # noqa: PTH123, SIM115
    found = defaultdict(list)
    with opened as stream:
        for row in csv.DictReader(stream, delimiter="\t", quoting=csv.QUOTE_NONE):
            found[row["user_id:token"]].append(
                (float(row["timestamp:float"]), row["item_id:token"])
            )
    return {user: sorted(events, key=lambda event: event[0]) for user, events in found.items()}


@pytest.mark.parametrize("name", SIX)
def test_counts_equal_the_catalogues(load, name):
    domain, expected = load(name), CATALOGUE[name].expected
    assert (domain.n_users, domain.n_items, domain.n_events) == (
        expected.users,
        expected.items,
        expected.events,
    )
    counts = domain.provenance["counts"]
    assert counts["duplicates_dropped"] == counts["k_core_dropped"] == 0


@pytest.mark.parametrize("name", SIX)
def test_sequences_equal_a_plain_reading_of_the_file(load, data_root, name):
    domain, plain = load(name), rows_of(data_root, name)
    ids = domain.items.ids.to_list()
    users = domain.user_ids.to_list()
    assert users == sorted(plain, key=str.encode)
    assert ids == sorted({i for events in plain.values() for _, i in events}, key=str.encode)
    bounds = domain.sequences.offsets.tolist()
    items, times = domain.sequences.items.tolist(), domain.timestamps.tolist()
    for row, user in enumerate(users):
        span = slice(bounds[row], bounds[row + 1])
        assert list(zip(times[span], (ids[i] for i in items[span]), strict=True)) == plain[user]


@pytest.mark.parametrize("name", SIX)
def test_times_increase_strictly_so_both_tie_rules_agree(load, name):
    domain = load(name)
    same_user = np.diff(domain.sequences.rows) == 0
    assert (np.diff(domain.timestamps)[same_user] > 0).all()
    hashed = load(name, ties="hash")
    assert hashed.content_hash == domain.content_hash


@pytest.mark.parametrize(
    ("name", "placeholders"),
    [
        ("amazon-beauty", 7),
        ("amazon-clothing", 85),
        ("amazon-sports", 40),
        ("amazon-food", 52),
        ("amazon-toys", 34),
        ("ml-1m", 0),
    ],
)
def test_titles_are_clean_and_placeholders_are_few(load, name, placeholders):
    domain = load(name)
    titles = domain.items.titles.to_list()
    assert domain.items.n_placeholders == placeholders
    assert sum(title.startswith("Unknown item ") for title in titles) == placeholders
    assert all(title == " ".join(title.split()) and title for title in titles)


def test_sports_and_clothing_share_items_and_reviewers(load):
    shared = overlap(load("amazon-sports"), load("amazon-clothing"))
    assert shared.items == 704
    assert shared.users > 1000


def test_sports_loads_in_milliseconds_once_cached(load):
    started = time.perf_counter()
    load("amazon-sports")
    cold = time.perf_counter() - started
    warm = []
    for _ in range(5):
        started = time.perf_counter()
        load("amazon-sports")
        warm.append(time.perf_counter() - started)
    assert cold < 10
    assert min(warm) < 0.05


@pytest.mark.parametrize("name", SIX)
def test_content_is_that_of_the_committed_results(load, committed_hashes, name):
    assert {load(name).content_hash} == committed_hashes[name]
