from __future__ import annotations

import re

import pytest

from bench.data.catalogue import CATALOGUE, GROUPS, entry, namespace_members
from bench.errors import ConfigError

# WeaveRec, Table 5; None where the paper's figure fits no version of the data.
TABLE_5 = {
    "amazon-sports": (35598, 18357, 296337),
    "amazon-beauty": (22363, 12101, 198502),
    "amazon-clothing": (39387, 23033, 278677),
    "amazon-food": (14681, 8713, 151254),
    "amazon-toys": (19412, 11924, 167597),
    "ml-1m": (6040, None, 1000209),
}


@pytest.mark.parametrize("name", TABLE_5)
def test_expected_counts_are_those_of_the_papers_table_5(name):
    users, items, events = TABLE_5[name]
    found = CATALOGUE[name].expected
    assert (found.users, found.events) == (users, events)
    if items is None:
        assert found.items == 3706
        assert "6,883" in CATALOGUE[name].note
    else:
        assert found.items == items


def test_groups():
    assert set(GROUPS["amazon-4"]) == {
        f"amazon-{n}" for n in ("sports", "beauty", "clothing", "food")
    }
    assert set(GROUPS["toys-ml"]) == {"amazon-toys", "ml-1m"}


def test_the_five_amazon_domains_share_one_namespace():
    names = {f"amazon-{n}" for n in ("beauty", "sports", "clothing", "food", "toys")}
    assert set(namespace_members("amazon-2014")) == names
    assert namespace_members(None) == ()
    assert {name for name, e in CATALOGUE.items() if e.namespace} == names


@pytest.mark.parametrize("name", CATALOGUE)
def test_entries_are_complete(name):
    known = CATALOGUE[name]
    assert known.name == name
    assert known.terms and known.homepage.startswith("https://")
    assert bool(known.files) == (known.kind != "embedded")
    assert bool(known.genre) == (known.kind == "embedded")
    for file in known.files:
        assert file.url.startswith("https://") and file.url.endswith("/" + file.name)
        assert file.sha256 is None or re.fullmatch(r"[0-9a-f]{64}", file.sha256)
    assert known.k_core == (None if known.kind == "movielens" else 5)


def test_unknown_names_are_answered_with_near_ones():
    with pytest.raises(ConfigError, match="Did you mean 'amazon-beauty'"):
        entry("amazon-beuty")
