"""Training examples: which rows, which tokens, which labels."""

from __future__ import annotations

import numpy as np
import pytest
from tiny import tiny_tokenizer

from bench.data.domain import Items, Sequences
from bench.data.strings import StringColumn
from bench.errors import ConfigError, MethodError
from bench.llm.examples import (
    Examples,
    concat,
    listwise_examples,
    pointwise_examples,
    sample_prompts,
    sample_sequences,
    sequence_examples,
)
from bench.llm.prompts import PromptWriter, candidate_order, load_template
from bench.protocol.types import DomainView, Requests

TOKENIZER = tiny_tokenizer()
TITLES = [f"Film number {i}" for i in range(60)]
TITLES[7] = TITLES[6].upper()  # reads like item 6


def make_view(lengths: list[int], *, name: str = "demo", seed: int = 0) -> DomainView:
    rng = np.random.default_rng(seed)
    rows = [rng.permutation(len(TITLES))[:length] for length in lengths]
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    items = np.concatenate(rows).astype(np.int32)
    users = np.arange(len(lengths), dtype=np.int32)
    empty = Sequences(np.zeros(1, np.int64), np.empty(0, np.int32))
    column = StringColumn.from_list(TITLES)
    return DomainView(
        name=name,
        items=Items(column, column),
        users=users,
        sequences=Sequences(offsets, items),
        validation=Requests(name, users[:0], empty, np.empty((0, 30), np.int32)),
        training_hash="0" * 64,
    )


VIEW = make_view([0, 1, 2, 3, 9, 25, 4, 6, 12, 2] * 6)


def writer(template: str, **settings) -> PromptWriter:
    chosen = {"max_history": 15, "max_tokens": None, **settings}
    return PromptWriter(load_template(template), TOKENIZER, TITLES, **chosen)


def decode(ids) -> str:
    return TOKENIZER.decode(np.asarray(ids).tolist(), clean_up_tokenization_spaces=False)


def parts(examples: Examples) -> list[tuple[str, str]]:
    """Text before the labels and text of the labels, for examples whose labels come last."""
    found = []
    for row in range(len(examples)):
        piece = slice(*examples.offsets[row : row + 2])
        tokens, labelled = examples.tokens[piece], examples.labelled[piece]
        start = int(labelled.argmax())
        assert labelled[start:].all()
        assert not labelled[:start].any()
        assert start > 0
        found.append((decode(tokens[:start]), decode(tokens[start:])))
    return found


def reversed_users(view: DomainView) -> DomainView:
    order = np.arange(view.n_users)[::-1]
    return DomainView(
        view.name,
        view.items,
        view.users[order],
        view.sequences.take(order),
        view.validation,
        view.training_hash,
    )


# -- the container ----------------------------------------------------------------------------------


def test_examples_are_taken_and_joined_like_lists() -> None:
    rng = np.random.default_rng(0)
    rows = [
        (rng.integers(9, size=a).astype(np.int32), rng.integers(9, size=b).astype(np.int32))
        for a, b in [(3, 2), (1, 1), (4, 0), (2, 5)]
    ]
    examples = Examples.of(rows)
    assert len(examples) == 4
    assert examples.n_tokens == 18
    assert examples.n_labelled == 8
    both = concat([examples, Examples.of([]), examples.take(np.array([3, 0]))])
    expected = [*rows, rows[3], rows[0]]
    assert len(both) == 6
    for row, (prompt, answer) in enumerate(expected):
        piece = slice(*both.offsets[row : row + 2])
        np.testing.assert_array_equal(both.tokens[piece], np.concatenate([prompt, answer]))
        flags = [False] * len(prompt) + [True] * len(answer)
        assert both.labelled[piece].tolist() == flags
    assert (both.tokens.dtype, both.offsets.dtype, both.labelled.dtype) == (
        np.int32,
        np.int64,
        np.bool_,
    )


def test_no_examples_are_empty_examples() -> None:
    for nothing in (Examples.of([]), concat([])):
        assert len(nothing) == nothing.n_tokens == nothing.n_labelled == 0
        assert len(concat([nothing, nothing])) == 0


# -- samples ----------------------------------------------------------------------------------------


def test_samples_are_nested_and_hold_only_what_can_be_learned_from() -> None:
    usable = np.flatnonzero(VIEW.sequences.lengths >= 2)
    whole = sample_sequences(VIEW, None, 0)
    assert sorted(whole) == usable.tolist()
    np.testing.assert_array_equal(sample_sequences(VIEW, 10**6, 0), whole)
    for n in (0, 1, 5, 20):
        np.testing.assert_array_equal(sample_sequences(VIEW, n, 0), whole[:n])
    pairs = sample_prompts(VIEW, None, 0)
    expected = [
        (r, p) for r in range(len(VIEW.sequences)) for p in range(1, len(VIEW.sequences[r]))
    ]
    assert sorted(map(tuple, pairs.tolist())) == expected
    for n in (0, 1, 50):
        np.testing.assert_array_equal(sample_prompts(VIEW, n, 0), pairs[:n])


