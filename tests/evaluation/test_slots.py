"""Ranks from generated lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import MethodError
from bench.evaluation import metric_per_user, rank_outcomes


def outcomes_of(slots, position, c=6, excluded=None):
    slots = np.asarray(slots, dtype=np.int16)
    return rank_outcomes(
        np.full((len(slots), c), np.nan, dtype=np.float32),
        np.asarray(position),
        slots=slots,
        excluded=excluded,
        may_leave_unranked=True,
        owner="llm",
        users=np.arange(100, 100 + len(slots)),
    )


# slots of one user, the positive, then rank_keep, rank_close, n_better, n_tied, ranked
CASES = {
    "first": ([3, 1, 0], 3, 1, 1, 0, 0, True),
    "third": ([3, 1, 0], 0, 3, 3, 2, 0, True),
    "not listed": ([3, 1, 0], 5, 0, 0, 3, 2, False),
    "after an invalid answer": ([-2, 1, 0], 1, 2, 1, 0, 0, True),
    "after a duplicate": ([1, -1, 0], 0, 3, 2, 1, 0, True),
    "after an empty slot": ([-3, -3, 4], 4, 3, 1, 0, 0, True),
    "nothing valid": ([-2, -3, -3], 4, 0, 0, 0, 5, False),
    "no slots": ([], 4, 0, 0, 0, 5, False),
    "all listed": ([0, 1, 2, 3, 4, 5], 5, 6, 6, 5, 0, True),
}


@pytest.mark.parametrize("case", CASES)
def test_slot_cases(case):
    slots, position, keep, close, better, tied, ranked = CASES[case]
    outcomes = outcomes_of([slots], [position])
    assert outcomes.rank_keep.tolist() == [keep]
    assert outcomes.rank_close.tolist() == [close]
    assert outcomes.n_better.tolist() == [better]
    assert outcomes.n_tied.tolist() == [tied]
    assert outcomes.ranked.tolist() == [ranked]


def test_policies_differ_in_the_metric():
    outcomes = outcomes_of([[-2, 1, 0]], [0])
    assert metric_per_user(outcomes, "mrr@5").tolist() == pytest.approx([1 / 3])
    assert metric_per_user(outcomes, "mrr@5", policy="close").tolist() == [0.5]
    assert metric_per_user(outcomes, "hr@2").tolist() == [0.0]
    assert metric_per_user(outcomes, "hr@2", policy="close").tolist() == [1.0]


def test_not_listed_is_a_miss_at_every_k_and_bottom_for_auc():
    outcomes = outcomes_of([[3, 1]], [5])
    for k in (1, 2, 3, 6, 100):
        assert metric_per_user(outcomes, f"hr@{k}").tolist() == [0.0]
        assert metric_per_user(outcomes, f"ndcg@{k}").tolist() == [0.0]
    # Two of five others are above; three share the bottom with the positive.
    assert metric_per_user(outcomes, "auc").tolist() == pytest.approx([(3 / 2) / 5])


def test_an_excluded_candidate_takes_nobodys_place():
    excluded = np.zeros((1, 6), bool)
    excluded[0, 2] = True
    outcomes = outcomes_of([[2, -2, 4]], [4], excluded=excluded)
    assert outcomes.rank_keep.tolist() == [2]
    assert outcomes.rank_close.tolist() == [1]
    assert outcomes.n_candidates.tolist() == [5]
    assert outcomes.n_better.tolist() == [0]


@st.composite
def answers(draw):
    c = draw(st.integers(1, 8))
    k = draw(st.integers(0, 6))
    rows = []
    for _ in range(draw(st.integers(1, 5))):
        seen, row = set(), []
        for answer in draw(st.lists(st.integers(-3, c - 1), min_size=k, max_size=k)):
            row.append(-1 if answer in seen and answer >= 0 else answer)
            seen.add(answer)
        rows.append(row)
    position = draw(st.lists(st.integers(0, c - 1), min_size=len(rows), max_size=len(rows)))
    return c, np.array(rows, dtype=np.int16).reshape(len(rows), k), position


@given(answers())
@settings(max_examples=200, deadline=None)
def test_slot_ranks_equal_a_plain_walk_through_the_list(problem):
    c, slots, position = problem
    outcomes = outcomes_of(slots, position, c)
    for i, row in enumerate(slots.tolist()):
        valid = [s for s in row if s >= 0]
        listed = position[i] in valid
        assert outcomes.rank_keep[i] == (row.index(position[i]) + 1 if listed else 0)
        assert outcomes.rank_close[i] == (valid.index(position[i]) + 1 if listed else 0)
        assert outcomes.n_better[i] + outcomes.n_tied[i] <= c - 1
        assert outcomes.ranked[i] == listed
    outcomes.check()


BAD_SLOTS = {
    "float": (np.zeros((2, 3)), "dtype float64"),
    "unsigned": (np.zeros((2, 3), np.uint8), "dtype uint8"),
    "one dimension": (np.zeros(2, np.int16), r"shape \(2,\)"),
    "other number of rows": (np.zeros((3, 1), np.int16), r"expected int16 of shape \(2, k\)"),
    "code below -3": (np.array([[0], [-4]], np.int16), r"1 of 2 users, first user 101"),
    "beyond the candidates": (np.array([[6], [0]], np.int16), r"first user 100 .*\[6\]"),
    "named twice": (np.array([[0, 1, 2], [4, -2, 4]], np.int16), "twice for 1 of 2.*user 101"),
    "too many": (np.full((2, 40_000), -3, np.int16), "at most 32767"),
}


@pytest.mark.parametrize("case", BAD_SLOTS)
def test_bad_slots_are_refused(case):
    slots, message = BAD_SLOTS[case]
    with pytest.raises(MethodError, match=message):
        rank_outcomes(
            np.zeros((2, 6), np.float32),
            np.array([0, 0]),
            slots=slots,
            may_leave_unranked=True,
            owner="llm",
            users=np.array([100, 101]),
        )
