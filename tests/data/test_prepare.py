from __future__ import annotations

import hashlib
import struct
from collections import Counter
from itertools import combinations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.data.prepare import clean_text, k_core_mask, placeholder_title, prepare, tie_key
from bench.data.raw import EVENT_SCHEMA, RawData
from bench.errors import ConfigError, DataError

IDS = st.sampled_from(["a", "b", "A", "10", "2", "é", "z", "日", "\U0001f600"])
EVENTS = st.lists(
    st.tuples(IDS, IDS, st.sampled_from([0.0, 1.0, 1.5, 2.0, -3.0])), min_size=1, max_size=25
)


def raw_of(events, items=None, complete=False):
    frame = pl.DataFrame(events, schema=EVENT_SCHEMA, orient="row")
    return RawData(frame, items, (), complete_items=complete)


def decoded(domain):
    """user -> [(item, time), ...] in raw ids."""
    ids = domain.items.ids.to_list()
    bounds = domain.sequences.offsets
    return {
        user: [
            (ids[i], t)
            for i, t in zip(
                domain.sequences[row].tolist(),
                domain.timestamps[bounds[row] : bounds[row + 1]].tolist(),
                strict=True,
            )
        ]
        for row, user in enumerate(domain.user_ids)
    }


def is_core(events, k):
    users, items = Counter(u for u, _ in events), Counter(i for _, i in events)
    return all(users[u] >= k and items[i] >= k for u, i in events)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), max_size=9, unique=True),
    st.integers(1, 3),
)
def test_k_core_is_the_largest_subset_in_which_everything_has_k_events(pairs, k):
    found = k_core_mask(
        np.array([u for u, _ in pairs], int), np.array([i for _, i in pairs], int), k
    )
    subsets = (
        set(chosen)
        for size in range(len(pairs), -1, -1)
        for chosen in combinations(pairs, size)
        if is_core(chosen, k)
    )
    assert {p for p, keep in zip(pairs, found, strict=True) if keep} == next(subsets)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 12), st.integers(0, 8)), min_size=1, max_size=120, unique=True
    ),
    st.integers(1, 5),
    st.randoms(use_true_random=False),
)
def test_k_core_is_a_fixed_point_and_does_not_depend_on_the_order(pairs, k, random):
    def core(events):
        users, items = (np.array(column) for column in zip(*events, strict=True))
        keep = k_core_mask(users, items, k)
        return {event for event, kept in zip(events, keep, strict=True) if kept}

    kept = core(pairs)
    assert is_core(kept, k)
    assert not kept or core(sorted(kept)) == kept
    shuffled = list(pairs)
    random.shuffle(shuffled)
    assert core(shuffled) == kept


def test_one_pass_of_the_filter_is_not_enough():
    # Dropping item 2 leaves user 1 with one event, which leaves item 1 with one event, and so on.
    users, items = np.array([0, 0, 1, 1, 2, 2]), np.array([0, 3, 0, 1, 1, 2])
    assert not k_core_mask(users, items, 2).any()


@settings(max_examples=100, deadline=None)
@given(EVENTS)
def test_order_duplicates_and_numbering_equal_a_plain_python_version(events):
    domain = prepare(raw_of(events), name="d")
    expected: dict[str, list] = {}
    for user, item, time in sorted(events, key=lambda event: event[2]):  # stable, like the rule
        expected.setdefault(user, [])
        if item not in [known for known, _ in expected[user]]:
            expected[user].append((item, time))
    assert decoded(domain) == expected
    assert list(domain.user_ids) == sorted(expected, key=str.encode)
    assert list(domain.items.ids) == sorted({i for _, i, _ in events}, key=str.encode)
    counts = domain.provenance["counts"]
    assert counts["events_read"] - counts["duplicates_dropped"] == domain.n_events
    assert domain.sequences.items.dtype == np.int32
    assert domain.sequences.offsets.dtype == np.int64
    assert domain.timestamps.dtype == np.float64


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.randoms(use_true_random=False))
def test_hashed_ties_do_not_depend_on_the_order_of_the_file(events, random):
    shuffled = list(events)
    random.shuffle(shuffled)
    first, second = (prepare(raw_of(e), name="d", ties="hash") for e in (events, shuffled))
    assert first.content_hash == second.content_hash
    assert decoded(first) == decoded(second)


