"""Scores of other programs: a table (user_id, item_id, score) aligned with the requests of a task."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from bench.data.strings import StringColumn
from bench.errors import ProtocolError
from bench.io import StrPath
from bench.protocol.guard import match_ids
from bench.protocol.keys import id_hashes
from bench.protocol.tables import read_table

if TYPE_CHECKING:
    import polars as pl

    from bench.data.domain import Domain
    from bench.protocol.task import RequestSet

__all__ = ["read_scores"]

_CHUNK = 16384


def read_scores(
    path: StrPath,
    requests: RequestSet,
    *,
    may_leave_unranked: bool = False,
    ignore_extra: bool = False,
) -> NDArray[np.float64]:
    """Read scores of another program and align them with requests.

    Columns: ``user_id``, ``item_id``, ``score`` (higher is better), in any order of rows.

    Args:
        path: CSV, TSV (also .gz) or Parquet.
        requests: what was exported.
        may_leave_unranked: candidates without a score (no row, or an empty cell) become NaN instead
            of an error.
        ignore_extra: rows for other users or items than the requests' are skipped instead of an error.

    Returns:
        float64, shape ``(n, c)``, rows and columns as in ``requests``. Two candidates of a user tie only
        if the file holds equal numbers for them: the scores of users whose numbers float64 cannot tell
        apart (integers beyond 2**53, longer decimals, values below 1e-308) are replaced by their places
        in the order of these numbers, which gives the same ranking.

    Raises:
        ProtocolError: users or candidates without a score, unknown or extra ones, repeated pairs, or
            scores that are not finite numbers.
    """
    domain = requests.domain
    table = _ScoreTable.read(Path(path), domain, may_leave_unranked, ignore_extra)
    wanted = np.zeros(domain.n_users, dtype=np.bool_)
    wanted[requests.users] = True
    if not ignore_extra:
        table.refuse_users(~wanted[table.users], "are not among the requests")
    has_rows = np.zeros(domain.n_users, dtype=np.bool_)
    has_rows[table.users] = True
    absent = requests.users[~has_rows[requests.users]]
    if len(absent) and not may_leave_unranked:
        raise ProtocolError(
            f"{path}: {len(absent)} of {requests.n} users have no scores, for example "
            f"{domain.user_ids[int(absent[0])]!r}. Score every exported request."
        )
    values = np.full((requests.n, requests.n_candidates), np.nan, dtype=np.float64)
    used = np.zeros(len(table.keys), dtype=np.bool_)
    start = 0
    for part, _ in requests.chunks(_CHUNK):
        pairs = part.users.astype(np.int64)[:, None] * domain.n_items + part.candidates
        slots, found = table.find(pairs)
        if not found.all() and not may_leave_unranked:
            row, column = (int(i[0]) for i in np.nonzero(~found))
            raise ProtocolError(
                f"{path}: user {domain.user_ids[int(part.users[row])]!r}: no score for candidate "
                f"{domain.items.ids[int(part.candidates[row, column])]!r} "
                f"({int((~found[row]).sum())} of {requests.n_candidates} are missing). Score all "
                "exported candidates of this very task."
            )
        values[start : start + len(part)][found] = table.scores[slots[found]]
        used[slots[found]] = True
        start += len(part)
    if not ignore_extra and not used.all():
        row = int(np.flatnonzero(~used)[0])
        user, item = divmod(int(table.keys[row]), domain.n_items)
        raise ProtocolError(
            f"{path}: {int((~used).sum())} scores are for items that are no candidates, for example user "
            f"{domain.user_ids[user]!r}, item {domain.items.ids[item]!r}. Score the exported candidates "
            "only."
        )
    return values


class _ScoreTable:
    """Scores by (user, item) key, sorted."""

    def __init__(
        self, path: Path, domain: Domain, keys: NDArray[np.int64], scores: NDArray[np.float64]
    ) -> None:
        self._path, self._domain = path, domain
        order = np.argsort(keys, kind="stable")
        self.keys, self.scores = keys[order], scores[order]
        self.users = self.keys // max(domain.n_items, 1)
        twice = np.flatnonzero(self.keys[1:] == self.keys[:-1])
        if len(twice):
            user, item = divmod(int(self.keys[twice[0]]), domain.n_items)
            raise ProtocolError(
                f"{path}: {len(twice)} repeated rows, for example user {domain.user_ids[user]!r} with item "
                f"{domain.items.ids[item]!r}; expected one score per user and candidate."
            )

    @classmethod
    def read(cls, path: Path, domain: Domain, may_leave: bool, ignore_extra: bool) -> _ScoreTable:
        """Read and check what the domain alone can tell."""
        import polars as pl

        frame = read_table(path, ["user_id", "item_id", "score"])
        column = frame["score"]
        scores = column.cast(pl.Float64, strict=False).to_numpy().astype(np.float64)
        blank = column.is_null().to_numpy()
        bad = ~np.isfinite(scores) & ~(blank & may_leave)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ProtocolError(
                f"{path}: row {row + 1} of the data: score {column[row]!r} of user "
                f"{frame['user_id'][row]!r} is not a finite 64-bit number; {int(bad.sum())} rows are "
                "affected. Give every exported candidate a number."
            )
        kept = np.flatnonzero(~blank)
        user_ids, items_ids = frame["user_id"].to_list(), frame["item_id"].to_list()
        users = _indices([user_ids[i] for i in kept], domain.user_ids)
        items = _indices([items_ids[i] for i in kept], domain.items.ids)
        for indices, ids, what in ((users, user_ids, "a user"), (items, items_ids, "an item")):
            unknown = np.flatnonzero(indices < 0)
            if len(unknown) and not ignore_extra:
                raise ProtocolError(
                    f"{path}: {len(unknown)} rows name {what} that {domain.name} does not have, for "
                    f"example {ids[int(kept[unknown[0]])]!r}. Use the raw ids of the exported requests."
                )
        known = (users >= 0) & (items >= 0)
        users, items, rows = users[known], items[known], kept[known]
        values = scores[rows]
        if not column.dtype.is_float():
            values = _apart(values, users, column.gather(rows).cast(pl.String))
        return cls(path, domain, users * domain.n_items + items, values)

    def refuse_users(self, bad: NDArray[np.bool_], what: str) -> None:
        """Raise if any row is bad, naming the first user."""
        if bad.any():
            extra = np.unique(self.users[bad])
            raise ProtocolError(
                f"{self._path}: {len(extra)} users {what}, for example "
                f"{self._domain.user_ids[int(extra[0])]!r}. Send scores of the exported users only."
            )

    def find(self, pairs: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Row of every key, and whether it has one; both of the shape of ``pairs``."""
        if not len(self.keys):
            return np.zeros(pairs.shape, dtype=np.int64), np.zeros(pairs.shape, dtype=np.bool_)
        slots = np.minimum(np.searchsorted(self.keys, pairs), len(self.keys) - 1).astype(np.int64)
        return slots, self.keys[slots] == pairs


def _indices(ids: list[str], column: StringColumn) -> NDArray[np.int64]:
    values = StringColumn.from_list(ids)
    return match_ids(values, id_hashes(values), column)


def _apart(
    scores: NDArray[np.float64], users: NDArray[np.int64], written: pl.Series
) -> NDArray[np.float64]:
    """Keep apart what a file tells apart: see the return value of :func:`read_scores`.

    Args:
        scores: float64, shape ``(n,)``, the numbers as float64.
        users: int64, shape ``(n,)``, whose they are.
        written: n texts, the numbers as written.
    """
    order = np.lexsort((scores, users))
    by_user, by_score = users[order], scores[order]
    equal = np.flatnonzero((by_user[1:] == by_user[:-1]) & (by_score[1:] == by_score[:-1]))
    differ = (written.gather(order[equal]) != written.gather(order[equal + 1])).to_numpy()
    apart = scores.copy()
    for user in np.unique(by_user[equal[differ]]):
        rows = order[slice(*np.searchsorted(by_user, (user, user + 1)))]
        numbers = [Decimal(text) for text in written.gather(rows)]
        places = {number: place for place, number in enumerate(sorted(set(numbers)))}
        apart[rows] = [places[number] for number in numbers]
    return apart
