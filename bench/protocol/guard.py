"""The leak guard across domains that share one space of user and item ids.

A review filed under two categories is one event of two domains. If it is held out in one of them,
training on the other would reveal it; the guard drops it there. What a domain may train on depends
on the domains of its namespace alone, never on target or sources, so adapters stay shareable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain
from bench.data.strings import StringColumn
from bench.mixing import UInt64Array
from bench.protocol.keys import id_hashes
from bench.protocol.split import LeaveOneOut

__all__ = ["GuardedDomain", "guard_domain", "match_ids"]


@dataclass(frozen=True, slots=True, eq=False)
class GuardedDomain:
    """A domain, its split and what the guard found.

    Attributes:
        domain: the domain.
        split: its leave-one-out split.
        drop: bool, one per event: training events that are held out in another domain.
        exposed: bool, shape ``(len(split.users),)``: validation events that are test events of
            another domain; their unlabelled requests are not shown to training either.
        dropped_by: for each other domain that caused drops, how many by its validation and its test
            events; an event may be counted for several domains.
    """

    domain: Domain
    split: LeaveOneOut
    drop: NDArray[np.bool_]
    exposed: NDArray[np.bool_]
    dropped_by: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


def guard_domain(
    domain: Domain,
    split: LeaveOneOut,
    others: Sequence[tuple[Domain, LeaveOneOut]],
    *,
    trains_on_validation: bool,
) -> GuardedDomain:
    """Find the events of ``domain`` that training must not see.

    Args:
        domain: the domain to guard.
        split: its split.
        others: every other domain of the namespace, with its split.
        trains_on_validation: validation events are training events (``train_on = train+valid``). Then
            nothing is selected by them any more, and only test events count as held out.
    """
    drop = np.zeros(domain.n_events, dtype=np.bool_)
    exposed = np.zeros(len(split.users), dtype=np.bool_)
    valid_events = domain.sequences.offsets[1:][split.users] - 2
    trained = split.is_train.copy()
    trained[valid_events] = trains_on_validation
    dropped_by: dict[str, dict[str, int]] = {}
    if others:
        user_hashes, item_hashes = id_hashes(domain.user_ids), id_hashes(domain.items.ids)
        rows, items = domain.sequences.rows, domain.sequences.items
    for other, other_split in others:
        item_map = match_ids(domain.items.ids, item_hashes, other.items.ids)
        candidates = np.flatnonzero(item_map[items] >= 0)
        if not len(candidates):
            continue
        user_map = match_ids(domain.user_ids, user_hashes, other.user_ids)
        events = candidates[user_map[rows[candidates]] >= 0]
        pairs = user_map[rows[events]] * other.n_items + item_map[items[events]]
        keys = other_split.users.astype(np.int64) * other.n_items
        in_test = np.isin(pairs, keys + other_split.test)
        in_valid = np.isin(pairs, keys + other_split.valid)
        is_valid_event = np.zeros(domain.n_events, dtype=np.bool_)
        is_valid_event[events[in_test]] = True
        exposed |= is_valid_event[valid_events]
        counted = trained[events]
        counts = {
            "valid": 0 if trains_on_validation else int((in_valid & counted).sum()),
            "test": int((in_test & counted).sum()),
        }
        held_out = in_test if trains_on_validation else in_test | in_valid
        drop[events[held_out & counted]] = True
        if any(counts.values()):
            dropped_by[other.name] = counts
    return GuardedDomain(domain, split, drop, exposed, dropped_by)


def match_ids(
    ids: StringColumn,
    hashes: UInt64Array,
    other: StringColumn,
    other_hashes: UInt64Array | None = None,
) -> NDArray[np.int64]:
    """Where each id stands in another column of distinct ids.

    Joins 64-bit hashes and then compares the bytes of every hit; should two different ids ever share
    a hash, an exact dictionary join replaces the result.

    Args:
        ids: n raw ids.
        hashes: uint64, shape ``(n,)``, their :func:`bench.protocol.keys.id_hashes`.
        other: the column to look in.
        other_hashes: uint64, hashes of ``other``; computed when None.

    Returns:
        int64, shape ``(n,)``, index into ``other``, or -1 if it lacks the id.
    """
    if other_hashes is None:
        other_hashes = id_hashes(other)
    if not len(other_hashes):
        return np.full(len(ids), -1, dtype=np.int64)
    order = np.argsort(other_hashes)
    slots = np.searchsorted(other_hashes, hashes, sorter=order)
    found: NDArray[np.int64] = order[np.minimum(slots, len(order) - 1)].astype(np.int64)
    found[other_hashes[found] != hashes] = -1
    hits = np.flatnonzero(found >= 0)
    if _same_bytes(ids, hits, other, found[hits]):
        return found
    index = {value: i for i, value in enumerate(other.to_list())}
    return np.fromiter((index.get(value, -1) for value in ids.to_list()), np.int64, len(ids))


def _same_bytes(
    left: StringColumn,
    left_rows: NDArray[np.integer],
    right: StringColumn,
    right_rows: NDArray[np.integer],
) -> bool:
    """Whether two selections of strings are equal, string by string."""
    left_lengths = np.diff(left.offsets)[left_rows]
    if not np.array_equal(left_lengths, np.diff(right.offsets)[right_rows]):
        return False
    ends = np.cumsum(left_lengths)
    within = np.arange(int(ends[-1]) if len(ends) else 0) - np.repeat(
        ends - left_lengths, left_lengths
    )
    return bool(
        np.array_equal(
            left.data[np.repeat(left.offsets[left_rows], left_lengths) + within],
            right.data[np.repeat(right.offsets[right_rows], left_lengths) + within],
        )
    )
