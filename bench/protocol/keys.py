"""Randomness that depends on nothing but its key: byte hashes, salts and counter streams.

All of it is integer arithmetic modulo 2**64, so the values are the same for every NumPy version,
machine, chunk size and order of users. The definitions are frozen: ``docs/protocol.md`` states
them, and published vectors test them.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from bench.data.strings import StringColumn

__all__ = ["GAMMA", "fnv1a", "id_hashes", "mix64", "mix64_in_place", "salt64", "stream_keys"]

UInt64Array = NDArray[np.uint64]

_FNV_OFFSET = np.uint64(0xCBF29CE484222325)
_FNV_PRIME = np.uint64(0x00000100000001B3)

GAMMA = 0x9E3779B97F4A7C15
"""Increment of the SplitMix64 counter (Steele, Lea & Flood, OOPSLA 2014)."""

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30 = np.uint64(30)
_SHIFT_27 = np.uint64(27)
_SHIFT_31 = np.uint64(31)

_TAG = b"weavebench.protocol.v1"


def mix64_in_place(words: UInt64Array, scratch: UInt64Array) -> None:
    """Apply the SplitMix64 finaliser (a bijection of 64-bit words) to ``words`` in place.

    Args:
        words: uint64, any shape; overwritten.
        scratch: uint64, the same shape; overwritten.
    """
    np.right_shift(words, _SHIFT_30, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.multiply(words, _MIX_1, out=words)
    np.right_shift(words, _SHIFT_27, out=scratch)
    np.bitwise_xor(words, scratch, out=words)
    np.multiply(words, _MIX_2, out=words)
    np.right_shift(words, _SHIFT_31, out=scratch)
    np.bitwise_xor(words, scratch, out=words)


def mix64(words: UInt64Array) -> UInt64Array:
    """The SplitMix64 finaliser of every word, as a new uint64 array of the same shape."""
    mixed = words.astype(np.uint64, copy=True)
    mix64_in_place(mixed, np.empty_like(mixed))
    return mixed


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
    message = b"\0".join([_TAG, purpose.encode(), b"%d" % seed, split.encode(), domain.encode()])
    return int.from_bytes(hashlib.sha256(message).digest()[:8], "big")


def stream_keys(hashes: UInt64Array, salt: int) -> UInt64Array:
    """``mix64(id_hash ^ salt)``: the key of every user's counter stream, uint64, shape ``(n,)``."""
    keys = hashes ^ np.uint64(salt)
    mix64_in_place(keys, np.empty_like(keys))
    return keys
