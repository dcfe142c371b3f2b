"""The Domain: one data set after filtering, in dense indices, immutable."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.data.strings import StringColumn
from bench.errors import DataError
from bench.io import hash_arrays, hash_json

__all__ = ["Domain", "Items", "Sequences"]


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """Item sequences of many users in CSR form.

    Attributes:
        offsets: int64, shape ``(n + 1,)``, starts at 0, non-decreasing.
        items: int32, shape ``(offsets[-1],)``; dense item indices, 0-based, oldest first.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]

    @classmethod
    def of_single_items(cls, items: NDArray[np.integer]) -> Sequences:
        """One sequence of one item for each of ``items``."""
        return cls(np.arange(len(items) + 1, dtype=np.int64), items.astype(np.int32))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """Items of one row, int32, oldest first (a view)."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]

    @property
    def lengths(self) -> NDArray[np.int64]:
        """Length of every sequence, int64, shape ``(n,)``."""
        return np.diff(self.offsets)

    def take(self, rows: NDArray[np.integer]) -> Sequences:
        """Rows ``rows``, in that order, as a new object."""
        lengths = self.lengths[rows]
        offsets = np.zeros(len(rows) + 1, dtype=np.int64)
        np.cumsum(lengths, out=offsets[1:])
        source = np.repeat(self.offsets[rows] - offsets[:-1], lengths) + np.arange(offsets[-1])
        return Sequences(offsets, self.items[source])

    def select(self, keep: NDArray[np.bool_]) -> Sequences:
        """Keep the events where ``keep`` (bool, one per event) is true; rows may become empty."""
        kept = np.zeros(len(self.items) + 1, dtype=np.int64)
        np.cumsum(keep, out=kept[1:])
        return Sequences(kept[self.offsets], self.items[keep])

    @property
    def rows(self) -> NDArray[np.int64]:
        """Row number of every event, int64, shape ``(n_events,)``."""
        return np.repeat(np.arange(len(self), dtype=np.int64), self.lengths)


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """The vocabulary of a domain, in canonical order (UTF-8 bytes of the raw id, ascending).

    Attributes:
        ids: raw ids.
        titles: text of every item; items without a title hold ``Unknown item <8 hex>``.
        extra: optional further columns, for example ``brand`` and ``category``; "" if unknown.
        n_placeholders: how many titles are placeholders.
    """

    ids: StringColumn
    titles: StringColumn
    extra: Mapping[str, StringColumn] = field(default_factory=dict)
    n_placeholders: int = 0

    def __len__(self) -> int:
        return len(self.ids)

    def copy(self, extra: Sequence[str] = ()) -> Items:
        """The vocabulary in memory of its own, with only these of the further columns."""
        columns = {name: self.extra[name].copy() for name in extra}
        return Items(self.ids.copy(), self.titles.copy(), columns, self.n_placeholders)


@dataclass(frozen=True, repr=False)
class Domain:
    """One data set: vocabulary and chronological sequences of every user.

    Users are in canonical order too (UTF-8 bytes of the raw id, ascending): the position of a user
    is the *canonical user index* of stored results.

    Attributes:
        name: catalogue name, for example ``amazon-beauty``.
        items: the vocabulary.
        user_ids: raw user ids.
        sequences: all events, int32 item indices, oldest first.
        timestamps: float64, one per event, non-decreasing within a user.
        namespace: name of the id space shared with other domains, or None.
        group: study group, or None.
        provenance: source files with SHA-256, options, and counts of what was dropped.
    """

    name: str
    items: Items
    user_ids: StringColumn
    sequences: Sequences
    timestamps: NDArray[np.float64]
    namespace: str | None = None
    group: str | None = None
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if len(self.user_ids) != len(self.sequences):
            raise DataError(
                f"domain {self.name}: {len(self.user_ids)} user ids for {len(self.sequences)} sequences."
            )
        if len(self.timestamps) != len(self.sequences.items):
            raise DataError(
                f"domain {self.name}: {len(self.timestamps)} timestamps for "
                f"{len(self.sequences.items)} events."
            )

    def __repr__(self) -> str:
        sizes = f"{self.n_users:,} users, {self.n_items:,} items, {self.n_events:,} events"
        return f"Domain({self.name}: {sizes})"

    @property
    def n_users(self) -> int:
        return len(self.user_ids)

    @property
    def n_items(self) -> int:
        return len(self.items)

    @property
    def n_events(self) -> int:
        return len(self.sequences.items)

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 over ids, titles and the order of events (not over raw times or file names)."""
        return hash_json(
            {
                "arrays": hash_arrays(
                    {
                        "item_ids": self.items.ids.data,
                        "item_ids_offsets": self.items.ids.offsets,
                        "titles": self.items.titles.data,
                        "titles_offsets": self.items.titles.offsets,
                        "user_ids": self.user_ids.data,
                        "user_ids_offsets": self.user_ids.offsets,
                        "offsets": self.sequences.offsets,
                        "items": self.sequences.items,
                    }
                ),
                "name": self.name,
                "namespace": self.namespace,
            }
        )