def test_hashed_ties_follow_the_published_key():
    events = [("u", item, 86400.0) for item in "abcdefgh"]

    def key(item):
        message = b"weavebench/ties/v1\0u\0" + struct.pack("<d", 86400.0) + b"\0" + item.encode()
        return int(hashlib.sha256(message).hexdigest()[:16], 16)

    domain = prepare(raw_of(events), name="d", ties="hash")
    order = [item for item, _ in decoded(domain)["u"]]
    assert order == sorted("abcdefgh", key=key)
    assert order != list("abcdefgh")
    assert tie_key("u", 86400.0, "a") == key("a")


def test_ties_keep_the_order_of_the_file_by_default():
    events = [("u", "c", 1.0), ("u", "a", 1.0), ("u", "b", 0.0), ("u", "c", 0.5)]
    domain = prepare(raw_of(events), name="d")
    # The pair (u, c) occurs twice: its earliest event, at 0.5, is the one that stays.
    assert decoded(domain)["u"] == [("b", 0.0), ("c", 0.5), ("a", 1.0)]
    assert domain.provenance["counts"]["duplicates_dropped"] == 1


def test_times_a_float32_would_merge_stay_apart():
    events = [("u", "b", 1e9 + 10), ("u", "a", 1e9)]
    assert np.float32(events[0][2]) == np.float32(events[1][2])
    assert [item for item, _ in decoded(prepare(raw_of(events), name="d"))["u"]] == ["a", "b"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("Tom &amp; Jerry", "Tom & Jerry"),
        ("&amp;quot;", "&quot;"),
        ("a \t b\n\nc", "a b c"),
        ("  x\u00a0y\u3000", "x y"),
        ("AT&T", "AT&T"),
        ("12&#34; &eacute;", '12" é'),
        ("&nbsp;", ""),
        ("\u2028a\x00b\ufeff", "a b"),
        (None, ""),
    ],
)
def test_titles_are_decoded_once_and_blanks_collapsed(text, clean):
    frame = pl.DataFrame({"t": [text]}, schema={"t": pl.String})
    assert frame.select(clean_text(pl.col("t")))["t"].to_list() == [clean]


def test_items_without_a_title_get_a_placeholder_that_is_counted():
    items = pl.DataFrame({"item": ["x", "y", "unused"], "title": ["&nbsp; ", "Real", "Other"]})
    events = [("u", "x", 1.0), ("u", "y", 2.0), ("u", "z", 3.0)]
    domain = prepare(raw_of(events, items), name="d")
    digest = hashlib.sha256(b"x").hexdigest()[:8]
    assert domain.items.titles.to_list() == [
        f"Unknown item {digest}",
        "Real",
        placeholder_title("z"),
    ]
    assert domain.items.n_placeholders == 2
    assert domain.provenance["counts"]["placeholder_titles"] == 2
    assert domain.provenance["counts"]["items_without_row"] == 1


def test_a_promised_item_row_that_is_missing_is_an_error_or_a_placeholder(tmp_path):
    items = pl.DataFrame({"item": ["x"], "title": ["X"]})
    frame = pl.DataFrame([("u", "x", 1.0), ("u", "y", 2.0)], schema=EVENT_SCHEMA, orient="row")
    raw = RawData(frame, items, (tmp_path / "a.inter", tmp_path / "a.item"), complete_items=True)
    with pytest.raises(DataError, match=r"item 'y' of a\.inter has no row in a\.item"):
        prepare(raw, name="d")
    assert prepare(raw, name="d", on_missing_item="placeholder").items.n_placeholders == 1


def test_k_core_applies_after_duplicates_are_dropped():
    events = [("u", "a", 1.0), ("u", "a", 2.0), ("v", "a", 1.0), ("u", "b", 3.0), ("v", "b", 3.0)]
    domain = prepare(raw_of(events), name="d", k_core=2)
    assert (domain.n_users, domain.n_items, domain.n_events) == (2, 2, 4)
    with pytest.raises(DataError, match="nothing is left of 4 events after the 3-core filter"):
        prepare(raw_of(events), name="d", k_core=3)


def test_options_out_of_range_are_wrong_use():
    with pytest.raises(ConfigError, match="k_core is 0"):
        prepare(raw_of([("u", "a", 1.0)]), name="d", k_core=0)
    with pytest.raises(ConfigError, match="--ties"):
        prepare(raw_of([("u", "a", 1.0)]), name="d", ties="time")


def test_inputs_are_not_changed():
    raw = raw_of([("u", "b", 2.0), ("u", "a", 1.0)])
    before = raw.events.clone()
    prepare(raw, name="d")
    assert raw.events.equals(before)
