from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.llm.engines.attention import by_formula, join, with_normaliser
from bench.llm.engines.head import token_log_probs
from bench.llm.engines.tree import build_forest, build_tree, split

TOKENS = st.lists(st.integers(0, 3), max_size=6)


def ids(values: list[int]) -> np.ndarray:
    return np.array(values, dtype=np.int32)


@given(
    st.lists(
        st.tuples(
            st.lists(st.integers(0, 3), min_size=1, max_size=5), st.lists(TOKENS, max_size=5)
        ),
        min_size=1,
        max_size=4,
    ),
    st.booleans(),
)
def test_a_forest_holds_every_text_that_its_questions_follow(
    users: list[tuple[list[int], list[list[int]]]], after: bool
) -> None:
    """Every question is read after exactly the text that it belongs to, each prefix once."""
    choices = [7, 9] if after else None
    trees = [build_tree(ids(p), [ids(b) for b in branches], choices) for p, branches in users]
    forest = build_forest(trees)
    texts = node_texts(forest)
    asked = [
        (tuple(p + (b if after else b[:i])), token)
        for p, branches in users
        for b in branches
        for i, token in enumerate([7, 9] if after else b)
    ]
    found = [
        (texts[forest.read[row]], int(token))
        for row, token in zip(forest.rows, forest.targets, strict=True)
    ]
    assert found == asked
    for tree, (p, branches) in zip(trees, users, strict=True):
        ends = [b if after else b[:-1] for b in branches]
        prefixes = {tuple(b[: i + 1]) for b in ends for i in range(len(b))}
        assert tree.size == len(p) + len(prefixes)
    assert list(forest.read) == sorted(set(forest.read))


def node_texts(forest) -> list[tuple[int, ...]]:
    """The text that every token of a forest ends, from prompts and paths alone."""
    texts: list[tuple[int, ...]] = [()] * len(forest.tokens)
    for start, stop in forest.prompts:
        for i in range(start, stop):
            texts[i] = tuple(forest.tokens[start : i + 1].tolist())
            assert forest.positions[i] == i - start
    longest = forest.paths.shape[1]
    for node, place in enumerate(forest.first.tolist()):
        user = next(u for u, (a, b) in enumerate(forest.nodes) if a <= node < b)
        path = forest.paths[place // longest, : place % longest + 1]
        assert path[-1] == node
        start, stop = forest.prompts[user]
        text = (*forest.tokens[start:stop], *forest.tokens[forest.n_prompt + path])
        texts[forest.n_prompt + node] = tuple(int(token) for token in text)
        assert forest.positions[forest.n_prompt + node] == len(text) - 1
    return texts


@given(
    st.lists(st.tuples(st.integers(1, 9), st.lists(st.integers(0, 9), max_size=6)), max_size=6),
    st.integers(1, 40),
)
def test_batches_cover_every_branch_once_and_keep_the_limit(
    sizes: list[tuple[int, list[int]]], limit: int
) -> None:
    prompts = [ids([0] * n) for n, _ in sizes]
    branches = [[ids([0] * n) for n in own] for _, own in sizes]
    batches = list(split(prompts, branches, limit))
    seen = [(p.user, i) for batch in batches for p in batch for i in range(p.start, p.stop)]
    assert seen == [(u, i) for u, own in enumerate(branches) for i in range(len(own))]
    for batch in batches:
        used = [len(prompts[p.user]) + sum(sizes[p.user][1][p.start : p.stop]) for p in batch]
        assert sum(used) <= limit or (len(batch) == 1 and batch[0].stop == batch[0].start + 1)


@pytest.mark.parametrize("is_causal", [False, True])
def test_attention_by_formula_and_by_kernel_agree(is_causal: bool) -> None:
    """Accelerators take the formula, which only this test runs on a processor."""
    draw = torch.Generator().manual_seed(0)
    q = torch.randn(3, 4, 7, 8, generator=draw)
    k, v = (torch.randn(3, 4, 7 if is_causal else 11, 8, generator=draw) for _ in range(2))
    found = by_formula(q, k, v, 0.3, is_causal=is_causal)
    kernel = with_normaliser(q, k, v, 0.3, is_causal=is_causal)
    scores = 0.3 * q.double() @ k.double().mT
    if is_causal:
        scores = scores.masked_fill(~torch.ones(7, 7, dtype=torch.bool).tril(), -torch.inf)
    for out, normaliser in (found, kernel):
        assert torch.allclose(out.double(), scores.softmax(-1) @ v.double(), atol=1e-5)
        assert torch.allclose(normaliser.double(), scores.logsumexp(-1), atol=1e-5)


def test_joined_parts_are_attention_over_all_keys() -> None:
    draw = torch.Generator().manual_seed(1)
    q, k, v = (torch.randn(2, 3, 9, 8, generator=draw) for _ in range(3))
    parts = [with_normaliser(q, k[:, :, s], v[:, :, s], 1.0) for s in (slice(4), slice(4, 9))]
    whole = torch.softmax(q @ k.mT, dim=-1) @ v
    assert torch.allclose(join(parts[0], parts[1]), whole, atol=1e-5)


@pytest.mark.parametrize("scale", [0.1, 1.0, 40.0], ids=["flat", "usual", "beyond exp"])
def test_token_log_probs_equal_a_full_log_softmax(scale: float) -> None:
    draw = torch.Generator().manual_seed(2)
    hidden, weight = (scale * torch.randn(n, 16, generator=draw) for n in (1500, 900))
    rows, tokens = (torch.randint(n, (2300,), generator=draw) for n in (1500, 900))
    found = token_log_probs(hidden, weight, rows, tokens)
    expected = (hidden.double() @ weight.double().T).log_softmax(-1)[rows, tokens]
    assert found.dtype == torch.float32
    # Logits go up to 20 scale^2; float32 holds seven digits of them.
    assert torch.allclose(found.double(), expected, rtol=1e-5, atol=max(1e-4, 3e-6 * scale**2))
