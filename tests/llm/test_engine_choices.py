"""Lists constrained to titles: greedy over the trie, and beams that find what the likelihood finds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from test_engine_scoring import VOCAB, load, table, write_adapter

from bench.errors import ConfigError, MethodError
from bench.llm.engines import Choice
from bench.llm.engines.choices import ListWalk
from bench.llm.engines.transformers import TransformersEngine

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

SEPARATOR, END = 3, 2


def ids(values) -> np.ndarray:
    return np.array(values, dtype=np.int32)


def choice(title) -> Choice:
    title = [int(token) for token in title]
    return Choice(str(title), ids([*title, SEPARATOR]), ids([*title, END]))


def titles_of(seed: int, n: int = 30) -> list[list[int]]:
    """Distinct titles with shared beginnings; some begin others whole."""
    rng = np.random.default_rng(seed)
    titles: list[list[int]] = []
    while len(titles) < n:
        own = rng.integers(4, VOCAB, int(rng.integers(1, 9))).tolist()
        kept = int(rng.integers(0, 5))
        own = (titles[int(rng.integers(len(titles)))][:kept] if titles else []) + own
        if own not in titles:
            titles.append(own)
    titles[1] = [*titles[0], 9, 17]
    return titles


def named(tokens, n: int) -> list[list[int]]:
    """Titles of a list, which ends as it should."""
    found, own = [], []
    for token in tokens:
        if token in (SEPARATOR, END):
            found.append(own)
            own = []
        else:
            own.append(token)
    assert not own
    assert [token for token in tokens if token in (SEPARATOR, END)] == [SEPARATOR] * (n - 1) + [END]
    return found


@given(
    st.lists(st.lists(st.integers(4, 6), min_size=1, max_size=4), min_size=1, max_size=8),
    st.integers(1, 6),
    st.randoms(use_true_random=False),
)
def test_any_walk_names_distinct_titles(titles, n_titles, random) -> None:
    walk = ListWalk([choice(title) for title in titles], n_titles)
    while not walk.complete:
        allowed = walk.allowed
        assert allowed == sorted(set(allowed))
        assert allowed
        walk.take(random.choice(allowed))
    distinct = {tuple(title) for title in titles}
    expected = min(n_titles, len(distinct))
    found = [tuple(title) for title in named(walk.tokens, expected)]
    assert len(found) == len(set(found)) == expected
    assert set(found) <= distinct
    assert walk.allowed == []
    assert len(walk.tokens) <= walk.longest


def test_every_title_can_come_first() -> None:
    titles = titles_of(0)
    for title in titles:
        walk = ListWalk([choice(one) for one in titles], 2)
        for token in [*title, SEPARATOR]:
            assert token in walk.allowed
            walk.take(token)
        assert tuple(title) not in {tuple(one[0][:-1]) for one in walk._left}


def beam(model, prompt, branches, width: int) -> list[int]:
    """Branches by beam search over their trie with summed log-probabilities, best first."""
    beams, done = [((), 0.0)], []
    while beams:
        grown = []
        for text, score in beams:
            log_probs = table(model, prompt, ids(text))[-1]
            following = {b[len(text)] for b in branches if tuple(b[: len(text)]) == text}
            grown += [((*text, token), score + float(log_probs[token])) for token in following]
        grown = sorted(grown + done, key=lambda pair: -pair[1])[:width]
        ends = {tuple(b) for b in branches}
        done = [pair for pair in grown if pair[0] in ends]
        beams = [pair for pair in grown if pair[0] not in ends]
    return [branches.index(list(text)) for text, _ in done]


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_qwen2"])
def test_a_beam_over_all_titles_ranks_as_the_likelihood_does(family, request) -> None:
    """And a narrower one need not: early tokens mislead it."""
    folder = request.getfixturevalue(family)
    model, engine = load(folder), TransformersEngine(load(folder))
    narrow = 0
    for seed in range(4):
        prompt = ids(np.random.default_rng(seed).integers(4, VOCAB, 20))
        branches = [[*title, END] for title in titles_of(seed)]
        (sums,) = engine.branch_log_probs([prompt], [[ids(b) for b in branches]], adapter=None)
        ranking = np.argsort(-sums).tolist()
        assert beam(model, prompt, branches, 30) == ranking
        narrow += beam(model, prompt, branches, 3) == ranking[:3]
        (first,) = engine.generate_list(
            [prompt],
            [[choice(b[:-1]) for b in branches]],
            n_titles=1,
            separator="",
            adapter=None,
        )
        assert beam(model, prompt, branches, 1) == [branches.index(first.tokens.tolist())]
    assert narrow < 4


def by_hand(model, prompt, titles, n_titles: int) -> list[int]:
    """The greedy list, one plain forward pass per token."""
    written: list[int] = []
    left = list(titles)
    for turn in range(n_titles):
        ends = [[*t, SEPARATOR if turn + 1 < n_titles else END] for t in left]
        own: list[int] = []
        while own not in ends:
            allowed = sorted({end[len(own)] for end in ends if end[: len(own)] == own})
            log_probs = table(model, prompt, ids(written + own))[-1]
            own.append(max(allowed, key=lambda token: float(log_probs[token])))
        written += own
        left.remove(own[:-1])
    return written


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("batch_tokens", [80, 4096])
def test_lists_are_the_greedy_ones(
    tiny_qwen2: Path, tmp_path: Path, adapted: bool, batch_tokens: int
) -> None:
    from peft import PeftModel

    rng = np.random.default_rng(5)
    prompts = [ids(rng.integers(4, VOCAB, int(n))) for n in (30, 1, 12, 47)]
    titles = [titles_of(seed, n) for seed, n in enumerate((30, 4, 2, 12))]
    titles[3] += titles[3][:2]
    folder = write_adapter(tmp_path / "adapter", tiny_qwen2, 5) if adapted else None
    model = load(tiny_qwen2)
    if folder is not None:
        model = PeftModel.from_pretrained(model, folder)
    engine = TransformersEngine(load(tiny_qwen2), batch_tokens=batch_tokens)
    answers = engine.generate_list(
        prompts,
        [[choice(title) for title in own] for own in titles],
        n_titles=5,
        separator="",
        adapter=folder,
    )
    read = 0
    for prompt, own, answer, n in zip(prompts, titles, answers, (5, 4, 2, 5), strict=True):
        distinct = [list(t) for t in dict.fromkeys(map(tuple, own))]
        assert answer.tokens.tolist() == by_hand(model, prompt, distinct, n)
        assert answer.finished == "stop"
        assert len({tuple(t) for t in named(answer.tokens.tolist(), n)}) == n
        read += len(prompt) + len(answer.tokens) - 1
    assert engine.tokens_processed == read


def test_lists_of_nothing_and_lists_that_do_not_fit(tiny_llama: Path) -> None:
    engine = TransformersEngine(load(tiny_llama))

    def lists(prompt, own):
        return engine.generate_list([prompt], [own], n_titles=5, separator="", adapter=None)

    assert lists(ids([5]), [])[0].tokens.tolist() == []
    with pytest.raises(ConfigError, match="a title of prompt 0 holds token ids"):
        lists(ids([5]), [choice([VOCAB])])
    with pytest.raises(MethodError, match="reads at most 4096"):
        lists(ids([5] * 4090), [choice([7] * 9)])
    assert torch.is_grad_enabled()
