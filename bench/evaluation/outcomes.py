"""What is kept of one user's ranking: enough to recompute every metric without the scores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ResultError

__all__ = ["Outcomes"]

_COLUMNS: Mapping[str, type[np.generic]] = {
    "n_better": np.int32,
    "n_tied": np.int32,
    "n_candidates": np.int32,
    "ranked": np.bool_,
}
_SLOT_COLUMNS: Mapping[str, type[np.generic]] = {"rank_keep": np.int16, "rank_close": np.int16}

# Above this many cells a dense count table costs more than sorting the keys.
_DENSE_CELLS = 1 << 20


@dataclass(frozen=True, slots=True, eq=False)
class Outcomes:
    """Where the positive of each user stands among the candidates that compete.

    Attributes:
        n_better: int32, shape ``(n,)``, candidates strictly above the positive. For a positive that
            is not ranked: all candidates that are ranked.
        n_tied: int32, shape ``(n,)``, *other* candidates tied with the positive. For a positive that
            is not ranked: the other candidates that are not ranked.
        n_candidates: int32, shape ``(n,)``, candidates that compete, the positive included.
        ranked: bool, shape ``(n,)``, whether the positive was ranked at all.
        rank_keep: int16, shape ``(n,)``, 1-based answer slot of the positive, 0 = not listed, if
            an invalid answer occupies its slot; None for methods that give scores.
        rank_close: like ``rank_keep``, with invalid answers removed from the list.

    ``n_better + n_tied + 1 <= n_candidates`` always holds.
    """

    n_better: NDArray[np.int32]
    n_tied: NDArray[np.int32]
    n_candidates: NDArray[np.int32]
    ranked: NDArray[np.bool_]
    rank_keep: NDArray[np.int16] | None = None
    rank_close: NDArray[np.int16] | None = None

    def __len__(self) -> int:
        return len(self.n_better)

    @property
    def has_slots(self) -> bool:
        """Whether the ranks come from answer slots."""
        return self.rank_keep is not None

    @classmethod
    def concat(cls, parts: Sequence[Outcomes]) -> Outcomes:
        """Join outcomes of consecutive chunks of users.

        Raises:
            ResultError: no parts, or some parts have slot ranks and others have not.
        """
        if not parts:
            raise ResultError("no outcomes to join: expected at least one chunk of users.")
        if len({part.has_slots for part in parts}) > 1:
            raise ResultError(
                "some chunks of outcomes come from answer slots and others from scores; a method "
                "must return slots for all of its chunks or for none."
            )
        columns = [part.to_columns() for part in parts]
        return cls(**{name: np.concatenate([c[name] for c in columns]) for name in columns[0]})

    def take(self, rows: NDArray[np.integer] | NDArray[np.bool_] | slice) -> Outcomes:
        """The outcomes of ``rows`` (indices, mask or slice), in that order."""
        return Outcomes(**{name: column[rows] for name, column in self.to_columns().items()})

    def to_columns(self) -> dict[str, NDArray[Any]]:
        """The arrays by name, without the slot columns if there are none."""
        columns: dict[str, NDArray[Any]] = {name: getattr(self, name) for name in _COLUMNS}
        if self.rank_keep is not None and self.rank_close is not None:
            columns |= {"rank_keep": self.rank_keep, "rank_close": self.rank_close}
        return columns

    @classmethod
    def from_columns(cls, columns: Mapping[str, Any]) -> Outcomes:
        """Rebuild from :meth:`to_columns`; other columns are ignored.

        Args:
            columns: array-likes by name; integer columns of any width are accepted.

        Raises:
            ResultError: a column is missing, of the wrong kind or length, or the counts contradict
                one another; the message names column and row.
        """
        wanted = dict(_COLUMNS)
        present = [name for name in _SLOT_COLUMNS if columns.get(name) is not None]
        if present:
            wanted |= _SLOT_COLUMNS
        arrays: dict[str, NDArray[Any]] = {}
        for name, dtype in wanted.items():
            if columns.get(name) is None:
                raise ResultError(
                    f"outcomes lack the column {name!r}; found {sorted(columns)}. "
                    "The file is not a complete record of a run; score the run again."
                )
            arrays[name] = _column(name, columns[name], dtype)
        outcomes = cls(**arrays)
        outcomes.check()
        return outcomes

    def check(self) -> None:
        """Check that the columns have one length and do not contradict one another.

        Raises:
            ResultError: naming the first row that is impossible.
        """
        lengths = {name: len(column) for name, column in self.to_columns().items()}
        if len(set(lengths.values())) > 1:
            raise ResultError(f"outcome columns differ in length: {lengths}.")
        total = self.n_better.astype(np.int64) + self.n_tied + 1
        bad = (self.n_better < 0) | (self.n_tied < 0) | (total > self.n_candidates)
        if self.rank_keep is not None and self.rank_close is not None:
            bad |= (self.rank_close < 0) | (self.rank_close > self.rank_keep)
            bad |= ((self.rank_keep > 0) != self.ranked) | ((self.rank_close > 0) != self.ranked)
        if bad.any():
            row = int(bad.argmax())
            found = {name: column[row].item() for name, column in self.to_columns().items()}
            raise ResultError(
                f"outcome of row {row} is impossible: {found}; expected counts >= 0, n_better + "
                "n_tied < n_candidates, and slot ranks exactly if the positive is ranked. "
                "The file was changed; score the run again."
            )

    def histogram(self) -> tuple[Outcomes, NDArray[np.int64]]:
        """The distinct outcomes and how many users have each.

        Returns:
            ``(distinct, counts)``: distinct outcomes in ascending order of their columns, and int64
            counts that sum to ``len(self)``. Whatever depends on users only through their outcome
            (means, bootstrap) costs as much as there are distinct outcomes, which is a few dozen for
            30 candidates however many users there are.
        """
        columns = self.to_columns()
        if not len(self):
            return self, np.empty(0, dtype=np.int64)
        varying: dict[str, tuple[int, int]] = {}
        cells = 1
        for name, column in columns.items():
            low, high = int(column.min()), int(column.max())
            if low != high:
                varying[name] = (low, high - low + 1)
                cells *= high - low + 1
        if cells >= 1 << 62:
            stacked = np.stack([columns[name].astype(np.int64) for name in varying], axis=1)
            _, first, counts = np.unique(stacked, axis=0, return_index=True, return_counts=True)
            return self.take(first), counts.astype(np.int64)
        key = np.zeros(len(self), dtype=np.int64)
        for name, (low, span) in varying.items():
            key *= span
            key += columns[name]
            key -= low
        if cells <= _DENSE_CELLS:
            table = np.bincount(key, minlength=cells)
            distinct = np.flatnonzero(table)
            counts = table[distinct]
        else:
            distinct, counts = np.unique(key, return_counts=True)
        rows: dict[str, NDArray[Any]] = {}
        rest = distinct
        for name, (low, span) in reversed(varying.items()):
            rest, value = np.divmod(rest, span)
            rows[name] = (value + low).astype(columns[name].dtype)
        for name, column in columns.items():
            if name not in rows:
                rows[name] = np.repeat(column[:1], len(distinct))
        return Outcomes(**rows), counts.astype(np.int64)


def _column(name: str, values: Any, dtype: type[np.generic]) -> NDArray[Any]:
    """One column as ``dtype``, refused if a value would change."""
    array = np.asarray(values)
    if array.ndim != 1 or array.dtype.kind not in "iub":
        raise ResultError(
            f"outcome column {name!r} has shape {array.shape} and dtype {array.dtype}; expected one "
            f"dimension of {np.dtype(dtype)}."
        )
    converted = array.astype(dtype)
    if not np.array_equal(converted, array):
        row = int((converted != array).argmax())
        raise ResultError(
            f"outcome column {name!r}, row {row}: {array[row]} does not fit {np.dtype(dtype)}."
        )
    return converted
