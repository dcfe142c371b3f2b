"""Small training examples for the tests of this room, and a silent logger."""

from __future__ import annotations

import logging

import numpy as np

from bench.llm.examples import Examples

LOG = logging.getLogger("test-llm")


def make_examples(sequences: list[list[int]], prompts: list[int]) -> Examples:
    """Examples whose first ``prompts[i]`` tokens are not labelled, all others are."""
    lengths = [len(s) for s in sequences]
    labelled = [[i >= p for i in range(n)] for n, p in zip(lengths, prompts, strict=True)]
    return Examples(
        np.concatenate(sequences).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        np.concatenate(labelled),
    )


def random_examples(n: int, longest: int, vocabulary: int = 300, seed: int = 0) -> Examples:
    """Random tokens, 3 to ``longest`` of them, two thirds labelled."""
    rng = np.random.default_rng(seed)
    lengths = rng.integers(3, longest + 1, n)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    labelled = rng.random(offsets[-1]) < 0.67
    labelled[offsets[:-1]] = False
    labelled[offsets[1:] - 1] = True
    tokens = rng.integers(3, vocabulary, offsets[-1]).astype(np.int32)
    return Examples(tokens, offsets, labelled)
