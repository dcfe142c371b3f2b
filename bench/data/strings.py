"""A column of strings as two flat arrays, so that ids and titles can be memory-mapped and hashed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

__all__ = ["StringColumn"]


@dataclass(frozen=True, slots=True, eq=False)
class StringColumn(Sequence[str]):
    """Immutable strings in Arrow-like form.

    Attributes:
        offsets: int64, shape ``(n + 1,)``; string ``i`` is ``data[offsets[i]:offsets[i + 1]]``.
        data: uint8, UTF-8 bytes of all strings, one after the other.
    """

    offsets: NDArray[np.int64]
    data: NDArray[np.uint8]

    @classmethod
    def from_list(cls, values: Sequence[str]) -> StringColumn:
        """Encode a list of strings."""
        encoded = [value.encode() for value in values]
        offsets = np.zeros(len(encoded) + 1, dtype=np.int64)
        np.cumsum([len(e) for e in encoded], out=offsets[1:])
        return cls(offsets, np.frombuffer(b"".join(encoded), dtype=np.uint8))

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> str:  # type: ignore[override]
        n = len(self)
        position = int(index) + n if index < 0 else int(index)
        if not 0 <= position < n:
            raise IndexError(f"index {index} is out of range for {n} strings")
        return bytes(self.data[self.offsets[position] : self.offsets[position + 1]]).decode()

    def __iter__(self) -> Iterator[str]:
        return iter(self.to_list())

    def to_list(self) -> list[str]:
        """Decode all strings."""
        blob = self.data.tobytes()
        return [blob[a:b].decode() for a, b in pairwise(self.offsets.tolist())]

    def copy(self) -> StringColumn:
        """The same strings in memory of their own, which no file backs."""
        return StringColumn(np.array(self.offsets), np.array(self.data))

    def take(self, index: NDArray[np.integer]) -> StringColumn:
        """Return the strings at ``index`` as a new column."""
        return StringColumn.from_list([self[int(i)] for i in index])
