"""Rows and batches of the shared training loop."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny_catalogue import sequences

from bench.baselines.batches import (
    cloze_rows,
    epoch_rows,
    length_groups,
    make_batch,
    pad_histories,
    plan_batches,
    window_rows,
)

ROWS = st.lists(st.lists(st.integers(0, 20), max_size=9), min_size=1, max_size=12)


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


@settings(deadline=None)
@given(ROWS, st.integers(1, 6))
def test_prefix_rows_are_every_history_with_its_next_item(lists: list[list[int]], cut: int) -> None:
    history = sequences(*lists)
    rows = epoch_rows(history, "prefixes", max_length=cut, rng=rng())
    found = [
        (int(r), history.items[s:e].tolist(), int(history.items[e]))
        for r, s, e in zip(rows.sequence, rows.start, rows.end, strict=True)
    ]
    expected = [
        (u, row[max(0, t - cut) : t], row[t])
        for u, row in enumerate(lists)
        for t in range(1, len(row))
    ]
    assert found == expected


@settings(deadline=None)
@given(ROWS, st.integers(1, 6))
def test_all_positions_trains_on_the_targets_of_all_prefixes(
    lists: list[list[int]], cut: int
) -> None:
    history = sequences(*lists)
    rows = epoch_rows(history, "all-positions", max_length=cut, rng=rng())
    pairs = []
    if len(rows):
        batch = make_batch(history, rows, np.arange(len(rows)), kind="all-positions")
        real = batch.targets > 0
        assert (real == (batch.items > 0)).all()
        owner = np.broadcast_to(batch.sequence[:, None], real.shape)[real]
        pairs = sorted(zip(owner.tolist(), batch.targets[real].tolist(), strict=True))
    assert pairs == sorted((u, item + 1) for u, row in enumerate(lists) for item in row[1:])
    assert (rows.lengths <= cut).all()


@settings(deadline=None)
@given(ROWS, st.integers(1, 6), st.integers(0, 1))
def test_windows_cover_every_input_once(lists: list[list[int]], cut: int, spare: int) -> None:
    history = sequences(*lists)
    rows = window_rows(history, max_length=cut, spare=spare)
    seen = np.zeros(len(history.items), dtype=int)
    for start, end in zip(rows.start, rows.end, strict=True):
        seen[start:end] += 1
    expected = np.concatenate(
        [np.zeros(0, int)]
        + [[1] * max(0, len(r) - spare) + [0] * min(spare, len(r)) for r in lists]
    )
    assert seen.tolist() == expected.tolist()


def test_random_prefix_draws_one_prefix_per_user_and_others_next_time() -> None:
    history = sequences(list(range(9)), [3], [5, 6], [])
    generator = rng()
    draws = [epoch_rows(history, "random-prefix", max_length=50, rng=generator) for _ in range(40)]
    assert all(d.sequence.tolist() == [0, 2] for d in draws)
    assert {int(d.end[0] - d.start[0]) for d in draws} == set(range(1, 9))


def test_cloze_rows_hold_the_last_training_item() -> None:
    history = sequences([1, 2, 3], [4], [5, 6])
    rows = cloze_rows(history, prefixes=True, max_length=50)
    assert [history.items[s:e].tolist() for s, e in zip(rows.start, rows.end, strict=True)] == [
        [1, 2],
        [1, 2, 3],
        [5, 6],
    ]
    whole = cloze_rows(history, prefixes=False, max_length=50)
    assert sorted(whole.lengths.tolist()) == [1, 2, 3]


@settings(deadline=None)
@given(ROWS, st.integers(1, 40), st.sampled_from(["prefixes", "all-positions"]), st.booleans())
def test_batches_hold_every_row_once_and_respect_the_size(
    lists: list[list[int]], size: int, kind: str, bucketed: bool
) -> None:
    history = sequences(*lists)
    rows = epoch_rows(history, kind, max_length=50, rng=rng())
    batches = plan_batches(rows, batch_size=size, rng=rng(), bucketed=bucketed)
    assert sorted(np.concatenate([np.zeros(0, int), *batches]).tolist()) == list(range(len(rows)))
    longest = int(rows.n_targets.max(initial=0))
    for chosen in batches:
        assert len(chosen) >= 1
        assert rows.n_targets[chosen].sum() < size + longest


def test_prefix_batches_are_full_but_the_last() -> None:
    history = sequences(*[list(range(8))] * 100)
    rows = epoch_rows(history, "prefixes", max_length=50, rng=rng())
    sizes = sorted(len(b) for b in plan_batches(rows, batch_size=64, rng=rng()))
    assert sizes == [700 % 64] + [64] * (700 // 64)


def test_bucketing_saves_padding() -> None:
    lengths = np.random.default_rng(1).integers(2, 40, size=4000)
    history = sequences(*(list(range(n)) for n in lengths))

    def padded_cells(bucketed: bool) -> int:
        rows = epoch_rows(history, "random-prefix", max_length=50, rng=rng())
        batches = plan_batches(rows, batch_size=64, rng=rng(), bucketed=bucketed)
        return sum(len(b) * int(rows.lengths[b].max()) for b in batches)

    assert padded_cells(True) < 0.65 * padded_cells(False)


def test_histories_are_cut_to_the_newest_and_empty_ones_read_a_padding_item() -> None:
    history = sequences([4, 5, 6], [], [7])
    items, lengths = pad_histories(history, np.array([0, 1, 2]), max_length=2)
    assert items.tolist() == [[6, 7], [0, 0], [8, 0]]
    assert lengths.tolist() == [2, 1, 1]
    wide, _ = pad_histories(history, np.array([2]), max_length=5, width=5)
    assert wide.tolist() == [[8, 0, 0, 0, 0]]


@settings(deadline=None)
@given(st.lists(st.integers(1, 60), min_size=1, max_size=300), st.integers(1, 40))
def test_groups_hold_every_row_once_and_save_padding(lengths: list[int], smallest: int) -> None:
    array = np.array(lengths)
    groups = length_groups(array, smallest=smallest)
    assert sorted(np.concatenate(groups).tolist()) == list(range(len(lengths)))
    assert all(len(g) >= smallest for g in groups[:-1])
    longest = [int(array[g].max()) for g in groups]
    assert longest == sorted(longest)
    cells = sum(len(g) * top for g, top in zip(groups, longest, strict=True))
    assert cells <= len(lengths) * max(lengths)


def test_groups_of_a_typical_batch_are_mostly_real_items() -> None:
    lengths = np.minimum(np.random.default_rng(0).geometric(0.2, size=256), 50)
    cells = sum(len(g) * int(lengths[g].max()) for g in length_groups(lengths))
    assert cells < 1.6 * lengths.sum()
    assert len(lengths) * lengths.max() > 4 * lengths.sum()
