"""Ranks from the answer slots of a method that generates lists."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.errors import MethodError

__all__ = ["DUPLICATE", "EMPTY", "NOT_A_CANDIDATE", "slot_ranks"]

DUPLICATE = -1
NOT_A_CANDIDATE = -2
EMPTY = -3

_MAX_SLOTS = int(np.iinfo(np.int16).max)


def slot_ranks(
    slots: NDArray[np.integer],
    position: NDArray[np.integer],
    *,
    n_columns: int,
    excluded: NDArray[np.bool_] | None = None,
    owner: str = "method",
    users: NDArray[np.integer] | None = None,
) -> tuple[NDArray[np.int16], NDArray[np.int16], NDArray[np.int32]]:
    """Rank the positive by the slot that names it, under both policies for invalid answers.

    A slot that names an *excluded* candidate is removed under both policies: such a candidate does
    not compete, so it takes nobody's place.

    Args:
        slots: signed integers, shape ``(n, k)``, codes as in :class:`bench.methods.Scores`.
        position: integers, shape ``(n,)``, column of the positive.
        n_columns: number of candidates c.
        excluded: bool, shape ``(n, c)``, or None.
        owner: name of the method, for messages.
        users: canonical user indices of the rows, for messages.

    Returns:
        ``(keep, close, n_listed)``, each of shape ``(n,)``: 1-based rank if invalid answers keep
        their slot, rank if later answers move up (0 = not listed), and how many competing
        candidates are listed.

    Raises:
        MethodError: wrong shape or dtype, a code outside ``[-3, c)``, or a candidate named twice
            without the code -1.
    """
    n = len(position)
    if slots.ndim != 2 or len(slots) != n or slots.dtype.kind != "i":
        raise MethodError(
            f"{owner} returned slots of dtype {slots.dtype} and shape {slots.shape}; expected int16 "
            f"of shape ({n}, k)."
        )
    k = slots.shape[1]
    if k > _MAX_SLOTS:
        raise MethodError(f"{owner} returned {k} slots per user; at most {_MAX_SLOTS} are allowed.")

    def where(bad: NDArray[np.bool_]) -> str:
        row = int(bad.argmax())
        name = f"row {row}" if users is None else f"user {int(users[row])} (row {row})"
        return f"{int(bad.sum())} of {n} users, first {name}: {slots[row].tolist()}"

    outside: NDArray[np.bool_] = np.any((slots < EMPTY) | (slots >= n_columns), axis=1)
    if outside.any():
        raise MethodError(
            f"{owner} returned slots out of range for {where(outside)}; expected a candidate "
            f"position in [0, {n_columns}), or -1 duplicate, -2 not a candidate, -3 empty."
        )
    ordered = np.sort(slots, axis=1)
    twice = ((ordered[:, 1:] == ordered[:, :-1]) & (ordered[:, 1:] >= 0)).any(axis=1)
    if twice.any():
        raise MethodError(
            f"{owner} named a candidate twice for {where(twice)}; code the later answer as -1."
        )

    valid = slots >= 0
    removed = np.zeros_like(valid)
    if excluded is not None:
        named = np.where(valid, slots, 0).astype(np.intp)
        removed = valid & np.take_along_axis(excluded, named, axis=1)
        valid &= ~removed
    hit = valid & (slots == position[:, None])
    listed = hit.any(axis=1)
    slot = hit.argmax(axis=1) if k else np.zeros(n, dtype=np.intp)
    before = np.arange(k) <= slot[:, None]
    keep = np.where(listed, (before & ~removed).sum(axis=1), 0).astype(np.int16)
    close = np.where(listed, (before & valid).sum(axis=1), 0).astype(np.int16)
    return keep, close, valid.sum(axis=1).astype(np.int32)
