"""Candidate drawing: against a plain-Python reference, and by its properties."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import golden_check
import numpy as np
import pytest
import reference_candidates as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from bench.data.domain import Sequences
from bench.data.strings import StringColumn
from bench.errors import ProtocolError
from bench.protocol.candidates import (
    draw_candidates,
    draw_negatives,
    eligible_groups,
    place_positives,
    population,
    position_of,
)
from bench.protocol.keys import fnv1a, id_hashes, salt64, stream_keys
from bench.protocol.titles import canonical_title, title_groups

ROOT = Path(__file__).parents[2]


def keys_for(
    users: list[str], *, seed: int = 0, split: str = "test", domain: str = "d"
) -> np.ndarray:
    salt = salt64("candidates", seed, split, domain)
    return stream_keys(id_hashes(StringColumn.from_list(users)), salt)


def rows_of(histories: list[list[int]], groups: np.ndarray) -> Sequences:
    offsets = np.cumsum([0, *map(len, histories)]).astype(np.int64)
    flat = np.array([item for history in histories for item in history], dtype=np.int64)
    return Sequences(offsets, groups[flat].astype(np.int32))


def test_published_vectors() -> None:
    assert golden_check.check() == 54


def test_golden_file_is_what_the_reference_makes() -> None:
    stored = json.loads(golden_check.GOLDEN.read_text(encoding="utf-8"))
    assert stored == json.loads(json.dumps(reference.golden()))


@pytest.mark.slow
def test_vectors_hold_under_an_older_numpy(tmp_path: Path) -> None:
    """The same rows under NumPy 1.26 (the oldest supported) and the installed one."""
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    packages = ["numpy==1.26.4", "pydantic", "platformdirs", "filelock"]
    subprocess.run([python, "-m", "pip", "install", "-q", *packages], check=True)
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    outputs = [
        subprocess.run(
            [interpreter, golden_check.__file__],
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for interpreter in (sys.executable, python)
    ]
    assert outputs[0] == f"numpy {np.__version__}: 54 rows equal\n"
    assert outputs[1] == "numpy 1.26.4: 54 rows equal\n"


@st.composite
def drawings(
    draw: st.DrawFn,
) -> tuple[list[str], list[str], list[list[int]], list[int] | None, int]:
    """Users, titles, histories, weights or None, and a feasible number of negatives."""
    n_items = draw(st.integers(4, 60))
    n_titles = draw(st.integers(max(3, n_items // 2), n_items))
    titles = [f"title {i % n_titles}" for i in range(n_items)]
    users = draw(st.lists(st.text(max_size=12), min_size=1, max_size=8, unique=True))
    items = st.lists(st.integers(0, n_items - 1), min_size=1, max_size=6)
    histories = [draw(items) for _ in users]
    weights = None
    if draw(st.booleans()):
        weights = draw(st.lists(st.integers(0, 5), min_size=n_items, max_size=n_items))
    drawable = {t for i, t in enumerate(titles) if weights is None or weights[i]}
    fewest = min(len(drawable - {titles[i] for i in history}) for history in histories)
    if fewest < 1:
        weights, fewest = None, n_titles - max(len({titles[i] for i in h}) for h in histories)
        if fewest < 1:
            histories, fewest = [[0] for _ in users], n_titles - 1
    return users, titles, histories, weights, draw(st.integers(1, fewest))


@given(drawings(), st.integers(0, 2**40), st.integers(1, 9))
@settings(deadline=None, max_examples=150)
def test_equals_the_reference(drawing: tuple, seed: int, block: int) -> None:  # type: ignore[type-arg]
    users, titles, histories, weights, m = drawing
    groups = title_groups(StringColumn.from_list(titles))
    pop = population(groups, None if weights is None else np.array(weights))
    keys = keys_for(users, seed=seed)
    negatives = draw_negatives(pop, keys, rows_of(histories, groups), m, block=block)
    positives = np.array([history[0] for history in histories], dtype=np.int32)
    candidates, position = place_positives(negatives, positives, keys)
    for row, (user, history) in enumerate(zip(users, histories, strict=True)):
        expected = reference.candidates(
            user, titles, history, history[0], m, seed=seed, weights=weights
        )
        assert (candidates[row].tolist(), int(position[row])) == expected


def big_drawing(
    n_items: int, m: int, n_users: int = 3000, *, twins: int = 0, longest: int = 30
) -> tuple[np.ndarray, np.ndarray, Sequences, np.ndarray]:
    rng = np.random.default_rng(n_items * 1000 + m)
    groups = title_groups(
        StringColumn.from_list([f"t{i % (n_items - twins)}" for i in range(n_items)])
    )
    lengths = rng.integers(1, longest, n_users)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    history = Sequences(offsets, groups[rng.integers(0, n_items, offsets[-1])])
    keys = keys_for([f"user-{i}" for i in range(n_users)])
    return groups, keys, history, draw_negatives(population(groups), keys, history, m)


@pytest.mark.parametrize(
    ("n_items", "m", "twins", "longest"),
    [
        (12101, 29, 34, 30),
        (221, 29, 0, 60),
        (300, 99, 20, 100),
        (3706, 999, 0, 200),
        (70000, 29, 9, 90),
    ],
)
def test_rules_hold_in_bulk(n_items: int, m: int, twins: int, longest: int) -> None:
    n_users = 300 if m > 500 else 3000
    groups, _, history, negatives = big_drawing(n_items, m, n_users, twins=twins, longest=longest)
    assert negatives.dtype == np.int32
    assert negatives.min() >= 0
    assert negatives.max() < n_items
    drawn = np.sort(groups[negatives], axis=1)
    assert (drawn[:, 1:] != drawn[:, :-1]).all(), "two candidates of one title"
    own = np.arange(len(negatives))[:, None] * n_items + groups[negatives]
    assert not np.isin(own, history.rows * n_items + history.items).any(), "a history item"


def test_smaller_sets_are_the_beginning_of_larger_ones() -> None:
    for twins in (0, 200):
        _, keys, history, largest = big_drawing(3706, 999, 200, twins=twins)
        groups = title_groups(
            StringColumn.from_list([f"t{i % (3706 - twins)}" for i in range(3706)])
        )
        pop = population(groups)
        for m in (1, 29, 99):
            assert np.array_equal(draw_negatives(pop, keys, history, m), largest[:, :m])


def test_other_users_their_order_and_the_block_size_do_not_matter() -> None:
    groups, keys, history, negatives = big_drawing(500, 29, 1000)
    pop = population(groups)
    rows = np.random.default_rng(1).permutation(1000)[:317]
    for block in (1, 50, 100_000):
        again = draw_negatives(pop, keys[rows], history.take(rows), 29, block=block)
        assert np.array_equal(again, negatives[rows])


def test_salts_separate_seed_split_domain_and_purpose() -> None:
    salts = {
        salt64(*arguments)
        for arguments in [
            ("candidates", 0, "test", "a"),
            ("candidates", 1, "test", "a"),
            ("candidates", 0, "valid", "a"),
            ("candidates", 0, "test", "b"),
            ("subset", 0, "test", "a"),
        ]
    }
    assert len(salts) == 5


def test_draws_are_uniform() -> None:
    """100,000 users x 29 on 1,000 items: counts of items, and of (first, second) pairs of buckets."""
    n_items, n_users = 1000, 100_000
    keys = keys_for([str(i) for i in range(n_users)])
    empty = Sequences(np.zeros(n_users + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))
    negatives = draw_negatives(population(np.arange(n_items, dtype=np.int32)), keys, empty, 29)
    # Counts without replacement vary less than multinomial ones: scale the statistic up.
    counts = np.bincount(negatives.ravel(), minlength=n_items)
    expected = n_users * 29 / n_items
    statistic = ((counts - expected) ** 2).sum() / expected / (1 - 29 / n_items)
    assert abs(statistic - 999) < 4 * np.sqrt(2 * 999)
    for column in (0, 1, 14, 28):
        assert chisquare(np.bincount(negatives[:, column], minlength=n_items)).pvalue > 1e-4
    buckets = negatives[:, 0] // 100 * 10 + negatives[:, 1] // 100
    same = np.arange(100) % 11 == 0
    share = np.where(same, 100 * 99, 100 * 100) / (1000 * 999)
    observed = np.bincount(buckets, minlength=100)
    assert chisquare(observed, share / share.sum() * n_users).pvalue > 1e-4


def test_rejection_makes_an_awkward_range_exactly_uniform() -> None:
    """With 3 * 2**30 values a fourth of the 32-bit numbers must be rejected; halves must balance."""
    weights = np.full(3, 1 << 30, dtype=np.int64)
    pop = population(np.arange(3, dtype=np.int32), weights)
    keys = keys_for([str(i) for i in range(60_000)])
    empty = Sequences(np.zeros(len(keys) + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))
    first = draw_negatives(pop, keys, empty, 1)[:, 0]
    assert chisquare(np.bincount(first, minlength=3)).pvalue > 1e-4
    titles = ["a", "b", "c"]
    for row in range(50):
        expected = reference.candidates(str(row), titles, [], 0, 1, weights=weights.tolist())[0]
        assert first[row] in expected


def test_popularity_draws_follow_the_weights() -> None:
    weights = np.array([0, 1, 2, 4, 8, 16, 32, 0], dtype=np.int64)
    pop = population(np.arange(8, dtype=np.int32), weights)
    keys = keys_for([str(i) for i in range(50_000)])
    empty = Sequences(np.zeros(len(keys) + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))
    negatives = draw_negatives(pop, keys, empty, 6)
    counts = np.bincount(negatives[:, 0], minlength=8)
    assert chisquare(counts[1:7], weights[1:7] / weights.sum() * len(keys)).pvalue > 1e-4
    assert (np.sort(negatives, axis=1) == np.arange(1, 7)).all()


def test_the_column_of_a_popular_negative_says_nothing() -> None:
    n, m = 20_000, 10
    weights = np.r_[np.full(5, 400), np.ones(45)].astype(np.int64)
    groups = np.arange(50, dtype=np.int32)
    pop = population(groups, weights)
    users = [f"u{i}" for i in range(n)]
    history = rows_of([[49]] * n, groups)
    positives = np.full(n, 49, dtype=np.int32)
    in_drawing_order = draw_negatives(pop, keys_for(users), history, m)
    candidates, position = draw_candidates(pop, keys_for(users), history, positives, m)
    assert (np.sort(candidates[candidates != 49].reshape(n, m)) == np.sort(in_drawing_order)).all()
    assert (candidates[np.arange(n), position] == 49).all()
    early = (in_drawing_order < 5).sum(axis=0)
    assert early[0] > 2 * early[-1], "heavy items are drawn early, or this test shows nothing"
    assert chisquare((candidates < 5).sum(axis=0)).pvalue > 0.001


def test_position_of_the_positive_is_uniform_and_independent_of_the_first_draw() -> None:
    keys = keys_for([str(i) for i in range(90_000)])
    position = position_of(keys, 29)
    assert chisquare(np.bincount(position, minlength=30)).pvalue > 1e-4
    empty = Sequences(np.zeros(len(keys) + 1, dtype=np.int64), np.zeros(0, dtype=np.int32))
    first = draw_negatives(population(np.arange(30, dtype=np.int32)), keys, empty, 1)[:, 0]
    assert chisquare(np.bincount(first * 30 + position, minlength=900)).pvalue > 1e-4


def test_eligible_groups_counts_distinct_drawable_titles() -> None:
    groups = np.array([0, 1, 1, 2, 3], dtype=np.int32)
    history = Sequences(np.array([0, 3, 3, 4]), np.array([1, 1, 3, 0], dtype=np.int32))
    assert eligible_groups(population(groups), history).tolist() == [2, 4, 3]
    weighted = population(groups, np.array([0, 0, 5, 1, 1]))
    assert eligible_groups(weighted, history).tolist() == [1, 3, 3]


def test_weights_that_cannot_be_drawn_from() -> None:
    groups = np.arange(2, dtype=np.int32)
    for weights in ([0, 0], [1 << 31, 1 << 31]):
        with pytest.raises(ProtocolError, match="weights that sum to"):
            population(groups, np.array(weights), domain="x")


@given(st.lists(st.text(max_size=20), min_size=1, max_size=30))
def test_hashes_equal_the_reference(values: list[str]) -> None:
    column = StringColumn.from_list(values)
    assert fnv1a(column).tolist() == [reference.fnv1a(value.encode()) for value in values]
    assert id_hashes(column, 1).tolist() == id_hashes(column).tolist()[1:]


def test_fnv1a_known_answers() -> None:
    """From the test suite of Fowler, Noll & Vo."""
    known = {"": 0xCBF29CE484222325, "a": 0xAF63DC4C8601EC8C, "foobar": 0x85944171F73967E8}
    assert fnv1a(StringColumn.from_list(list(known))).tolist() == list(known.values())


@pytest.mark.parametrize(
    ("left", "right", "equal"),
    [
        ("A  title", "a title ", True),
        ("ﬁne", "FINE", True),
        ("Straße", "STRASSE", True),
        ("caf\u00e9", "cafe\u0301", True),
        ("x\u00a0y", "X\tY", True),
        ("Vol. 1", "Vol. 2", False),
        ("resume", "résumé", False),
    ],
)
def test_title_equality(left: str, right: str, equal: bool) -> None:
    assert (canonical_title(left) == canonical_title(right)) is equal


def test_title_groups_are_numbered_by_first_item() -> None:
    titles = StringColumn.from_list(["b", "a", "B", "c", "A "])
    assert title_groups(titles).tolist() == [0, 1, 0, 2, 1]
