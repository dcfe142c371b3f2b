"""Six titles that the tiny encoder can read, and sequences made of lists."""

from __future__ import annotations

import numpy as np

from bench.data.domain import Sequences

TITLES = [
    "red toy story",
    "blue hand cream",
    "green body wash large pack",
    "star wars",
    "small hair lotion set",
    "red toy story",
]


def sequences(*rows: list[int]) -> Sequences:
    flat = [item for row in rows for item in row]
    return Sequences(
        np.cumsum([0, *map(len, rows)]).astype(np.int64), np.array(flat, dtype=np.int32)
    )
