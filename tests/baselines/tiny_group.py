"""A study group whose domains can be told apart: no two share a size, a title or an item id."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain
from bench.protocol.task import Task, build_task
from bench.protocol.types import DomainView, TrainView
from bench.testing import make_domain, planted_domain

SOURCES = ("a-source", "c-source")
TARGET = "b-target"
"""Its name is in the middle, so that its items do not begin at 0 of the union."""

_TITLES = {"a-source": (44, "red pack"), "b-target": (50, "blue hand lotion"), "c-source": (47, "toy")}  # fmt: skip


def unlike_task(n_users: int = 40) -> Task:
    """Target ``b-target`` of 50 items; sources ``a-source`` of 44 and ``c-source`` of 47."""
    sources = [_domain(name, n_users) for name in SOURCES]
    return build_task(_domain(TARGET, n_users), sources=sources, siblings=sources)


def swapped(view: TrainView) -> TrainView:
    """The same group with its first source as the target."""
    first, *others = view.sources
    return replace(view, target=first, sources=(view.target, *others))


def titles_read(domains: Iterable[DomainView]) -> list[str]:
    """The title of every event of the domains' training sequences, domain after domain."""
    return [domain.items.titles[item] for domain in domains for item in domain.sequences.items]


def made_up_vectors(texts: Sequence[str], **_: Any) -> NDArray[np.float32]:
    """In place of an encoder: random vectors that are equal where texts are, ``(len(texts), 32)``."""
    vectors = [np.random.default_rng([*text.encode()]).standard_normal(32) for text in texts]
    return np.stack(vectors).astype(np.float32)


def _domain(name: str, n_users: int) -> Domain:
    n_items, words = _TITLES[name]
    walks = planted_domain(n_users=n_users, n_items=n_items, seed=n_items).sequences
    return make_domain(
        name,
        [walks[user].tolist() for user in range(n_users)],
        n_items=n_items,
        item_prefix=f"{name}-",
        user_prefix=f"{name}-",
        titles=[f"{words} {i}" for i in range(n_items)],
    )
