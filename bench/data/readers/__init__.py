"""One reader per source format; each returns :class:`bench.data.raw.RawData`."""

from __future__ import annotations

from bench.data.readers.base import Files, Reader, Reading
from bench.registry import Registry

__all__ = ["READERS", "Files", "Reader", "Reading"]

READERS: Registry[type[Reader]] = Registry(
    "reader",
    {
        "movielens": "bench.data.readers.movielens:MovieLens",
        "table": "bench.data.readers.tabular:Tables",
    },
)
"""The readers of ``bench data import``; a new one is a subclass of :class:`Reader` and a line here."""
