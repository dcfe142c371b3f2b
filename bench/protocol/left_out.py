"""Users that are not evaluated because there is nothing to rank their held-out item among."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain
from bench.errors import ProtocolError
from bench.protocol.candidates import NESTED_SIZES

__all__ = ["LeftOut", "leave_out"]

MIN_FULL = 1
"""Fewest negatives of a user in full ranking. Without any the positive is first whatever a method does."""


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Users with fewer eligible items than their candidate sets have negatives.

    Attributes:
        n_users: how many users.
        needed: negatives that every evaluated user has.
        fewest: eligible items of the user that has the fewest.
    """

    n_users: int
    needed: int
    fewest: int

    def record(self) -> Mapping[str, Any]:
        """The counts as plain values."""
        return asdict(self)


def leave_out(
    domain: Domain, users: NDArray[np.integer], eligible: NDArray[np.int64], n_negatives: int | None
) -> tuple[NDArray[np.bool_], LeftOut | None]:
    """Separate the users that can be ranked from those that cannot.

    Args:
        domain: for messages.
        users: canonical indices, shape ``(k,)``.
        eligible: int64, shape ``(k,)``, items that each user's negatives can come from.
        n_negatives: negatives per user; None = full ranking.

    Returns:
        bool, shape ``(k,)``, who is evaluated, and the others' counts (None if there are none).

    Raises:
        ProtocolError: nobody is left.
    """
    needed = MIN_FULL if n_negatives is None else n_negatives
    kept: NDArray[np.bool_] = eligible >= needed
    if kept.all():
        return kept, None
    most = int(eligible.max())
    if not kept.any() and not most:
        raise ProtocolError(
            f"{domain.name}: every one of {len(users)} users has interacted with all {domain.n_items} "
            "items, so that there is nothing to rank a held-out item among. Use data with more items."
        )
    if not kept.any():
        least, user = int(eligible.min()), domain.user_ids[int(users[int(np.argmin(eligible))])]
        feasible = ", ".join(str(size) for size in NESTED_SIZES if size <= least) or "none"
        raise ProtocolError(
            f"{domain.name}: {needed} negatives asked for, but no user has so many eligible items: the "
            f"most is {most}, the least {least} (user {user!r}). Largest number that fits every user: "
            f"{least}; of the nested sizes {', '.join(map(str, NESTED_SIZES))}: {feasible}. Use "
            f"`--n-negatives {least or most}`."
        )
    return kept, LeftOut(int((~kept).sum()), needed, int(eligible.min()))