def test_samples_depend_on_domain_user_and_seed_but_not_on_the_order_of_users() -> None:
    backwards = reversed_users(VIEW)
    for sample in (sample_sequences, sample_prompts):
        chosen = sample(VIEW, 20, 3)
        again = sample(backwards, 20, 3)
        rows, mirrored = (x if x.ndim == 1 else x[:, 0] for x in (chosen, again))
        np.testing.assert_array_equal(VIEW.users[rows], backwards.users[mirrored])
        assert not np.array_equal(chosen, sample(VIEW, 20, 4))
        other = make_view([0, 1, 2, 3, 9, 25, 4, 6, 12, 2] * 6, name="other")
        assert not np.array_equal(chosen, sample(other, 20, 3))


def test_every_sequence_is_as_likely_as_any_other() -> None:
    view = make_view([3] * 40)
    counts = np.zeros(40)
    for seed in range(400):
        counts[sample_sequences(view, 10, seed)] += 1
    # 100 expected, standard deviation 8.7; 40 draws stay within 4.5 of them.
    assert abs(counts - 100).max() < 39


def test_the_listed_order_depends_on_users_and_items_alone() -> None:
    rng = np.random.default_rng(0)
    users = np.arange(200, dtype=np.int32)
    candidates = np.stack([rng.permutation(60)[:30] for _ in users]).astype(np.int32)
    order = candidate_order("demo", users, candidates)
    listed = np.take_along_axis(candidates, order, axis=1)
    assert (np.sort(order, axis=1) == np.arange(30)).all()
    shuffle = rng.permuted(np.tile(np.arange(30), (200, 1)), axis=1)
    moved = np.take_along_axis(candidates, shuffle, axis=1)
    again = np.take_along_axis(moved, candidate_order("demo", users, moved), axis=1)
    np.testing.assert_array_equal(again, listed)
    rows = rng.permutation(200)
    some = candidate_order("demo", users[rows], candidates[rows])
    np.testing.assert_array_equal(some, order[rows])
    assert not np.array_equal(candidate_order("demo", users, candidates, seed=1), order)
    assert not np.array_equal(candidate_order("else", users, candidates), order)
    # Column 0 is listed anywhere: mean 14.5, standard error .61.
    assert abs(order.argmin(axis=1).mean() - 14.5) < 3


# -- sequences --------------------------------------------------------------------------------------


def test_every_title_after_the_first_is_a_target() -> None:
    rows = sample_sequences(VIEW, None, 0)
    examples = sequence_examples(writer("sequence"), VIEW.sequences, rows)
    head = load_template("sequence").render("before", n_answers=1)
    for row, (before, labels) in zip(rows, parts(examples), strict=True):
        newest = [TITLES[i] for i in VIEW.sequences[row][-16:]]
        assert before == f"{head}{newest[0]}\n"
        assert labels == "".join(f"{title}\n" for title in newest[1:])


def test_a_sequence_of_one_event_is_no_example() -> None:
    with pytest.raises(MethodError, match="training sequence 1 has 1 events"):
        sequence_examples(writer("sequence"), VIEW.sequences, np.array([2, 1]))
    with pytest.raises(ConfigError, match="whole sequences"):
        sequence_examples(writer("listwise"), VIEW.sequences, np.array([2]))


# -- lists ------------------------------------------------------------------------------------------


def listed_titles(prompt: str) -> tuple[list[str], list[str]]:
    """History and candidates of a listwise prompt."""
    lists = [line[1:-1] for line in prompt.splitlines() if line.startswith("[")]
    return lists[0].split("||"), lists[1].split("||")


@pytest.mark.parametrize("label", ["title", "top5"])
def test_a_listwise_example_shows_the_target_among_negatives_and_names_it(label: str) -> None:
    prompts = sample_prompts(VIEW, 150, 0)
    one = writer("listwise", n_answers=5 if label == "top5" else 1)
    examples = listwise_examples(one, VIEW, prompts, seed=0, label=label)
    assert len(examples) == 150
    columns = []
    for (row, position), (prompt, answer) in zip(prompts, parts(examples), strict=True):
        items = VIEW.sequences[row]
        positive = TITLES[items[position]]
        history, candidates = listed_titles(prompt)
        assert history == [TITLES[i] for i in items[max(0, position - 15) : position]]
        assert len(candidates) == 30
        assert len({c.casefold() for c in candidates}) == 30
        own = {TITLES[i].casefold() for i in items} - {positive.casefold()}
        assert not own & {c.casefold() for c in candidates}
        named = answer.removesuffix("<|im_end|>").split("||")
        assert answer.endswith("<|im_end|>")
        assert named[0] == positive
        assert len(named) == (5 if label == "top5" else 1)
        assert set(named) <= set(candidates)
        assert len(set(named)) == len(named)
        columns.append(candidates.index(positive))
    # Uniform over 30 columns: mean 14.5, standard error .71.
    assert abs(np.mean(columns) - 14.5) < 3
    assert len(set(columns)) > 20


