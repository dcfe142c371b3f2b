"""Leave-one-out: the last event of a user is the test event, the last but one validation."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences

__all__ = ["MIN_EVENTS", "LeaveOneOut", "leave_one_out", "prefix_events", "prefixes"]

MIN_EVENTS = 3
"""Fewest events of an evaluated user: one to train on, one to validate, one to test."""


@dataclass(frozen=True, slots=True, eq=False)
class LeaveOneOut:
    """The split of one domain.

    Users with fewer than three events are not evaluated; all their events are training events.

    Attributes:
        users: int32, shape ``(k,)``, canonical indices of the evaluated users, ascending.
        is_train: bool, one per event of the domain.
        valid: int32, shape ``(k,)``, the validation item of each evaluated user.
        test: int32, shape ``(k,)``, the test item of each evaluated user.
        n_short: users that are not evaluated.
    """

    users: NDArray[np.int32]
    is_train: NDArray[np.bool_]
    valid: NDArray[np.int32]
    test: NDArray[np.int32]
    n_short: int

    def only(self, kept: NDArray[np.bool_]) -> LeaveOneOut:
        """The same split with fewer evaluated users; events stay what they are.

        Args:
            kept: bool, shape ``(k,)``, who stays.
        """
        return replace(self, users=self.users[kept], valid=self.valid[kept], test=self.test[kept])


def leave_one_out(sequences: Sequences) -> LeaveOneOut:
    """Split chronological sequences; see :class:`LeaveOneOut`."""
    users = np.flatnonzero(sequences.lengths >= MIN_EVENTS).astype(np.int32)
    ends = sequences.offsets[1:][users]
    is_train = np.ones(len(sequences.items), dtype=np.bool_)
    is_train[ends - 1] = False
    is_train[ends - 2] = False
    return LeaveOneOut(
        users=users,
        is_train=is_train,
        valid=sequences.items[ends - 2].astype(np.int32),
        test=sequences.items[ends - 1].astype(np.int32),
        n_short=len(sequences) - len(users),
    )


def prefixes(sequences: Sequences, rows: NDArray[np.integer], drop: int) -> Sequences:
    """The sequences of ``rows`` without their last ``drop`` events, copied.

    The result shares no memory with ``sequences``, so holding it does not hold the dropped events.
    """
    offsets, events = prefix_events(sequences, rows, drop)
    return Sequences(offsets, np.array(sequences.items[events], dtype=np.int32))


def prefix_events(
    sequences: Sequences, rows: NDArray[np.integer], drop: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Offsets, and numbers of the events, of ``rows`` without their last ``drop`` events."""
    lengths = sequences.lengths[rows] - drop
    offsets = np.zeros(len(rows) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets, np.repeat(sequences.offsets[rows] - offsets[:-1], lengths) + np.arange(
        offsets[-1]
    )
