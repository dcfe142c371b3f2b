"""From examples to packed micro-batches: which rows make a step, and how they lie in one row of tokens.

Sequences are laid end to end in one long row without padding; positions restart at every sequence
and attention keeps to its own (``Packed.bounds``), so packing changes no result. The plan depends on
the number of examples, the settings and the order seed alone.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MethodError

if TYPE_CHECKING:
    from bench.llm.examples import Examples

__all__ = ["Packed", "check_examples", "micro_batches", "n_steps", "pack", "shard", "step_rows"]


@dataclass(frozen=True, slots=True)
class Packed:
    """Sequences end to end.

    Attributes:
        tokens: int64 (T,), token ids.
        positions: int64 (T,), position of every token within its sequence.
        bounds: int64 (n + 1,), where sequences begin and end.
        predicting: int64 (L,), places in ``tokens`` whose output predicts a labelled token.
        labels: int64 (L,), the labelled tokens.
    """

    tokens: NDArray[np.int64]
    positions: NDArray[np.int64]
    bounds: NDArray[np.int64]
    predicting: NDArray[np.int64]
    labels: NDArray[np.int64]


def n_steps(n: int, batch_sequences: int, epochs: int) -> int:
    """Optimiser steps of a training; the last batch of an epoch may be smaller."""
    return epochs * math.ceil(n / batch_sequences)


def step_rows(
    n: int, batch_sequences: int, epochs: int, order_seed: int
) -> Iterator[NDArray[np.int64]]:
    """Rows of every step, in order: each epoch is a permutation keyed by (order seed, epoch)."""
    for epoch in range(epochs):
        order = np.random.default_rng([order_seed, epoch]).permutation(n)
        for start in range(0, n, batch_sequences):
            yield order[start : start + batch_sequences]


def shard(
    lengths: NDArray[np.int64], rows: NDArray[np.int64], rank: int, world: int
) -> NDArray[np.int64]:
    """The part of a step's rows that process ``rank`` of ``world`` takes.

    Longest first, each row goes to the process with the fewest tokens so far (the lowest on ties).
    Every row is taken by exactly one process; a process may get none.
    """
    if world == 1:
        return rows
    load = [0] * world
    mine = []
    for row in rows[np.argsort(-lengths[rows], kind="stable")]:
        owner = load.index(min(load))
        load[owner] += int(lengths[row])
        if owner == rank:
            mine.append(row)
    return np.array(mine, dtype=np.int64)


def micro_batches(
    lengths: NDArray[np.int64], rows: NDArray[np.int64], max_tokens: int
) -> list[NDArray[np.int64]]:
    """Cut a step's rows into the fewest runs of at most ``max_tokens``, about equally full.

    A sequence longer than ``max_tokens`` is a micro-batch of its own. Rows keep their order.
    """
    groups = _first_fit(lengths, rows, max_tokens)
    if len(groups) > 1:
        # The same number of groups with a lower ceiling: no small remainder at the end.
        total, longest = int(lengths[rows].sum()), int(lengths[rows].max())
        for ceiling in range(max(longest, total // len(groups)), max_tokens, 16):
            tighter = _first_fit(lengths, rows, ceiling)
            if len(tighter) == len(groups):
                groups = tighter
                break
    return [np.array(group, dtype=np.int64) for group in groups]


def _first_fit(
    lengths: NDArray[np.int64], rows: NDArray[np.int64], ceiling: int
) -> list[list[int]]:
    groups: list[list[int]] = []
    room = 0
    for row in rows.tolist():
        length = int(lengths[row])
        if not groups or length > room:
            groups.append([])
            room = ceiling
        groups[-1].append(row)
        room -= length
    return groups


def pack(examples: Examples, rows: Sequence[int] | NDArray[np.int64]) -> Packed:
    """Lay the examples ``rows`` end to end, without what no label depends on.

    The tokens from the last labelled one on are inputs that nothing is predicted from: they are left
    out, and so are examples without a label.
    """
    tokens, positions, bounds, predicting, labels = [], [], [0], [], []
    for row in rows:
        start, end = int(examples.offsets[row]), int(examples.offsets[row + 1])
        targets = np.flatnonzero(examples.labelled[start:end])
        if not len(targets):
            continue
        length = int(targets[-1])
        tokens.append(examples.tokens[start : start + length])
        labels.append(examples.tokens[start + targets])
        positions.append(np.arange(length))
        predicting.append(bounds[-1] + targets - 1)
        bounds.append(bounds[-1] + length)
    return Packed(
        _joined(tokens), _joined(positions), np.array(bounds), _joined(predicting), _joined(labels)
    )


def _joined(parts: Sequence[NDArray[np.integer[Any]]]) -> NDArray[np.int64]:
    return np.concatenate([np.empty(0, dtype=np.int64), *parts], dtype=np.int64)


def check_examples(examples: Examples, *, vocabulary: int, context: int | None) -> None:
    """Refuse examples that cannot be trained on, before any model is loaded.

    Args:
        examples: what is trained on.
        vocabulary: number of token ids of the backbone.
        context: longest sequence it can read, or None for no limit.

    Raises:
        MethodError: no example or no label at all, an empty example, a labelled first token (nothing
            comes before it), an id outside the vocabulary, or a sequence longer than the context.
    """
    lengths = np.diff(examples.offsets)
    if not len(lengths) or not examples.labelled.any():
        raise MethodError(
            f"nothing to train on: {len(lengths)} examples with {int(examples.labelled.sum())} "
            "labelled tokens. Check the domain's training sequences with `bench data stats`."
        )
    if (lengths < 1).any():
        row = int(np.flatnonzero(lengths < 1)[0])
        raise MethodError(f"example {row} is empty; expected at least one token.")
    first = np.flatnonzero(examples.labelled[examples.offsets[:-1]])
    if len(first):
        raise MethodError(
            f"the first token of example {int(first[0])} is labelled, but no token comes before it; "
            "expected a prompt of at least one token."
        )
    low, high = int(examples.tokens.min()), int(examples.tokens.max())
    if low < 0 or high >= vocabulary:
        raise MethodError(
            f"token ids from {low} to {high}; the backbone knows 0 to {vocabulary - 1}. "
            "Were the examples made with the tokenizer of another backbone?"
        )
    if context is not None and int(lengths.max()) > context:
        raise MethodError(
            f"example {int(lengths.argmax())} has {int(lengths.max())} tokens; the backbone reads at "
            f"most {context}. Shorten the histories or the titles."
        )
