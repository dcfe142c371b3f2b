from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from llm_examples import make_examples, random_examples

from bench.errors import MethodError
from bench.llm.batching import check_examples, micro_batches, n_steps, pack, shard, step_rows

LENGTHS = st.lists(st.integers(1, 60), min_size=1, max_size=40).map(np.array)


def test_every_epoch_visits_every_row_once_in_an_order_of_its_own():
    steps = list(step_rows(10, 4, 3, order_seed=5))
    assert len(steps) == n_steps(10, 4, 3) == 9
    epochs = [np.concatenate(steps[i : i + 3]) for i in (0, 3, 6)]
    for rows in epochs:
        assert sorted(rows) == list(range(10))
    assert [len(s) for s in steps] == [4, 4, 2] * 3
    assert not np.array_equal(epochs[0], epochs[1])
    again = list(step_rows(10, 4, 3, order_seed=5))
    assert all(np.array_equal(a, b) for a, b in zip(steps, again, strict=True))
    other = list(step_rows(10, 4, 3, order_seed=6))
    assert not np.array_equal(np.concatenate(steps), np.concatenate(other))


def test_a_longer_training_begins_like_a_shorter_one():
    short = list(step_rows(10, 4, 1, order_seed=5))
    long = list(step_rows(10, 4, 2, order_seed=5))
    assert all(np.array_equal(a, b) for a, b in zip(short, long, strict=False))


@given(LENGTHS, st.integers(1, 5))
def test_processes_share_a_step_without_rest_or_repeat(lengths: np.ndarray, world: int):
    rows = np.arange(len(lengths))
    parts = [shard(lengths, rows, rank, world) for rank in range(world)]
    assert sorted(np.concatenate(parts).tolist()) == rows.tolist()
    loads = [int(lengths[p].sum()) for p in parts]
    assert max(loads) - min(loads) <= lengths.max()


@given(LENGTHS, st.integers(1, 150))
def test_micro_batches_keep_the_ceiling_and_the_order(lengths: np.ndarray, ceiling: int):
    rows = np.arange(len(lengths))[::-1]
    parts = micro_batches(lengths, rows, ceiling)
    assert np.concatenate(parts).tolist() == rows.tolist()
    for part in parts:
        assert len(part) == 1 or lengths[part].sum() <= ceiling


def test_micro_batches_are_about_equally_full():
    lengths = np.full(9, 100)
    assert [len(p) for p in micro_batches(lengths, np.arange(9), 800)] == [5, 4]
    assert [len(p) for p in micro_batches(lengths, np.arange(8), 800)] == [8]
    assert micro_batches(lengths, np.arange(0), 800) == []


def test_packing_restarts_positions_and_predicts_each_label_from_the_token_before_it():
    examples = make_examples([[10, 11, 12, 13], [20, 21, 22]], prompts=[2, 1])
    packed = pack(examples, [1, 0])
    # The last token of a sequence is only predicted, never read.
    assert packed.tokens.tolist() == [20, 21, 10, 11, 12]
    assert packed.positions.tolist() == [0, 1, 0, 1, 2]
    assert packed.bounds.tolist() == [0, 2, 5]
    assert packed.labels.tolist() == [21, 22, 12, 13]
    assert packed.tokens[packed.predicting].tolist() == [20, 21, 11, 12]


def test_a_sequence_without_label_is_left_out():
    examples = make_examples([[1, 2, 3], [4, 5]], prompts=[3, 1])
    packed = pack(examples, [0, 1])
    assert packed.tokens.tolist() == [4]
    assert packed.labels.tolist() == [5]
    assert len(pack(examples, [0]).tokens) == 0


def test_every_label_and_no_prompt_token_is_trained_on():
    examples = random_examples(20, 30)
    packed = pack(examples, range(20))
    assert packed.labels.tolist() == examples.tokens[examples.labelled].tolist()


@pytest.mark.parametrize(
    ("sequences", "prompts", "context", "message"),
    [
        ([[1, 2]], [2], None, "nothing to train on: 1 examples with 0 labelled"),
        ([[1, 2], [3, 4]], [1, 0], None, "first token of example 1 is labelled"),
        ([[1, 300]], [1], None, "token ids from 1 to 300; the backbone knows 0 to 299"),
        ([[1, -1]], [1], None, "token ids from -1"),
        ([[1, 2, 3]], [1], 2, "example 0 has 3 tokens; the backbone reads at most 2"),
        ([[1, 2], []], [1, 0], None, "example 1 is empty"),
    ],
)
def test_examples_that_cannot_be_trained_on(sequences, prompts, context, message):
    with pytest.raises(MethodError, match=message):
        check_examples(make_examples(sequences, prompts), vocabulary=300, context=context)
