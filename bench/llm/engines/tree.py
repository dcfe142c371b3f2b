"""Packing of prompts and their branches into one row of tokens, each common prefix once.

A user's prompt and branches form a tree: the prompt is its trunk, and branches that begin with the
same tokens share them. A model reads every node once, at the position it has in its branch, and
sees the prompt and its own ancestors. What follows is bookkeeping for such a forward pass; it knows
no model and no torch.

The last token of a branch is only predicted, never read, unless something after it is asked for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.llm.engines.base import TokenIds

__all__ = ["Forest", "Piece", "Tree", "build_forest", "build_tree", "split", "visible"]


@dataclass(frozen=True, slots=True)
class Tree:
    """One prompt and the tree of its branches.

    Nodes are numbered from 0 with parents before children; -1 is the prompt's last token.

    Attributes:
        prompt: int32, the prompt's tokens.
        tokens: token of every node.
        depths: distance of every node from the prompt's last token, >= 1.
        paths: for every leaf the nodes from the first to it.
        asked: node whose next-token distribution is asked for, one entry per (branch, token).
        targets: token asked for there.
        owners: index of the branch that asks.
    """

    prompt: TokenIds
    tokens: list[int]
    depths: list[int]
    paths: list[list[int]]
    asked: list[int]
    targets: list[int]
    owners: list[int]

    @property
    def size(self) -> int:
        """How many tokens the tree holds."""
        return len(self.prompt) + len(self.tokens)

    @property
    def size_in_rows(self) -> int:
        """How many tokens its paths hold, each behind the whole prompt."""
        return sum(len(self.prompt) + len(path) for path in self.paths or [[]])


def build_tree(
    prompt: TokenIds, branches: Sequence[TokenIds], choices: Sequence[int] | None = None
) -> Tree:
    """Merge the common prefixes of the branches of one prompt.

    Args:
        prompt: tokens of the prompt, at least one.
        branches: continuations of the prompt.
        choices: if given, these next tokens are asked for after every branch; otherwise every
            branch's own tokens are.

    Returns:
        The tree with its questions, those of one branch together and in order.
    """
    tree = Tree(prompt, [], [], [], [], [], [])
    parents: list[int] = []
    known: dict[tuple[int, int], int] = {}
    for owner, branch in enumerate(branches):
        ids = branch.tolist()
        node = -1
        for depth, token in enumerate(ids if choices is not None else ids[:-1], start=1):
            if choices is None:
                tree.asked.append(node)
            child = known.get((node, token))
            if child is None:
                child = known[node, token] = len(parents)
                parents.append(node)
                tree.tokens.append(token)
                tree.depths.append(depth)
            node = child
        if choices is not None:
            tree.asked.extend([node] * len(choices))
            tree.targets.extend(choices)
            tree.owners.extend([owner] * len(choices))
        elif ids:
            tree.asked.append(node)
            tree.targets.extend(ids)
            tree.owners.extend([owner] * len(ids))
    inner = set(parents)
    for leaf in range(len(parents)):
        if leaf not in inner:
            path, node = [], leaf
            while node >= 0:
                path.append(node)
                node = parents[node]
            tree.paths.append(path[::-1])
    return tree


@dataclass(frozen=True, slots=True)
class Forest:
    """Several trees in one row: the prompts of all, then the nodes of all.

    Attributes:
        tokens: int64, shape ``(n,)``: ``n_prompt`` prompt tokens, then the nodes.
        positions: int64, shape ``(n,)``: position of every token in its own text, from 0.
        n_prompt: how many of the tokens belong to prompts.
        prompts: bounds of every tree's prompt in ``tokens``.
        nodes: bounds of every tree's nodes, counted from the first node.
        paths: int64, shape ``(n_paths, longest)``: the nodes of every leaf's path, counted from the
            first node; padded by repeating the last one.
        first: int64, shape ``(n_nodes,)``: place of every node in the flattened ``paths``.
        read: int64, shape ``(n_read,)``: ascending tokens (places in ``tokens``) whose next-token
            distribution is asked for.
        rows: int64, shape ``(n_asked,)``: for every question its place in ``read``.
        targets: int64, shape ``(n_asked,)``: token that is asked for.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    n_prompt: int
    prompts: list[tuple[int, int]]
    nodes: list[tuple[int, int]]
    paths: NDArray[np.int64]
    first: NDArray[np.int64]
    read: NDArray[np.int64]
    rows: NDArray[np.int64]
    targets: NDArray[np.int64]


