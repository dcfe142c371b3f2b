"""From scores to outcomes: how many candidates stand above the positive, and how many beside it.

Comparisons are exact on the values as they come, float32 or float64: no rounding, no tolerance, no jitter, no tie-breaking by position or
id. Rows are processed in blocks small enough for all temporaries to stay in the processor's cache.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import MethodError, ProtocolError
from bench.evaluation.outcomes import Outcomes
from bench.evaluation.slots import slot_ranks

__all__ = ["rank_outcomes"]

# A tile is compared, masked and counted before the next one is read: 2^15 comparisons are 128 KiB of
# scores and 32 KiB of flags, which fits the second-level cache of any current processor.
_TILE_CELLS = 1 << 15

# Flags are added eight at a time as bytes of a 64-bit word; 31 words keep each sum below 256.
_TILE_COLUMNS = 31 * 8
_BYTE_SUM = np.uint64(0x0101010101010101)
_TOP_BYTE = np.uint64(56)


def rank_outcomes(
    values: NDArray[np.floating[Any]],
    position: NDArray[np.integer],
    *,
    excluded: NDArray[np.bool_] | None = None,
    slots: NDArray[np.integer] | None = None,
    may_leave_unranked: bool = False,
    owner: str = "method",
    users: NDArray[np.integer] | None = None,
) -> Outcomes:
    """Find where the positive of each user stands.

    Args:
        values: float32 or float64, shape ``(n, c)``; higher is better, NaN = not ranked.
        position: integers, shape ``(n,)``, column of the positive, in ``[0, c)``.
        excluded: bool, shape ``(n, c)``, candidates that do not compete (known items in full
            ranking), or None. Never the positive.
        slots: signed integers, shape ``(n, k)``, or None: the column named in each answer slot, -1
            duplicate, -2 not a candidate, -3 empty. When given, ranks come from the slots alone.
        may_leave_unranked: whether NaN and slots are allowed. A diverged model emits NaN as well,
            so a method must declare that it generates lists.
        owner: name of the method, for messages.
        users: canonical user indices of the rows, for messages; by default the row numbers.

    Returns:
        One outcome per row. A positive with a NaN score, or in no slot, is not ranked; it shares the
        bottom with everything else that is not ranked.

    Raises:
        MethodError: scores or slots have the wrong shape, dtype or values; the message names owner,
            first user and count.
        ProtocolError: the labels do not fit the candidates.
    """
    _check_labels(values, position, excluded, owner)
    n, c = values.shape
    position = position.astype(np.intp, copy=False)
    at = np.arange(n)
    if excluded is None:
        n_candidates = np.full(n, c, dtype=np.int32)
    else:
        n_candidates = np.subtract(c, excluded.sum(axis=1), dtype=np.int32, casting="unsafe")
    if slots is not None:
        if not may_leave_unranked:
            raise MethodError(
                f"{owner} returned answer slots, but its capabilities do not declare "
                "may_leave_unranked; set it for configurations that generate lists."
            )
        _check_finite(values, True, owner, users)
        keep, close, n_listed = slot_ranks(
            slots, position, n_columns=c, excluded=excluded, owner=owner, users=users
        )
        ranked = keep > 0
        n_better = np.where(ranked, close - 1, n_listed).astype(np.int32)
        n_tied = np.where(ranked, 0, n_candidates - n_listed - 1).astype(np.int32)
        return Outcomes(n_better, n_tied, n_candidates, ranked, keep, close)

    any_nan = _check_finite(values, may_leave_unranked, owner, users)
    n_better = np.zeros(n, dtype=np.int32)
    n_tied = np.zeros(n, dtype=np.int32)
    own = values[at, position] if n else np.empty(0, dtype=values.dtype)
    _count(values, own, excluded, n_better, n_tied)
    # The positive equals itself, unless it is NaN, which equals nothing.
    ranked = np.ones(n, dtype=np.bool_)
    if any_nan:
        ranked = ~np.isnan(own)
        lost = np.flatnonzero(~ranked)
        listed = ~np.isnan(values[lost])
        if excluded is not None:
            listed &= ~excluded[lost]
        n_better[lost] = listed.sum(axis=1)
        n_tied[lost] = n_candidates[lost] - n_better[lost]
    n_tied -= 1
    return Outcomes(n_better, n_tied, n_candidates, ranked)


def _count(
    values: NDArray[np.floating[Any]],
    own: NDArray[np.floating[Any]],
    excluded: NDArray[np.bool_] | None,
    n_better: NDArray[np.int32],
    n_tied: NDArray[np.int32],
) -> None:
    """Add the numbers of greater and of equal scores per row to ``n_better`` and ``n_tied``."""
    n, c = values.shape
    width = min(c, _TILE_COLUMNS)
    n_rows = max(1, _TILE_CELLS // max(width, 1))
    flags = np.zeros((n_rows, 8 * -(-width // 8)), dtype=np.bool_)
    with np.errstate(invalid="ignore"):
        for top in range(0, n, n_rows):
            rows = slice(top, min(top + n_rows, n))
            size = rows.stop - top
            column = own[rows, None]
            for left in range(0, c, _TILE_COLUMNS):
                right = min(left + _TILE_COLUMNS, c)
                if right - left < width:
                    flags[:, right - left :] = False
                tile = values[rows, left:right]
                mask = flags[:size, : right - left]
                for compare, total in ((np.greater, n_better), (np.equal, n_tied)):
                    compare(tile, column, out=mask)
                    if excluded is not None:
                        # On booleans, "greater" is "and not".
                        np.greater(mask, excluded[rows, left:right], out=mask)
                    total[rows] += _true_per_row(flags[:size])


def _true_per_row(flags: NDArray[np.bool_]) -> NDArray[np.int32]:
    """Number of True values per row; the width is a multiple of 8 and at most 248."""
    words = flags.view(np.uint64)
    sums = words[:, 0].copy()
    for j in range(1, words.shape[1]):
        sums += words[:, j]
    # The product's top byte is the sum of all eight bytes.
    sums *= _BYTE_SUM
    sums >>= _TOP_BYTE
    return sums.astype(np.int32)


def _check_finite(
    values: NDArray[np.floating[Any]],
    nan_allowed: bool,
    owner: str,
    users: NDArray[np.integer] | None,
) -> bool:
    """Whether any score is NaN; infinities, and NaN if not allowed, are errors."""
    n, c = values.shape
    n_rows = max(1, _TILE_CELLS // max(c, 1))
    any_nan = False
    for top in range(0, n, n_rows):
        block = values[top : top + n_rows]
        if np.isfinite(block).all():
            continue
        any_nan = True
        if nan_allowed and not np.isinf(block).any():
            continue
        _raise_not_finite(values, nan_allowed, owner, users)
    return any_nan


def _raise_not_finite(
    values: NDArray[np.floating[Any]],
    nan_allowed: bool,
    owner: str,
    users: NDArray[np.integer] | None,
) -> None:
    infinite = np.isinf(values).any(axis=1)
    bad = infinite if infinite.any() else np.isnan(values).any(axis=1)
    first = int(bad.argmax())
    what = "infinite" if infinite.any() else "NaN"
    hint = (
        "use finite scores"
        if infinite.any() or nan_allowed
        else "a diverged model must fail, and a method that leaves candidates unranked must declare "
        "may_leave_unranked in its capabilities"
    )
    raise MethodError(
        f"{owner} returned {what} scores for {int(bad.sum())} of {len(values)} users, first "
        f"{_row_name(first, users)}; expected finite values: {hint}."
    )


def _row_name(row: int, users: NDArray[np.integer] | None) -> str:
    return f"row {row}" if users is None else f"user {int(users[row])} (row {row})"


def _check_labels(values: Any, position: Any, excluded: Any, owner: str) -> None:
    """Check shapes and dtypes before anything is computed."""
    if not isinstance(values, np.ndarray):
        raise MethodError(
            f"{owner} returned scores of type {type(values).__name__}; expected a NumPy array of "
            "float32 or float64, shape (n, c)."
        )
    if values.dtype not in (np.float32, np.float64) or values.ndim != 2:
        raise MethodError(
            f"{owner} returned scores of dtype {values.dtype} and shape {values.shape}; expected "
            "float32 or float64 of shape (n, c). Convert to the one that keeps different scores different."
        )
    n, c = values.shape
    if position.dtype.kind not in "iu" or position.ndim != 1:
        raise ProtocolError(
            f"positions of the positives have dtype {position.dtype} and shape {position.shape}; "
            "expected integers of shape (n,)."
        )
    if len(position) != n:
        raise MethodError(
            f"{owner} returned scores for {n} users; expected {len(position)}, one row per request."
        )
    outside = (position < 0) | (position >= c)
    if outside.any():
        row = int(outside.argmax())
        raise MethodError(
            f"{owner} returned {c} scores per user, but the positive of row {row} is candidate "
            f"{int(position[row])}; expected one score per candidate."
        )
    if excluded is None:
        return
    if excluded.dtype != np.bool_ or excluded.shape != (n, c):
        raise ProtocolError(
            f"the mask of excluded candidates has dtype {excluded.dtype} and shape "
            f"{excluded.shape}; expected bool of shape {(n, c)}."
        )
    own = excluded[np.arange(n), position]
    if own.any():
        raise ProtocolError(
            f"the positive of row {int(own.argmax())} is excluded from the ranking; a held-out item "
            "must compete. Check the candidates of this task."
        )
