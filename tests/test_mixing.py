"""Words that depend on their key alone, against published and independently computed values."""

from __future__ import annotations

import hashlib

import numpy as np

from bench.mixing import GAMMA, hash64, mix64, words

SPLITMIX_1234567 = [6457827717110365317, 3203168211198807973, 9817491932198370423]


def test_mix64_known_answers():
    """SplitMix64 seeded with 1234567 (the published outputs of the reference C code)."""
    states = (1234567 + np.arange(1, 4, dtype=np.uint64) * np.uint64(GAMMA)).astype(np.uint64)
    assert mix64(states).tolist() == SPLITMIX_1234567


def test_words_are_the_splitmix_stream_of_their_key():
    assert words(1234567, np.arange(3)).tolist() == SPLITMIX_1234567
    assert words(1234567, np.array([[2], [0]])).tolist() == [
        [SPLITMIX_1234567[2]],
        [SPLITMIX_1234567[0]],
    ]


def test_a_key_near_the_end_of_the_range_wraps():
    key = 2**64 - 5
    state = (key + 1000 * GAMMA) % 2**64
    assert words(key, np.array([999])).tolist() == mix64(np.array([state], np.uint64)).tolist()


def test_hash64_is_the_beginning_of_a_sha256():
    digest = hashlib.sha256(b"one\0two").hexdigest()
    assert hash64(b"one", b"two") == int(digest[:16], 16)
