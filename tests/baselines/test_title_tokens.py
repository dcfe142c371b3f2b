"""Token tables and rows against plain Python lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_catalogue import sequences
from tiny_encoder import tiny_wordpiece

from bench.baselines.text.title_tokens import (
    TokenTable,
    join_tables,
    lay_out,
    like_widths,
    n_tokens,
    newest,
    stack_tables,
    tokenise,
    windows,
)

TITLES = ["The Toy Story", "", "xyz-1 (red)", "Körper & Creme 12", "the toy story"]

texts = st.lists(st.lists(st.integers(5, 60), max_size=6), min_size=1, max_size=6)


def table(rows: list[list[int]], kind: int = 0) -> TokenTable:
    flat = [token for row in rows for token in row]
    return TokenTable(
        np.cumsum([0, *map(len, rows)]).astype(np.int64),
        np.array(flat, dtype=np.int32),
        np.full(len(flat), kind, dtype=np.uint8),
        np.ones(len(flat), dtype=np.bool_),
    )


def lists(table: TokenTable) -> list[list[int]]:
    return [part.tolist() for part in np.split(table.ids, table.offsets[1:-1])]


def test_tokens_are_those_of_the_tokenizer_without_special_ones() -> None:
    tokenizer = tiny_wordpiece()
    found = tokenise(TITLES, tokenizer, kind=2)
    assert lists(found) == [
        tokenizer.convert_tokens_to_ids(tokenizer.tokenize(title)) for title in TITLES
    ]
    assert (found.kinds == 2).all()


def test_words_begin_where_no_piece_continues_one() -> None:
    tokenizer = tiny_wordpiece()
    found = tokenise(TITLES, tokenizer)
    pieces = tokenizer.convert_ids_to_tokens(found.ids.tolist())
    assert found.starts.tolist() == [not piece.startswith("##") for piece in pieces]


def test_a_tokenizer_that_pads_and_cuts_by_itself_is_not_asked_to() -> None:
    tokenizer = tiny_wordpiece()
    tokenizer("a", truncation=True, max_length=3, padding="max_length")
    assert tokenise(["toy story star wars"], tokenizer).lengths.tolist() == [4]


@given(texts, texts, st.integers(0, 7))
def test_tables_are_cut_joined_and_stacked(
    first: list[list[int]], second: list[list[int]], most: int
) -> None:
    assert lists(table(first).cut(most)) == [row[:most] for row in first]
    assert lists(stack_tables([table(first), table(second)])) == first + second
    second = (second * len(first))[: len(first)]
    joined = join_tables([table(first, 1), table(second, 2)])
    assert lists(joined) == [a + b for a, b in zip(first, second, strict=True)]
    kinds = [[1] * len(a) + [2] * len(b) for a, b in zip(first, second, strict=True)]
    assert joined.kinds.tolist() == [kind for row in kinds for kind in row]


@given(texts)
def test_equal_texts_share_one_place(rows: list[list[int]]) -> None:
    first, place = table(rows).distinct()
    assert [rows[first[k]] for k in place] == rows
    assert len({tuple(rows[k]) for k in first}) == len(first)


def test_equal_tokens_of_another_kind_are_another_text() -> None:
    both = stack_tables([table([[5, 6]], 1), table([[5, 6]], 2)])
    assert len(both.distinct()[0]) == 2


@given(texts, st.data(), st.integers(1, 12))
def test_rows_are_the_texts_of_their_items_one_after_the_other(
    items: list[list[int]], data: st.DataObject, most: int
) -> None:
    item = st.integers(0, len(items) - 1)
    rows = data.draw(st.lists(st.lists(item, max_size=5), min_size=1, max_size=4))
    texts, history = table(items), sequences(*rows)
    laid = lay_out(texts, history, most=most)
    expected = [[token for i in row for token in items[i]][:most] for row in rows]
    places = [[k for k, i in enumerate(row) for _ in items[i]][:most] for row in rows]
    assert laid.lengths.tolist() == [len(row) for row in expected]
    assert n_tokens(texts, history, most=most).tolist() == [len(row) for row in expected]
    width = most + 2
    ids = laid.padded(texts.ids[laid.source], fill=0, first=2, width=width)
    assert ids.tolist() == [[2, *row] + [0] * (width - 1 - len(row)) for row in expected]
    assert laid.item.tolist() == [k for row in places for k in row]


@given(st.lists(st.integers(1, 50), max_size=30).map(np.array), st.integers(1, 100))
def test_groups_hold_every_row_once_and_no_more_cells_than_asked(
    widths: np.ndarray, cells: int
) -> None:
    groups = like_widths(widths, cells=cells)
    assert sorted(row for group in groups for row in group.tolist()) == list(range(len(widths)))
    for group in groups:
        assert len(group) == 1 or len(group) * int(widths[group].max()) <= cells
    order = [int(widths[row]) for group in groups for row in group.tolist()]
    assert order == sorted(order)


@pytest.mark.parametrize("reverse", [False, True])
def test_windows_in_either_order(reverse: bool) -> None:
    history = sequences([1, 2, 3, 4], [], [7])
    found = newest(history, np.array([0, 1, 2, 0]), most=3, newest_first=reverse)
    expected = [[2, 3, 4], [], [7], [2, 3, 4]]
    rows = [found[row].tolist() for row in range(4)]
    assert rows == ([row[::-1] for row in expected] if reverse else expected)
    cut = windows(history, np.array([1, 2]), np.array([3, 2]), newest_first=reverse)
    assert [cut[row].tolist() for row in range(2)] == [[3, 2] if reverse else [2, 3], []]
