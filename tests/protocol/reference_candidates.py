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


def golden() -> dict[str, object]:
    """The published vectors: ``python tests/protocol/reference_candidates.py > golden file``."""
    users = ["A1", "A3EBHHCZO6V2A4", "u", "Zoë", "用户7", "1"]
    hashes = [
        {"id": u, "fnv1a": f"{fnv1a(u.encode()):016x}", "mixed": f"{mix64(fnv1a(u.encode())):016x}"}
        for u in users
    ]
    streams = []
    for seed, split, domain in [
        (0, "test", "amazon-beauty"),
        (0, "valid", "amazon-beauty"),
        (7, "test", "ml-1m"),
    ]:
        k = key("A1", seed, split, domain)
        stream = halves(k)
        streams.append(
            {
                "seed": seed,
                "split": split,
                "domain": domain,
                "salt": f"{salt64('candidates', seed, split, domain):016x}",
                "user": "A1",
                "key": f"{k:016x}",
                "draws": [f"{next(stream):08x}" for _ in range(6)],
            }
        )
    cases = []
    for n, m, twins, weighted in [
        (100, 10, 0, False), (100, 29, 0, False), (1000, 29, 0, False), (12101, 29, 0, False),
        (12101, 99, 0, False), (60, 29, 10, False), (45, 29, 0, False), (1000, 29, 100, True), (200, 99, 0, True),
    ]:  # fmt: skip
        titles = [f"Title  {i % (n - twins)}" for i in range(n)]
        weights = [1 + 200 // (i + 1) for i in range(n)] if weighted else None
        rows = []
        for number, user in enumerate(users):
            history = [(number * 31 + 7 * j) % n for j in range(5 + number)]
            positive = history[-1]
            row, position = candidates(
                user, titles, history, positive, m, seed=3, domain="golden", weights=weights
            )
            rows.append({"user": user, "history": history, "candidates": row, "position": position})
        cases.append(
            {
                "n_items": n,
                "n_negatives": m,
                "titles": f"'Title  ' + str(i mod {n - twins})",
                "distinct_titles": n - twins,
                "weights": "1 + 200 div (i + 1)" if weighted else None,
                "seed": 3,
                "split": "test",
                "domain": "golden",
                "rows": rows,
            }
        )
    return {
        "format": "weavebench.candidates.v1",
        "hashes": hashes,
        "streams": streams,
        "cases": cases,
    }


if __name__ == "__main__":
    import json

    print(json.dumps(golden(), indent=1, ensure_ascii=False))
