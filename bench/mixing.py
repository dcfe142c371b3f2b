"""Random 64-bit words that depend on nothing but their key and their number.

All of it is integer arithmetic modulo 2**64, so the words are the same for every NumPy version, machine
and order of drawing. The definitions are frozen, and published vectors test them.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

__all__ = ["GAMMA", "hash64", "mix64", "mix64_in_place", "words"]

UInt64Array = NDArray[np.uint64]

GAMMA = 0x9E3779B97F4A7C15
"""Increment of the SplitMix64 counter (Steele, Lea & Flood, OOPSLA 2014)."""

_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)
_SHIFT_30 = np.uint64(30)
_SHIFT_27 = np.uint64(27)
_SHIFT_31 = np.uint64(31)


def mix64_in_place(values: UInt64Array, scratch: UInt64Array) -> None:
    """Apply the SplitMix64 finaliser (a bijection of 64-bit words) to ``values`` in place.

    Args:
        values: uint64, any shape; overwritten.
        scratch: uint64, the same shape; overwritten.
    """
    np.right_shift(values, _SHIFT_30, out=scratch)
    np.bitwise_xor(values, scratch, out=values)
    np.multiply(values, _MIX_1, out=values)
    np.right_shift(values, _SHIFT_27, out=scratch)
    np.bitwise_xor(values, scratch, out=values)
    np.multiply(values, _MIX_2, out=values)
    np.right_shift(values, _SHIFT_31, out=scratch)
    np.bitwise_xor(values, scratch, out=values)


def mix64(values: UInt64Array) -> UInt64Array:
    """The SplitMix64 finaliser of every word, as a new uint64 array of the same shape."""
    mixed = values.astype(np.uint64, copy=True)
    mix64_in_place(mixed, np.empty_like(mixed))
    return mixed


def hash64(*parts: bytes) -> int:
    """The first 8 bytes, big-endian, of the SHA-256 of ``parts`` joined by zero bytes."""
    return int.from_bytes(hashlib.sha256(b"\0".join(parts)).digest()[:8], "big")


def words(key: int, numbers: NDArray[np.integer]) -> UInt64Array:
    """The words of the SplitMix64 stream that begins at ``key``.

    Args:
        key: state of the stream, 0 <= key < 2**64.
        numbers: integers >= 0, any shape: which words.

    Returns:
        uint64, the shape of ``numbers``: word j is ``mix64(key + (j + 1) * GAMMA)``.
    """
    mixed = numbers.astype(np.uint64)
    mixed *= np.uint64(GAMMA)
    mixed += np.uint64((key + GAMMA) % (1 << 64))
    mix64_in_place(mixed, np.empty_like(mixed))
    return mixed
