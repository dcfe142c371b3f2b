"""The candidate sets of one domain and split: drawn, imported, or the whole catalogue."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.io import canonical_json
from bench.mixing import UInt64Array
from bench.protocol.candidates import Population, draw_candidates
from bench.protocol.keys import salt64, stream_keys
from bench.protocol.types import Labels, Split

__all__ = ["CandidateSets", "DrawnSets", "FixedSets", "FullSets"]

_HASH_BLOCK = 65536


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class CandidateSets(ABC):
    """Candidates of every evaluated user; rows are positions in ``LeaveOneOut.users``.

    Attributes:
        domain: domain name.
        split: ``valid`` or ``test``.
        positives: int32, shape ``(k,)``, held-out item of every evaluated user.
        ids_hash: SHA-256 of raw user and item ids, which gives the indices their meaning.
    """

    domain: str
    split: Split
    positives: NDArray[np.int32]
    ids_hash: str

    @property
    @abstractmethod
    def n_candidates(self) -> int:
        """Candidates per user."""

    @abstractmethod
    def take(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int32], Labels]:
        """Candidates of ``rows``, int32, shape ``(len(rows), n_candidates)``, and the labels."""

    def unlabelled(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        """Candidates of ``rows`` alone; the full catalogue costs no memory here."""
        return self.take(rows)[0]

    def sha256(self) -> str:
        """SHA-256 of the content: ids, candidates of all evaluated users in order, positions."""
        candidates, positions = hashlib.sha256(), hashlib.sha256()
        n = len(self.positives)
        for start in range(0, n, _HASH_BLOCK):
            items, labels = self.take(np.arange(start, min(start + _HASH_BLOCK, n)))
            candidates.update(np.ascontiguousarray(items, dtype="<i4").data)
            positions.update(np.ascontiguousarray(labels.position, dtype="<i4").data)
        return self._combine(candidates.hexdigest(), positions.hexdigest())

    def _combine(self, candidates: str, positions: str) -> str:
        return hashlib.sha256(
            canonical_json(
                {
                    "format": "weavebench.candidates.v1",
                    "domain": self.domain,
                    "split": self.split,
                    "ids": self.ids_hash,
                    "shape": [len(self.positives), self.n_candidates],
                    "candidates": candidates,
                    "positions": positions,
                }
            )
        ).hexdigest()


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class DrawnSets(CandidateSets):
    """Sampled candidates, redrawn on demand: a chunk costs microseconds per user, no storage.

    Attributes:
        pop: what negatives are drawn from.
        seed: candidate seed.
        n_negatives: negatives per user.
        user_hashes: uint64, shape ``(k,)``, id hashes of the evaluated users.
        history: k rows of title groups of the users' whole histories.
    """

    pop: Population
    seed: int
    n_negatives: int
    user_hashes: UInt64Array
    history: Sequences

    @property
    def n_candidates(self) -> int:
        return self.n_negatives + 1

    def take(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int32], Labels]:
        salt = salt64("candidates", self.seed, self.split, self.domain)
        keys = stream_keys(self.user_hashes[rows], salt)
        candidates, position = draw_candidates(
            self.pop, keys, self.history.take(rows), self.positives[rows], self.n_negatives
        )
        return candidates, Labels(position)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FixedSets(CandidateSets):
    """Candidates read from a file.

    Attributes:
        candidates: int32, shape ``(k, c)``.
        position: int32, shape ``(k,)``, column of the positive.
    """

    candidates: NDArray[np.int32]
    position: NDArray[np.int32]

    @property
    def n_candidates(self) -> int:
        return int(self.candidates.shape[1])

    def take(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int32], Labels]:
        return self.candidates[rows], Labels(self.position[rows])


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class FullSets(CandidateSets):
    """The whole catalogue for every user; the rest of the history does not compete.

    Attributes:
        n_items: size of the catalogue.
        history: k rows of items, the users' whole histories.
    """

    n_items: int
    history: Sequences

    @property
    def n_candidates(self) -> int:
        return self.n_items

    def take(self, rows: NDArray[np.integer]) -> tuple[NDArray[np.int32], Labels]:
        part = self.history.take(rows)
        position = self.positives[rows]
        excluded = np.zeros((len(rows), self.n_items), dtype=np.bool_)
        excluded[part.rows, part.items] = True
        excluded[np.arange(len(rows)), position] = False
        return self.unlabelled(rows), Labels(position, excluded)

    def unlabelled(self, rows: NDArray[np.integer]) -> NDArray[np.int32]:
        return np.broadcast_to(np.arange(self.n_items, dtype=np.int32), (len(rows), self.n_items))

    def sha256(self) -> str:
        """As the base class, but over the rule instead of ``n x n_items`` indices."""
        rule = f"full ranking of {self.n_items} items without the history"
        positions = np.ascontiguousarray(self.positives, dtype="<i4").data
        return self._combine(rule, hashlib.sha256(positions).hexdigest())