def build_forest(trees: Sequence[Tree]) -> Forest:
    """Concatenate trees, at least one."""
    prompt_lengths = [len(tree.prompt) for tree in trees]
    node_lengths = [len(tree.tokens) for tree in trees]
    prompt_ends = np.cumsum(prompt_lengths, dtype=np.int64)
    node_ends = np.cumsum(node_lengths, dtype=np.int64)
    n_prompt, n_nodes = int(prompt_ends[-1]), int(node_ends[-1])

    paths = [
        [node + start for node in path]
        for tree, start in zip(trees, (node_ends - node_lengths).tolist(), strict=True)
        for path in tree.paths
    ]
    longest = max(map(len, paths), default=0)
    padded = np.array([path + path[-1:] * (longest - len(path)) for path in paths], dtype=np.int64)
    padded = padded.reshape(len(paths), longest)
    first = np.zeros(n_nodes, dtype=np.int64)
    # Written from the last place to the first, so that the first one stays.
    first[padded.ravel()[::-1]] = np.arange(padded.size)[::-1]

    asked = np.concatenate(
        [
            np.where(nodes < 0, prompt_end - 1, n_prompt + node_end - length + nodes)
            for nodes, prompt_end, node_end, length in zip(
                (np.array(tree.asked, dtype=np.int64) for tree in trees),
                prompt_ends.tolist(),
                node_ends.tolist(),
                node_lengths,
                strict=True,
            )
        ]
    )
    read, rows = np.unique(asked, return_inverse=True)
    return Forest(
        tokens=np.concatenate(
            [*(tree.prompt for tree in trees), *(tree.tokens for tree in trees)]
        ).astype(np.int64),
        positions=np.concatenate(
            [
                *(np.arange(length) for length in prompt_lengths),
                *(
                    np.array(tree.depths, dtype=np.int64) + length - 1
                    for tree, length in zip(trees, prompt_lengths, strict=True)
                ),
            ]
        ),
        n_prompt=n_prompt,
        prompts=_bounds(prompt_lengths),
        nodes=_bounds(node_lengths),
        paths=padded,
        first=first,
        read=read,
        rows=rows.reshape(-1),
        targets=np.array([token for tree in trees for token in tree.targets], dtype=np.int64),
    )


def visible(forest: Forest) -> NDArray[np.bool_]:
    """Which tokens (columns) every token (row) of a forest of one tree sees, ``(n, n)``."""
    n, cut = len(forest.tokens), forest.n_prompt
    sees = np.zeros((n, n), dtype=np.bool_)
    sees[:cut, :cut] = np.tri(cut, dtype=np.bool_)
    sees[cut:, :cut] = True
    for path in forest.paths:
        for place, node in enumerate(path):
            sees[cut + node, cut + path[: place + 1]] = True
    return sees


def _bounds(lengths: Sequence[int]) -> list[tuple[int, int]]:
    ends = np.cumsum(lengths).tolist()
    return [(end - length, end) for end, length in zip(ends, lengths, strict=True)]


@dataclass(frozen=True, slots=True)
class Piece:
    """Some branches of one prompt, to be scored together.

    Attributes:
        user: index of the prompt.
        start: first branch.
        stop: one past the last branch.
    """

    user: int
    start: int
    stop: int


def split(
    prompts: Sequence[TokenIds], branches: Sequence[Sequence[TokenIds]], batch_tokens: int
) -> Iterator[list[Piece]]:
    """Group prompts, in order, into batches of at most ``batch_tokens`` tokens.

    A prompt whose branches do not fit beside it is scored in several pieces, its prompt once per
    piece. Every piece holds at least one branch, so one prompt with one branch may exceed the
    limit. Common prefixes are not taken into account.
    """
    batch: list[Piece] = []
    used = 0
    for user, (prompt, own) in enumerate(zip(prompts, branches, strict=True)):
        for piece, size in _pieces(user, len(prompt), [len(b) for b in own], batch_tokens):
            if batch and used + size > batch_tokens:
                yield batch
                batch, used = [], 0
            batch.append(piece)
            used += size
    if batch:
        yield batch


def _pieces(
    user: int, n_prompt: int, lengths: Sequence[int], batch_tokens: int
) -> Iterator[tuple[Piece, int]]:
    start, size = 0, n_prompt
    for i, length in enumerate(lengths):
        if i > start and size + length > batch_tokens:
            yield Piece(user, start, i), size
            start, size = i, n_prompt
        size += length
    if start < len(lengths):
        yield Piece(user, start, len(lengths)), size
