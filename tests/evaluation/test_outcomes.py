"""Outcomes: round trips, damage, histograms."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ResultError
from bench.evaluation import Outcomes


def make(rows, slots=False):
    """Outcomes from rows of (n_better, n_tied, spare, ranked)."""
    better = np.array([r[0] for r in rows], np.int32)
    tied = np.array([r[1] for r in rows], np.int32)
    spare = np.array([r[2] for r in rows], np.int32)
    ranked = np.array([r[3] for r in rows], bool)
    keep = close = None
    if slots:
        close = np.where(ranked, better + 1, 0).astype(np.int16)
        keep = np.where(ranked, close + 1, 0).astype(np.int16)
    return Outcomes(better, tied, better + tied + 1 + spare, ranked, keep, close)


rows_of = st.lists(
    st.tuples(st.integers(0, 2000), st.integers(0, 2000), st.integers(0, 10**9), st.booleans()),
    max_size=40,
)


@given(rows_of, st.booleans())
@settings(max_examples=150, deadline=None)
def test_histogram_counts_every_distinct_outcome_once(rows, slots):
    outcomes = make(rows, slots)
    distinct, counts = outcomes.histogram()

    def tuples(o):
        return list(zip(*(c.tolist() for c in o.to_columns().values()), strict=True))

    found = dict(zip(tuples(distinct), counts.tolist(), strict=True))
    assert found == dict(Counter(tuples(outcomes)))
    assert len(found) == len(distinct)
    for name, column in distinct.to_columns().items():
        assert column.dtype == outcomes.to_columns()[name].dtype


def test_histogram_of_a_small_key_space_is_sorted_and_independent_of_order():
    outcomes = make([(2, 0, 1, True), (0, 1, 1, True), (2, 0, 1, True), (0, 0, 2, True)])
    shuffled = outcomes.take(np.array([3, 1, 0, 2]))
    first, counts = outcomes.histogram()
    second, other = shuffled.histogram()
    assert first.n_better.tolist() == second.n_better.tolist() == [0, 0, 2]
    assert first.n_tied.tolist() == [0, 1, 0]
    assert counts.tolist() == other.tolist() == [1, 1, 2]


@given(rows_of, st.booleans())
@settings(max_examples=50, deadline=None)
def test_columns_round_trip_through_wider_integers(rows, slots):
    outcomes = make(rows, slots)
    wide = {k: v.astype(np.int64) for k, v in outcomes.to_columns().items()}
    back = Outcomes.from_columns({**wide, "user": np.arange(len(outcomes))})
    for name, column in outcomes.to_columns().items():
        np.testing.assert_array_equal(back.to_columns()[name], column)
        assert back.to_columns()[name].dtype == column.dtype
    assert back.has_slots == slots


def test_take_and_concat():
    outcomes = make([(i, 0, 40 - i, True) for i in range(5)], slots=True)
    again = Outcomes.concat([outcomes.take(slice(0, 2)), outcomes.take(np.array([2, 3, 4]))])
    assert again.n_better.tolist() == [0, 1, 2, 3, 4]
    assert again.rank_keep.tolist() == [2, 3, 4, 5, 6]
    assert len(outcomes.take(outcomes.n_better > 2)) == 2


def test_concat_refuses_nothing_and_mixtures():
    with pytest.raises(ResultError, match="at least one"):
        Outcomes.concat([])
    with pytest.raises(ResultError, match="slots for all"):
        Outcomes.concat([make([(0, 0, 0, True)]), make([(0, 0, 0, True)], slots=True)])


GOOD = {
    "n_better": [0, 1],
    "n_tied": [0, 0],
    "n_candidates": [30, 30],
    "ranked": [True, True],
    "rank_keep": [1, 3],
    "rank_close": [1, 2],
}
DAMAGE = {
    "missing column": ({"n_tied": None}, "lack the column 'n_tied'"),
    "missing slot column": ({"rank_close": None}, "lack the column 'rank_close'"),
    "float column": ({"n_better": [0.0, 1.0]}, "float64"),
    "two dimensions": ({"n_better": [[0], [1]]}, r"shape \(2, 1\)"),
    "other length": ({"n_better": [0]}, "differ in length"),
    "negative": ({"n_better": [0, -1]}, "row 1 is impossible"),
    "too many better": ({"n_better": [30, 1]}, "row 0 is impossible"),
    "too many tied": ({"n_tied": [0, 29]}, "row 1 is impossible"),
    "rank of a miss": ({"ranked": [True, False]}, "row 1 is impossible"),
    "close after keep": ({"rank_close": [2, 2]}, "row 0 is impossible"),
    "overflow": ({"rank_keep": [1, 70_000]}, "row 1: 70000 does not fit int16"),
    "no such bool": ({"ranked": [2, 1]}, "row 0: 2 does not fit bool"),
}


def test_the_undamaged_columns_are_accepted():
    assert len(Outcomes.from_columns(GOOD)) == 2


@pytest.mark.parametrize("case", DAMAGE)
def test_damaged_columns_are_refused(case):
    change, message = DAMAGE[case]
    with pytest.raises(ResultError, match=message):
        Outcomes.from_columns({**GOOD, **change})
