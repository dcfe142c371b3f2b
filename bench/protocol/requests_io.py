"""Requests for models that run elsewhere, and the scores that they send back.

``export_requests`` writes what a model may know: raw user id, history and candidates, no label.
``read_scores`` aligns a table (user_id, item_id, score) with the requests of a task.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.data.strings import StringColumn
from bench.errors import ProtocolError
from bench.io import write_json
from bench.protocol.guard import match_ids
from bench.protocol.keys import id_hashes
from bench.protocol.tables import read_table
from bench.protocol.types import Requests

if TYPE_CHECKING:
    import polars as pl

    from bench.data.domain import Domain
    from bench.protocol.task import RequestSet, Task

__all__ = ["export_requests", "meta_path", "read_scores"]

_CHUNK = 16384


def meta_path(path: Path) -> Path:
    """Where :func:`export_requests` describes a file: its name plus ``.meta.json``."""
    return path.with_name(path.name + ".meta.json")


def export_requests(
    task: Task, requests: RequestSet, path: Path, *, titles: bool = False
) -> dict[str, Any]:
    """Write requests as JSON lines (``.jsonl``) or Parquet (``.parquet``), one row per request.

    Columns: ``user_id``, ``history`` (raw item ids, oldest first), ``candidates`` (raw item ids in an
    order that says nothing of the label), with ``titles`` also ``history_titles`` and
    ``candidate_titles``. A sibling ``.meta.json`` names the task, so that scores can be checked later.

    Args:
        task: the task that made ``requests``.
        requests: from :meth:`Task.test` or :meth:`Task.validation_set`.
        path: the file.
        titles: whether titles are written beside the ids.

    Returns:
        The content of the ``.meta.json`` file.

    Raises:
        ProtocolError: unknown ending, or requests over the whole catalogue.
    """
    import polars as pl

    if path.suffix not in (".jsonl", ".parquet"):
        raise ProtocolError(f"{path}: expected a name ending in .jsonl or .parquet.")
    if requests.is_full:
        raise ProtocolError(
            f"{task.target}: requests over the whole catalogue hold {requests.n_candidates} candidates "
            "each and are not exported. Use `--negatives uniform`."
        )
    meta = {
        "format": "weavebench.requests.v1",
        "target": task.target,
        "split": requests.split,
        "task_hash": task.task_hash,
        "candidates_hash": requests.candidates_hash,
        "users_hash": task.users_hash(requests.users),
        "n_requests": requests.n,
        "n_candidates": requests.n_candidates,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".partial-{path.name}")
    texts = _Texts(requests.domain, titles)
    frames = (texts.frame(part) for part, _ in requests.chunks(_CHUNK))
    try:
        if path.suffix == ".parquet":
            pl.concat(frames).write_parquet(partial)
        else:
            with partial.open("w", encoding="utf-8", newline="\n") as stream:
                for frame in frames:
                    for row in frame.iter_rows(named=True):
                        stream.write(json.dumps(row, ensure_ascii=False) + "\n")
        partial.replace(path)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise
    write_json(meta_path(path), meta)
    return meta


class _Texts:
    """Turns indices into raw ids and titles."""

    def __init__(self, domain: Domain, titles: bool) -> None:
        import polars as pl

        self._users = pl.Series(domain.user_ids.to_list(), dtype=pl.String)
        self._columns = [("", pl.Series(domain.items.ids.to_list(), dtype=pl.String))]
        if titles:
            self._columns.append(("_titles", pl.Series(domain.items.titles.to_list())))

    def frame(self, requests: Requests) -> pl.DataFrame:
        """One row per request."""
        import polars as pl

        columns = {"user_id": self._users.gather(requests.users)}
        flat = requests.candidates.ravel()
        rows = {
            "history": (requests.history.rows, requests.history.items),
            "candidates": (np.repeat(np.arange(len(requests)), requests.candidates.shape[1]), flat),
        }
        for suffix, texts in self._columns:
            for name, (row, items) in rows.items():
                label = (name if not suffix else name.removesuffix("s")) + suffix
                listed = (
                    pl.DataFrame({"row": row, label: texts.gather(items)})
                    .group_by("row", maintain_order=True)
                    .agg(label)
                )
                columns[label] = listed[label]
        return pl.DataFrame(columns)


def read_scores(
    path: Path,
    requests: RequestSet,
    *,
    may_leave_unranked: bool = False,
    ignore_extra: bool = False,
) -> NDArray[np.float32]:
    """Read scores of another program and align them with requests.

    Columns: ``user_id``, ``item_id``, ``score`` (higher is better), in any order of rows.

    Args:
        path: CSV, TSV (also .gz) or Parquet.
        requests: what was exported.
        may_leave_unranked: candidates without a score (no row, or an empty cell) become NaN instead
            of an error.
        ignore_extra: rows for other users or items than the requests' are skipped instead of an error.

    Returns:
        float32, shape ``(n, c)``, rows and columns as in ``requests``.

    Raises:
        ProtocolError: users or candidates without a score, unknown or extra ones, repeated pairs, or
            scores that are not finite numbers.
    """
    domain = requests.domain
    table = _ScoreTable.read(path, domain, may_leave_unranked, ignore_extra)
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
    values = np.full((requests.n, requests.n_candidates), np.nan, dtype=np.float32)
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
                f"({int((~found[row]).sum())} of {requests.n_candidates} are missing). Score the "
                "exported candidates of this very task, or say that candidates may stay unranked."
            )
        values[start : start + len(part)][found] = table.scores[slots[found]]
        used[slots[found]] = True
        start += len(part)
    if not ignore_extra and not used.all():
        row = int(np.flatnonzero(~used)[0])
        user, item = divmod(int(table.keys[row]), domain.n_items)
        raise ProtocolError(
            f"{path}: {int((~used).sum())} scores are for items that are no candidates, for example user "
            f"{domain.user_ids[user]!r}, item {domain.items.ids[item]!r}. Score the exported candidates, "
            "or say that extra rows are to be ignored."
        )
    return values


class _ScoreTable:
    """Scores by (user, item) key, sorted."""

    def __init__(
        self, path: Path, domain: Domain, keys: NDArray[np.int64], scores: NDArray[np.float32]
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
        numbers = frame["score"].cast(pl.Float64, strict=False)
        scores = numbers.to_numpy().astype(np.float64)
        blank = frame["score"].is_null().to_numpy()
        with np.errstate(over="ignore"):
            narrow = scores.astype(np.float32)
        bad = ~np.isfinite(narrow) & ~(blank & may_leave)
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise ProtocolError(
                f"{path}: row {row + 1} of the data: score {frame['score'][row]!r} of user "
                f"{frame['user_id'][row]!r} is not a finite 32-bit number; {int(bad.sum())} rows are "
                "affected. Leave a candidate out only if it may stay unranked."
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
        return cls(path, domain, (users * domain.n_items + items)[known], narrow[kept][known])

    def refuse_users(self, bad: NDArray[np.bool_], what: str) -> None:
        """Raise if any row is bad, naming the first user."""
        if bad.any():
            extra = np.unique(self.users[bad])
            raise ProtocolError(
                f"{self._path}: {len(extra)} users {what}, for example "
                f"{self._domain.user_ids[int(extra[0])]!r}. Send scores of the exported users only, or "
                "say that extra rows are to be ignored."
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
