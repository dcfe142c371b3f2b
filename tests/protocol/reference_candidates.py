"""Candidate drawing in plain Python, written from docs/protocol.md and sharing no code with bench."""

from __future__ import annotations

import hashlib
import unicodedata
from collections.abc import Iterator, Sequence

MASK = (1 << 64) - 1


def mix64(z: int) -> int:
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def fnv1a(data: bytes) -> int:
    h = 0xCBF29CE484222325
    for byte in data:
        h = ((h ^ byte) * 0x100000001B3) & MASK
    return h


def salt64(purpose: str, seed: int, split: str, domain: str) -> int:
    message = f"weavebench.protocol.v1\0{purpose}\0{seed}\0{split}\0{domain}".encode()
    return int(hashlib.sha256(message).hexdigest()[:16], 16)


def key(user_id: str, seed: int, split: str, domain: str) -> int:
    return mix64(mix64(fnv1a(user_id.encode())) ^ salt64("candidates", seed, split, domain))


def halves(k: int) -> Iterator[int]:
    j = 1
    while True:
        word = mix64((k + j * 0x9E3779B97F4A7C15) & MASK)
        yield word >> 32
        yield word & 0xFFFFFFFF
        j += 1


def group_of(title: str) -> str:
    title = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", title).casefold())
    return " ".join(title.split())


def negatives(
    k: int,
    titles: Sequence[str],
    history: Sequence[int],
    m: int,
    weights: Sequence[int] | None = None,
) -> list[int]:
    """The first m accepted draws; ``history`` holds all items of the user, held-out ones too."""
    total = len(titles) if weights is None else sum(weights)
    seen = {group_of(titles[i]) for i in history}
    chosen: list[int] = []
    for x in halves(k):
        product = x * total
        if product & 0xFFFFFFFF < 2**32 % total:
            continue
        value = product >> 32
        item = value
        if weights is not None:
            item = 0
            while value >= weights[item]:
                value -= weights[item]
                item += 1
        if group_of(titles[item]) in seen:
            continue
        seen.add(group_of(titles[item]))
        chosen.append(item)
        if len(chosen) == m:
            return chosen
    raise AssertionError


def candidates(
    user_id: str,
    titles: Sequence[str],
    history: Sequence[int],
    positive: int,
    m: int,
    *,
    seed: int = 0,
    split: str = "test",
    domain: str = "d",
    weights: Sequence[int] | None = None,
) -> tuple[list[int], int]:
    """Candidates in their final order and the column of the positive."""
    k = key(user_id, seed, split, domain)
    row = [*negatives(k, titles, history, m, weights), positive]
    position = mix64(k ^ 0x706F736974696F6E) % (m + 1)
    row[position], row[m] = row[m], row[position]
    return row, position
