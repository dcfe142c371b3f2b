"""Small domains for tests, built by hand instead of through the readers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from bench.data.domain import Domain, Items, Sequences
from bench.data.strings import StringColumn
from bench.protocol.candidates_io import BLOCK_USERS, UserBlock
from bench.protocol.split import MIN_EVENTS, prefixes
from bench.protocol.types import Split


def make_domain(
    events: Mapping[str, Sequence[str]],
    *,
    name: str = "toy",
    titles: Mapping[str, str] | None = None,
    items: Sequence[str] | None = None,
    namespace: str | None = None,
) -> Domain:
    """A domain from raw user ids to raw item ids in time order; ids are sorted by UTF-8 bytes."""
    users = sorted(events, key=str.encode)
    ids = sorted(set(items or ()) | {i for e in events.values() for i in e}, key=str.encode)
    index = {item: position for position, item in enumerate(ids)}
    titles = titles or {}
    flat = [index[i] for user in users for i in events[user]]
    offsets = np.cumsum([0, *(len(events[user]) for user in users)])
    return Domain(
        name=name,
        items=Items(
            StringColumn.from_list(ids),
            StringColumn.from_list([titles.get(i, f"T {i}") for i in ids]),
        ),
        user_ids=StringColumn.from_list(users),
        sequences=Sequences(offsets.astype(np.int64), np.array(flat, dtype=np.int32)),
        timestamps=np.concatenate(
            [np.arange(len(events[user]), dtype=np.float64) for user in users] or [np.zeros(0)]
        ),
        namespace=namespace,
    )


def random_domain(
    seed: int,
    n_users: int = 40,
    n_items: int = 60,
    *,
    name: str = "toy",
    namespace: str | None = None,
    prefix: str = "",
    shortest: int = 5,
    longest: int = 12,
) -> Domain:
    """Users ``u0...`` with distinct random items ``i0...`` (``prefix`` separates id spaces)."""
    rng = np.random.default_rng(seed)
    events = {
        f"{prefix}u{u}": [
            f"{prefix}i{i}"
            for i in rng.choice(n_items, size=rng.integers(shortest, longest + 1), replace=False)
        ]
        for u in range(n_users)
    }
    vocabulary = [f"{prefix}i{i}" for i in range(n_items)]
    return make_domain(events, name=name, namespace=namespace, items=vocabulary)


def domain_blocks(domain: Domain, split: Split, size: int = BLOCK_USERS) -> Iterator[UserBlock]:
    """The evaluated users of a (memory-mapped) domain, ``size`` at a time, in canonical order."""
    held_out = 1 if split == "test" else 2
    for start in range(0, domain.n_users, size):
        stop = min(start + size, domain.n_users)
        offsets = np.asarray(domain.sequences.offsets[start : stop + 1])
        rows = start + np.flatnonzero(np.diff(offsets) >= MIN_EVENTS)
        yield UserBlock(
            domain.user_ids.take(rows),
            prefixes(domain.sequences, rows, drop=0),
            domain.sequences.items[domain.sequences.offsets[rows + 1] - held_out].astype(np.int32),
        )
