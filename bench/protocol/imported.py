"""Candidate sets that come from a file instead of a draw."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Domain, Sequences
from bench.data.strings import StringColumn
from bench.errors import ProtocolError
from bench.io import hash_json
from bench.mixing import mix64
from bench.protocol.guard import match_ids
from bench.protocol.keys import id_hashes, salt64, stream_keys
from bench.protocol.types import Split

__all__ = ["CandidateTable", "ImportedCandidates", "align"]


@dataclass(frozen=True, slots=True, eq=False)
class CandidateTable:
    """Candidates of many users by raw id; every user has the same number.

    Attributes:
        user_ids: n raw user ids, distinct.
        item_ids: ``n * n_candidates`` raw item ids, user by user.
        n_candidates: candidates per user, >= 2.
    """

    user_ids: StringColumn
    item_ids: StringColumn
    n_candidates: int

    def content_hash(self) -> str:
        """SHA-256 of the sets; neither the order of users nor that of candidates matters."""
        items = self.item_ids.to_list()
        c = self.n_candidates
        rows = sorted(
            [user, *sorted(items[i * c : (i + 1) * c])]
            for i, user in enumerate(self.user_ids.to_list())
        )
        return hash_json(rows)


@dataclass(frozen=True, slots=True, eq=False)
class ImportedCandidates:
    """What a candidate file holds.

    Attributes:
        tables: ``test``, and ``valid`` if the file has validation sets too (otherwise validation
            candidates are drawn, as many per user, from candidate seed 0).
        source: path of the file, for messages.
    """

    tables: Mapping[Split, CandidateTable]
    source: str = "candidate file"
    _hash: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if "test" not in self.tables:
            raise ProtocolError(f"{self.source}: no rows of split 'test'.")

    @property
    def sha256(self) -> str:
        """Content hash; the form of the file does not matter."""
        if not self._hash:
            self._hash.append(
                hash_json({split: table.content_hash() for split, table in self.tables.items()})
            )
        return self._hash[0]


def align(
    table: CandidateTable,
    domain: Domain,
    users: NDArray[np.int32],
    positives: NDArray[np.int32],
    history: Sequences,
    split: Split,
) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
    """Check a table against a domain and put it into the order of the evaluated users.

    The order of candidates in the file is dropped (files often put the positive first): candidates
    are sorted by a keyed hash of user and item, which says nothing about the label.

    Args:
        table: the sets.
        domain: target domain.
        users: int32, shape ``(k,)``, evaluated users.
        positives: int32, shape ``(k,)``, held-out items.
        history: k rows of items, whole histories of the evaluated users.
        split: ``valid`` or ``test``, for messages and keys.

    Returns:
        Candidates, int32, shape ``(k, c)``, and position of the positive, int32, shape ``(k,)``.

    Raises:
        ProtocolError: users are missing or unknown; an item is unknown, repeated or (not being the
            positive) in the user's history; the positive is absent.
    """
    where = f"imported candidates, split {split!r}, domain {domain.name}"
    rows_of = match_ids(table.user_ids, id_hashes(table.user_ids), domain.user_ids)
    _refuse(rows_of < 0, table.user_ids, where, "users are not in the domain", "user")
    row_of_user = np.full(domain.n_users, -1, dtype=np.int64)
    row_of_user[rows_of] = np.arange(len(rows_of))
    order = row_of_user[users]
    absent = np.flatnonzero(order < 0)
    if len(absent):
        raise ProtocolError(
            f"{where}: {len(absent)} of {len(users)} evaluated users have no candidates, for example "
            f"{domain.user_ids[int(users[absent[0]])]!r}. Every evaluated user needs one set."
        )
    items = match_ids(table.item_ids, id_hashes(table.item_ids), domain.items.ids)
    _refuse(items < 0, table.item_ids, where, "items are not in the vocabulary", "item")
    candidates = items.reshape(len(table.user_ids), table.n_candidates)[order]
    ordered = np.sort(candidates, axis=1)
    _refuse_rows(
        (ordered[:, 1:] == ordered[:, :-1]).any(axis=1), domain, users, where, "hold an item twice"
    )
    is_positive = candidates == positives[:, None]
    _refuse_rows(~is_positive.any(axis=1), domain, users, where, "lack the held-out item")
    pairs = np.arange(len(users))[:, None] * domain.n_items + candidates
    seen = np.isin(pairs, history.rows * domain.n_items + history.items) & ~is_positive
    _refuse_rows(seen.any(axis=1), domain, users, where, "hold an item of the user's own history")
    salt = salt64("imported-order", 0, split, domain.name)
    user_keys = stream_keys(id_hashes(domain.user_ids)[users], salt)
    item_hashes = id_hashes(domain.items.ids)[candidates]
    shuffled = np.argsort(mix64(user_keys[:, None] ^ item_hashes), axis=1, kind="stable")
    placed: NDArray[np.int32] = np.take_along_axis(candidates, shuffled, axis=1).astype(np.int32)
    position: NDArray[np.int32] = np.argmax(placed == positives[:, None], axis=1).astype(np.int32)
    return placed, position


def _refuse(bad: NDArray[np.bool_], ids: StringColumn, where: str, what: str, kind: str) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise ProtocolError(
            f"{where}: {len(rows)} {what}, for example {kind} {ids[int(rows[0])]!r}. Make the file "
            "for this domain and the same k-core filter; `bench candidates export` shows the ids."
        )


def _refuse_rows(
    bad: NDArray[np.bool_], domain: Domain, users: NDArray[np.int32], where: str, what: str
) -> None:
    rows = np.flatnonzero(bad)
    if len(rows):
        raise ProtocolError(
            f"{where}: the sets of {len(rows)} users {what}, for example user "
            f"{domain.user_ids[int(users[rows[0]])]!r}. A set is the held-out item once and items the "
            "user never interacted with, each once."
        )
