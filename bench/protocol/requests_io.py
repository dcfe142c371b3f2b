"""Requests for models that run elsewhere: raw user id, history and candidates, no label."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.errors import ProtocolError
from bench.io import write_json
from bench.protocol.types import Requests

if TYPE_CHECKING:
    import polars as pl

    from bench.data.domain import Domain
    from bench.protocol.task import RequestSet, Task

__all__ = ["export_requests", "meta_path"]

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
