"""Small synthetic domains with a pattern that a sequential recommender must find."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain, Items, Sequences
from bench.data.strings import StringColumn
from bench.protocol.task import Task, build_task
from bench.protocol.types import ProtocolOptions

__all__ = ["make_domain", "planted_domain", "planted_sources", "planted_task"]

_TOPICS = (
    "garden", "kitchen", "music", "camping", "sewing", "chess", "sailing", "running", "painting",
    "cycling", "baking", "fishing",
)  # fmt: skip


def make_domain(
    name: str,
    sequences: Sequence[Sequence[int]],
    *,
    n_items: int,
    item_prefix: str = "item",
    user_prefix: str = "user",
    titles: Sequence[str] | None = None,
    namespace: str | None = None,
) -> Domain:
    """Make a domain of plain lists of item numbers; raw ids are ``item0007``, ``user0003``.

    Items have a brand and a category too, for methods that read such columns.

    Args:
        name: name of the domain.
        sequences: item numbers of each user, oldest first, all below ``n_items``.
        n_items: size of the vocabulary, at most 10,000.
        item_prefix: begins the raw item ids; equal prefixes in two domains mean the same items.
        user_prefix: begins the raw user ids, likewise.
        titles: one title per item; by default distinct ones with a topic word per neighbourhood.
        namespace: shared id space.
    """
    offsets = np.zeros(len(sequences) + 1, dtype=np.int64)
    np.cumsum([len(row) for row in sequences], out=offsets[1:])
    flat = [item for row in sequences for item in row]
    ids = [f"{item_prefix}{i:04d}" for i in range(n_items)]
    per_topic = max(1, -(-n_items // len(_TOPICS)))
    topics = [_TOPICS[i // per_topic].title() for i in range(n_items)]
    if titles is None:
        titles = [f"{topic} set number {i}" for i, topic in enumerate(topics)]
    extra = {
        "brand": StringColumn.from_list([f"Maker {i % 3}" for i in range(n_items)]),
        "category": StringColumn.from_list(topics),
    }
    ages = [age for row in sequences for age in range(len(row))]
    return Domain(
        name=name,
        items=Items(StringColumn.from_list(ids), StringColumn.from_list(list(titles)), extra=extra),
        user_ids=StringColumn.from_list([f"{user_prefix}{u:05d}" for u in range(len(sequences))]),
        sequences=Sequences(offsets, np.array(flat, dtype=np.int32)),
        timestamps=np.array(ages, dtype=np.float64),
        namespace=namespace,
        provenance={"generator": "bench.testing.planted"},
    )


def planted_domain(
    name: str = "planted",
    *,
    n_users: int = 300,
    n_items: int = 60,
    noise: float = 0.15,
    min_length: int = 7,
    max_length: int = 12,
    seed: int = 0,
    item_prefix: str = "item",
    user_prefix: str = "user",
    namespace: str | None = None,
) -> Domain:
    """Users who walk along a cycle of all items, with jumps.

    A user starts anywhere; the next item is the current one's successor, or, with probability
    ``noise``, a random item. Nobody takes an item twice. Starts are uniform, so that counting items
    tells nothing, while the newest items tell the next one with probability ``1 - noise``. Items of
    one stretch of the cycle share a topic word in their titles, so texts carry the pattern as well.

    Args:
        name: name of the domain.
        n_users: number of users.
        n_items: length of the cycle; at least ``max_length + 30`` for 29 negatives.
        noise: probability of a jump, in [0, 1).
        min_length: shortest sequence, >= 3.
        max_length: longest sequence.
        seed: of a local generator; equal arguments give an equal domain.
        item_prefix: begins the raw item ids.
        user_prefix: begins the raw user ids.
        namespace: shared id space, or None.
    """
    rng = np.random.default_rng([seed, n_users, n_items])
    rows = []
    for _ in range(n_users):
        length = int(rng.integers(min_length, max_length + 1))
        row = [int(rng.integers(n_items))]
        while len(row) < length:
            step = (row[-1] + 1) % n_items
            if rng.random() < noise or step in row:
                fresh = np.setdiff1d(np.arange(n_items), row)
                step = int(rng.choice(fresh))
            row.append(step)
        rows.append(row)
    return make_domain(
        name,
        rows,
        n_items=n_items,
        item_prefix=item_prefix,
        user_prefix=user_prefix,
        namespace=namespace,
    )


def planted_sources(
    count: int = 2, *, n_users: int = 150, n_items: int = 60, namespace: str | None = "planted"
) -> tuple[Domain, ...]:
    """Source domains that share users, and some items, with ``planted_domain(namespace="planted")``.

    The raw ids of all their users occur in the target; the first source also has the target's item
    ids, so that some of its training events equal held-out events of the target, which the leak
    guard has to drop.
    """
    return tuple(
        planted_domain(
            f"planted-source-{number}",
            n_users=n_users,
            n_items=n_items,
            seed=number + 1,
            item_prefix="item" if number == 0 else f"other{number}-",
            namespace=namespace,
        )
        for number in range(count)
    )


def planted_task(
    *,
    n_users: int = 300,
    n_items: int = 60,
    noise: float = 0.15,
    seed: int = 0,
    n_sources: int = 0,
    options: ProtocolOptions | None = None,
) -> Task:
    """The task of a planted domain, with planted sources if asked for."""
    namespace = "planted" if n_sources else None
    target = planted_domain(
        n_users=n_users, n_items=n_items, noise=noise, seed=seed, namespace=namespace
    )
    sources = planted_sources(n_sources, n_users=max(1, n_users // 2), n_items=n_items)
    return build_task(target, sources=sources, siblings=sources, options=options)


def replace_test_items(domain: Domain, users: NDArray[np.integer], seed: int = 0) -> Domain:
    """The same domain with random other test items for ``users`` (canonical indices)."""
    rng = np.random.default_rng([seed, domain.n_users])
    every = np.arange(domain.n_items)
    rows = map(domain.sequences.__getitem__, users.tolist())
    fresh = [rng.choice(np.setdiff1d(every, row)) for row in rows]
    return with_test_items(domain, users, np.array(fresh, dtype=np.int32))


def with_test_items(
    domain: Domain, users: NDArray[np.integer], test: NDArray[np.integer]
) -> Domain:
    """The same domain with these test items for ``users`` (canonical indices)."""
    items = domain.sequences.items.copy()
    items[domain.sequences.offsets[users + 1] - 1] = test
    return Domain(
        name=domain.name,
        items=domain.items,
        user_ids=domain.user_ids,
        sequences=Sequences(domain.sequences.offsets, items),
        timestamps=domain.timestamps,
        namespace=domain.namespace,
        group=domain.group,
        provenance=domain.provenance,
    )
