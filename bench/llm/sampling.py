"""Which rows are trained on and in which order candidates are listed: keyed hashes, no generator.

A sample depends on the domain, the users and the seed alone: not on the order of arrays, not on other
domains, and not on whether the domain is somebody's target or source. Samples are nested in their size.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.mixing import GAMMA, UInt64Array, mix64
from bench.protocol.keys import salt64
from bench.protocol.types import DomainView

__all__ = [
    "candidate_order",
    "order_by_item",
    "prompt_keys",
    "sample_prompts",
    "sample_sequences",
    "user_keys",
]


def user_keys(purpose: str, domain: str, users: NDArray[np.integer], seed: int) -> UInt64Array:
    """One key per user, uint64; distinct for distinct canonical user indices."""
    salt = np.uint64(salt64(purpose, seed, "train", domain))
    return mix64(users.astype(np.uint64) ^ salt)


def position_keys(keys: UInt64Array, positions: NDArray[np.integer]) -> UInt64Array:
    """One key for every (user, position), uint64, from the users' keys of the same shape."""
    return mix64(keys + positions.astype(np.uint64) * np.uint64(GAMMA))


def prompt_keys(
    purpose: str, view: DomainView, prompts: NDArray[np.integer], seed: int
) -> UInt64Array:
    """One key for every (row, position) of ``prompts``, uint64, shape ``(n,)``."""
    keys = user_keys(purpose, view.name, view.users[prompts[:, 0]], seed)
    return position_keys(keys, prompts[:, 1])


def candidate_order(
    domain: str,
    users: NDArray[np.integer],
    candidates: NDArray[np.integer],
    seed: int = 0,
) -> NDArray[np.int64]:
    """In which order the candidates of each user are listed in a prompt.

    Args:
        domain: name of the domain.
        users: shape ``(n,)``, canonical user indices.
        candidates: shape ``(n, c)``, distinct item indices in each row.
        seed: another seed gives unrelated orders.

    Returns:
        int64, shape ``(n, c)``: columns of ``candidates`` by a hash of (user, item). The listed items
        ``take_along_axis(candidates, order, 1)`` do not depend on the order of the columns.
    """
    return order_by_item(user_keys("prompt-order", domain, users, seed), candidates)


def order_by_item(keys: UInt64Array, candidates: NDArray[np.integer]) -> NDArray[np.int64]:
    """Columns of every row of ``candidates`` by a hash of the row's key and the item."""
    # One odd multiplier and a bijective mix: distinct items have distinct hashes.
    hashes = mix64(keys[:, None] + candidates.astype(np.uint64) * np.uint64(GAMMA))
    return hashes.argsort(axis=1)


def sample_sequences(view: DomainView, n: int | None, seed: int) -> NDArray[np.int64]:
    """A sample of training sequences that hold something to predict.

    Args:
        view: a domain.
        n: size of the sample, >= 0, or None for all; all are taken if there are fewer.
        seed: of the sample.

    Returns:
        int64 row numbers of sequences with at least 2 events. The first m of n are the sample of m.
    """
    rows = np.flatnonzero(view.sequences.lengths >= 2)
    keys = user_keys("training-sequences", view.name, view.users[rows], seed)
    return rows[np.argsort(keys, kind="stable")[:n]]


def sample_prompts(view: DomainView, n: int | None, seed: int) -> NDArray[np.int64]:
    """A sample of (row, position) pairs: predict the event at ``position`` from those before it.

    Every position from 1 on of every training sequence may be chosen.

    Args:
        view: a domain.
        n: size of the sample, >= 0, or None for all; all are taken if there are fewer.
        seed: of the sample.

    Returns:
        int64, shape ``(min(n, pairs), 2)``; nested as in :func:`sample_sequences`.
    """
    counts = np.maximum(view.sequences.lengths - 1, 0)
    rows = np.repeat(np.arange(len(counts)), counts)
    positions = np.arange(len(rows)) - np.repeat(np.cumsum(counts) - counts, counts) + 1
    keys = user_keys("training-prompts", view.name, view.users, seed)[rows]
    chosen = np.argsort(position_keys(keys, positions), kind="stable")[:n]
    return np.stack([rows[chosen], positions[chosen]], axis=1)