def test_negatives_and_orders_belong_to_the_prompt_not_to_the_sample() -> None:
    one = writer("listwise")
    prompts = sample_prompts(VIEW, 60, 0)
    whole = listwise_examples(one, VIEW, prompts, seed=0)
    some = listwise_examples(one, VIEW, prompts[[40, 3]], seed=0)
    np.testing.assert_array_equal(some.tokens, whole.take(np.array([40, 3])).tokens)
    backwards = reversed_users(VIEW)
    mirrored = prompts.copy()
    mirrored[:, 0] = VIEW.n_users - 1 - prompts[:, 0]
    again = listwise_examples(one, backwards, mirrored, seed=0)
    np.testing.assert_array_equal(again.tokens, whole.tokens)
    other = listwise_examples(one, VIEW, prompts, seed=1)
    assert not np.array_equal(other.tokens, whole.tokens)


def test_every_label_is_a_training_event() -> None:
    """A held-out item is in no training sequence, and labels come from those alone."""
    prompts = sample_prompts(VIEW, None, 0)
    events = {(int(r), TITLES[i]) for r in range(len(VIEW.sequences)) for i in VIEW.sequences[r]}
    labels = parts(listwise_examples(writer("listwise"), VIEW, prompts, seed=0))
    named = {
        (int(row), answer.removesuffix("<|im_end|>"))
        for (row, _), (_, answer) in zip(prompts, labels, strict=True)
    }
    assert named <= events
    rows = sample_sequences(VIEW, None, 0)
    for row, (_, answer) in zip(
        rows, parts(sequence_examples(writer("sequence"), VIEW.sequences, rows)), strict=True
    ):
        assert {(int(row), title) for title in answer.split("\n") if title} <= events


def test_a_label_needs_a_prompt_that_asks_for_it() -> None:
    prompts = sample_prompts(VIEW, 2, 0)
    with pytest.raises(MethodError, match="label 'top5' has 5 titles; the prompt asks for 1"):
        listwise_examples(writer("listwise"), VIEW, prompts, seed=0, label="top5")
    with pytest.raises(MethodError, match="3 negatives"):
        five = writer("listwise", n_answers=5)
        listwise_examples(five, VIEW, prompts, seed=0, label="top5", n_negatives=3)


@pytest.mark.parametrize("prompt", [(4, 0), (4, 9), (0, 1), (3, -1)])
def test_a_position_that_does_not_exist_is_refused(prompt: tuple[int, int]) -> None:
    with pytest.raises(MethodError, match=f"position {prompt[1]} of training sequence {prompt[0]}"):
        listwise_examples(writer("listwise"), VIEW, np.array([prompt]), seed=0)


def test_a_user_with_too_few_negatives_is_named() -> None:
    view = make_view([3, 40])
    # 59 distinct titles, 40 of them (39 or 40 distinct) the user's.
    with pytest.raises(MethodError, match=r"demo: user 1 has fewer than 29 distinct titles"):
        listwise_examples(writer("listwise"), view, np.array([[0, 1], [1, 5]]), seed=0)


# -- questions --------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [1, 3])
def test_one_question_in_so_many_is_answered_yes(k: int) -> None:
    prompts = sample_prompts(VIEW, 40, 0)
    one = writer("pointwise")
    examples = pointwise_examples(one, VIEW, prompts, seed=0, negatives_per_positive=k)
    texts = parts(examples)
    assert len(texts) == 40 * (1 + k)
    for i, (row, position) in enumerate(prompts):
        items = VIEW.sequences[row]
        group = texts[i * (1 + k) : (i + 1) * (1 + k)]
        assert [answer for _, answer in group] == ["Yes."] + ["No."] * k
        asked = [question.splitlines()[-3] for question, _ in group]
        assert asked[0] == TITLES[items[position]]
        own = {TITLES[j].casefold() for j in items}
        assert not own & {title.casefold() for title in asked[1:]}
        assert len(set(asked)) == 1 + k
        history = [TITLES[j] for j in items[max(0, position - 15) : position]]
        assert "\n".join(history) + "\n\nWill" in group[0][0]
        # Training and scoring see the same ids.
        example = examples.take(np.array([i * (1 + k)]))
        scored = np.concatenate([one.prompt(items[:position]), one.suffix(int(items[position]))])
        np.testing.assert_array_equal(example.tokens[: len(scored)], scored)
        assert example.tokens[len(scored)] == one.yes_no[0]
