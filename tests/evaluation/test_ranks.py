"""Scores to outcomes: counts against brute force, exactness, masks, and every way to be refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bench.errors import MethodError, ProtocolError
from bench.evaluation import rank_outcomes

NAN = float("nan")


def brute_force(values, position, excluded=None):
    """Count in plain Python, one comparison at a time."""
    rows = []
    for i, column in enumerate(position):
        competing = [j for j in range(values.shape[1]) if excluded is None or not excluded[i][j]]
        own = float(values[i][column])
        others = [float(values[i][j]) for j in competing if j != column]
        if np.isnan(own):
            better = sum(not np.isnan(x) for x in others)
            tied = len(others) - better
        else:
            better = sum(x > own for x in others)
            tied = sum(x == own for x in others)
        rows.append((better, tied, len(competing), not np.isnan(own)))
    return rows


def as_rows(outcomes):
    return list(
        zip(
            outcomes.n_better.tolist(),
            outcomes.n_tied.tolist(),
            outcomes.n_candidates.tolist(),
            outcomes.ranked.tolist(),
            strict=True,
        )
    )


@st.composite
def ranking_problem(draw):
    n = draw(st.integers(0, 6))
    c = draw(st.integers(1, 12))
    element = st.sampled_from([-1.5, -0.0, 0.0, 0.25, 1.0, 1e-45, NAN])
    values = draw(hnp.arrays(np.float32, (n, c), elements=element))
    position = draw(hnp.arrays(np.int32, n, elements=st.integers(0, c - 1)))
    excluded = draw(st.none() | hnp.arrays(np.bool_, (n, c)))
    if excluded is not None:
        excluded[np.arange(n), position] = False
    return values, position, excluded


@given(ranking_problem())
@settings(max_examples=300, deadline=None)
def test_counts_equal_brute_force(problem):
    values, position, excluded = problem
    outcomes = rank_outcomes(values, position, excluded=excluded, may_leave_unranked=True)
    assert as_rows(outcomes) == brute_force(values, position, excluded)


@pytest.mark.parametrize("c", [1, 7, 8, 9, 30, 247, 248, 249, 255, 256, 257, 496, 700, 3000])
@pytest.mark.parametrize("masked", [False, True])
def test_counts_are_right_for_every_width_around_the_tile_edges(c, masked):
    rng = np.random.default_rng(c)
    n = 400 if c < 300 else 60  # several row blocks as well
    values = rng.integers(0, 5, (n, c)).astype(np.float32)
    position = rng.integers(0, c, n)
    excluded = None
    if masked:
        excluded = rng.random((n, c)) < 0.4
        excluded[np.arange(n), position] = False
    outcomes = rank_outcomes(values, position, excluded=excluded)
    own = values[np.arange(n), position][:, None]
    competes = np.ones((n, c), bool) if excluded is None else ~excluded
    np.testing.assert_array_equal(outcomes.n_better, ((values > own) & competes).sum(axis=1))
    np.testing.assert_array_equal(outcomes.n_tied, ((values == own) & competes).sum(axis=1) - 1)
    np.testing.assert_array_equal(outcomes.n_candidates, competes.sum(axis=1))


def test_all_equal_wide_rows_do_not_overflow_the_byte_counters():
    values = np.zeros((3, 2000), dtype=np.float32)
    outcomes = rank_outcomes(values, np.array([0, 999, 1999]))
    assert outcomes.n_tied.tolist() == [1999] * 3
    assert outcomes.n_better.tolist() == [0] * 3


def test_float64_scores_are_not_rounded_to_float32():
    tiny = [1e-48, 1e-51, 3e-50]
    saturated = [1.0, 1.0 - 2**-53, 1.0 - 2**-52]
    values = np.array([tiny, saturated, [1e14 + 1, 1e14, 1e14 - 1]])
    outcomes = rank_outcomes(values, np.zeros(3, dtype=np.int64))
    assert outcomes.n_better.tolist() == outcomes.n_tied.tolist() == [0, 0, 0]
    rounded = rank_outcomes(values.astype(np.float32), np.zeros(3, dtype=np.int64))
    assert rounded.n_tied.tolist() == [2, 2, 2]


def test_comparisons_are_exact_in_float32():
    one = np.float32(1.0)
    next_up = np.nextafter(one, np.float32(2.0))
    values = np.array([[one, next_up, one]], dtype=np.float32)
    assert as_rows(rank_outcomes(values, np.array([0]))) == [(1, 1, 3, True)]
    assert as_rows(rank_outcomes(values, np.array([1]))) == [(0, 0, 3, True)]


def test_strided_and_read_only_input_is_neither_copied_back_nor_changed():
    base = np.random.default_rng(0).standard_normal((40, 60)).astype(np.float32)
    view = base[::2, ::2]
    view.setflags(write=False)
    position = np.arange(20) % 30
    expected = rank_outcomes(view.copy(), position)
    assert as_rows(rank_outcomes(view, position)) == as_rows(expected)


@given(ranking_problem(), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_permuting_candidates_or_users_changes_nothing(problem, random):
    values, position, excluded = problem
    n, c = values.shape
    order = list(range(c))
    random.shuffle(order)
    rows = list(range(n))
    random.shuffle(rows)
    inverse = np.argsort(order)
    plain = rank_outcomes(values, position, excluded=excluded, may_leave_unranked=True)
    shuffled = rank_outcomes(
        values[rows][:, order],
        inverse[position[rows]],
        excluded=None if excluded is None else excluded[rows][:, order],
        may_leave_unranked=True,
    )
    assert as_rows(shuffled) == [as_rows(plain)[i] for i in rows]


def test_chunked_scoring_joins_to_the_same_outcomes():
    rng = np.random.default_rng(3)
    values = rng.integers(0, 9, (5000, 30)).astype(np.float32)
    position = rng.integers(0, 30, 5000)
    whole = rank_outcomes(values, position)
    parts = [rank_outcomes(values[i : i + 700], position[i : i + 700]) for i in range(0, 5000, 700)]
    assert as_rows(type(whole).concat(parts)) == as_rows(whole)


GOOD = np.zeros((3, 4), dtype=np.float32)
AT = np.array([0, 1, 2])


def with_value(value):
    values = GOOD.copy()
    values[1, 3] = value
    return values


BAD_INPUT = {
    "float16": (GOOD.astype(np.float16), AT, {}, MethodError, r"knn .*float16.*float32 or float64"),
    "one dimension": (GOOD[0], AT, {}, MethodError, r"shape \(4,\)"),
    "a list": (GOOD.tolist(), AT, {}, MethodError, "type list"),
    "too few rows": (GOOD[:2], AT, {}, MethodError, "2 users; expected 3"),
    "too few columns": (GOOD[:, :2], AT, {}, MethodError, "row 2 is candidate 2"),
    "infinite": (with_value(np.inf), AT, {}, MethodError, "infinite scores for 1 of 3 .*user 8"),
    "minus infinity from a generator": (
        with_value(-np.inf),
        AT,
        {"may_leave_unranked": True},
        MethodError,
        "infinite",
    ),
    "NaN from a scorer": (with_value(NAN), AT, {}, MethodError, "NaN scores for 1 of 3.*declare"),
    "undeclared slots": (GOOD, AT, {"slots": np.zeros((3, 1), np.int16)}, MethodError, "declare"),
    "float positions": (GOOD, AT.astype(float), {}, ProtocolError, "float64"),
    "negative position": (GOOD, AT - 1, {}, MethodError, "candidate -1"),
    "mask of bytes": (
        GOOD,
        AT,
        {"excluded": np.zeros((3, 4), np.uint8)},
        ProtocolError,
        "uint8",
    ),
    "mask of other shape": (
        GOOD,
        AT,
        {"excluded": np.zeros((3, 3), bool)},
        ProtocolError,
        r"\(3, 3\)",
    ),
    "excluded positive": (GOOD, AT, {"excluded": np.eye(3, 4) > 0}, ProtocolError, "row 0"),
}


@pytest.mark.parametrize("case", BAD_INPUT)
def test_bad_input_is_refused_with_owner_user_and_count(case):
    values, position, options, error, message = BAD_INPUT[case]
    with pytest.raises(error, match=message):
        rank_outcomes(values, position, owner="knn", users=np.array([7, 8, 9]), **options)


def test_nan_of_a_diverged_positive_never_wins():
    values = np.array([[NAN, 1.0, 2.0]], dtype=np.float32)
    outcomes = rank_outcomes(values, np.array([0]), may_leave_unranked=True)
    assert as_rows(outcomes) == [(2, 0, 3, False)]
