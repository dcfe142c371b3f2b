"""Keys of users and purposes: byte hashes, salts and the keys of counter streams.

All of it is integer arithmetic modulo 2**64 (:mod:`bench.mixing`), so the values are the same for every
NumPy version, machine, chunk size and order of users. The definitions are frozen: ``docs/protocol.md``
states them, and published vectors test them.
"""

from __future__ import annotations

import numpy as np

from bench.data.strings import StringColumn
from bench.mixing import UInt64Array, hash64, mix64_in_place

__all__ = ["fnv1a", "id_hashes", "salt64", "stream_keys"]

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x00000100000001B3)

_TAG = b"weavebench.protocol.v1"


def fnv1a(column: StringColumn, start: int = 0, stop: int | None = None) -> UInt64Array:
    """64-bit FNV-1a of the UTF-8 bytes of strings ``start`` to ``stop``.

    Source: Fowler, Noll & Vo; RFC 9923 (offset basis cbf29ce484222325, prime 100000001b3).

    Returns:
        uint64, shape ``(stop - start,)``.
    """
    offsets = np.asarray(column.offsets[start : (len(column) if stop is None else stop) + 1])
    lengths = np.diff(offsets)
    # Longest first, so that the strings that still have a byte at position p are a prefix.
    order = np.argsort(-lengths, kind="stable")
    begins = offsets[:-1][order]
    active = np.searchsorted(-lengths[order], -np.arange(int(lengths.max(initial=0))), side="left")
    hashes = np.full(len(lengths), _FNV_OFFSET, dtype=np.uint64)
    for position, count in enumerate(active.tolist()):
        part = hashes[:count]
        part ^= column.data[begins[:count] + position]
        part *= _FNV_PRIME
    result = np.empty_like(hashes)
    result[order] = hashes
    return result


def id_hashes(column: StringColumn, start: int = 0, stop: int | None = None) -> UInt64Array:
    """``mix64(fnv1a(id))`` of raw ids ``start`` to ``stop``: uint64, shape ``(stop - start,)``."""
    hashes = fnv1a(column, start, stop)
    mix64_in_place(hashes, np.empty_like(hashes))
    return hashes


def salt64(purpose: str, seed: int, split: str, domain: str) -> int:
    """The salt of one purpose, seed, split and domain: one SHA-256, so unrelated salts are independent.

    ``SHA-256("weavebench.protocol.v1" 00 purpose 00 seed 00 split 00 domain)``, the first 8 bytes,
    big-endian; the seed in decimal ASCII, ``00`` a zero byte.
    """
    return hash64(_TAG, purpose.encode(), b"%d" % seed, split.encode(), domain.encode())


def stream_keys(hashes: UInt64Array, salt: int) -> UInt64Array:
    """``mix64(id_hash ^ salt)``: the key of every user's counter stream, uint64, shape ``(n,)``."""
    keys = hashes ^ np.uint64(salt)
    mix64_in_place(keys, np.empty_like(keys))
    return keys
