"""A fast filter for users whose first draws cannot all be accepted."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences

__all__ = ["CollisionFilter"]

_FEW = 48
"""Below this many users a vector step costs more than redoing them."""


class CollisionFilter:
    """Finds the columns of a block of draws that hold a repeated title or a history title.

    Title groups are compared by their lowest 16 bits, in vector loops along the users. Equal groups
    always compare equal, so no collision is missed; in vocabularies of over 65,536 titles different
    groups may compare equal too, which only sends a user to the exact rule needlessly.

    Args:
        group: int32, shape ``(n_items,)``, title group of every item.
        n_draws: draws per user.
        block: largest number of users per call.
    """

    def __init__(self, group: NDArray[np.int32], n_draws: int, block: int) -> None:
        self._identity = bool((group == np.arange(len(group))).all())
        self._group = group.astype(np.uint16)
        # The first draws again below the last: n_draws // 2 cyclic shifts then compare all pairs.
        self._draws = np.empty((n_draws + n_draws // 2, block), dtype=np.uint16)
        self._equal = np.empty((n_draws, block), dtype=np.bool_)
        self._found = np.empty((n_draws, block), dtype=np.bool_)

    def load(self, first: int, values: NDArray[np.int64]) -> None:
        """Take over draws ``first``, ``first + 1``, ...: int64 items, shape ``(some, n)``."""
        draws = self._draws[first : first + len(values), : values.shape[1]]
        if self._identity:
            np.copyto(draws, values, casting="unsafe")
        else:
            np.take(self._group, values, out=draws, mode="clip")

    def collisions(self, history: Sequences, order: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Judge the loaded block.

        Args:
            history: n rows of title groups.
            order: shape ``(n,)``, rows of ``history`` by falling length; row ``order[i]`` belongs to
                column ``i`` of the draws.

        Returns:
            bool, shape ``(n,)``, in the order of the columns: true for every column with a collision.
        """
        n_draws, n = len(self._equal), len(order)
        cyclic, equal, found = (a[:, :n] for a in (self._draws, self._equal, self._found))
        draws = cyclic[:n_draws]
        found[...] = False
        cyclic[n_draws:] = draws[: n_draws // 2]
        for shift in range(1, n_draws // 2 + 1):
            np.equal(cyclic[shift : shift + n_draws], draws, out=equal)
            np.logical_or(found, equal, out=found)
        lengths = history.lengths[order]
        begins = history.offsets[:-1][order]
        titles = history.items.astype(np.uint16)
        longest = int(lengths[0]) if n else 0
        # counts[s]: how many users, all at the front, have an event at slot s.
        counts = np.searchsorted(-lengths, -np.arange(longest), side="left").tolist()
        for slot, count in enumerate(counts):
            if count < _FEW:
                found[0, :count] = True
                break
            np.equal(draws[:, :count], titles[begins[:count] + slot], out=equal[:, :count])
            np.logical_or(found[:, :count], equal[:, :count], out=found[:, :count])
        result: NDArray[np.bool_] = np.logical_or.reduce(found, axis=0)
        return result
