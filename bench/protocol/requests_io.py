"""Data for models that run elsewhere: requests by raw id without labels, and what may be trained on."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from bench.errors import ProtocolError
from bench.io import StrPath, write_json
from bench.partial import atomic_file
from bench.protocol.types import DomainView, Requests

if TYPE_CHECKING:
    import polars as pl

    from bench.data.domain import Domain, Sequences
    from bench.protocol.task import RequestSet, Task

__all__ = [
    "export_requests",
    "export_training",
    "export_validation",
    "meta_path",
    "training_path",
]

_CHUNK = 16384

TEST_NOTE = (
    "A history ends with the user's validation item, so whoever holds these requests knows every "
    "validation label. Models may be chosen by it; it may be trained on only if train_on is train+valid. "
    "The held-out test item is one of the candidates, in a place that says nothing."
)
VALID_NOTE = (
    "No labels: the validation item of a user is the last one of the user's test history, and one of these "
    "candidates. It is for choosing among models, not for training (unless train_on is train+valid)."
)
TRAINING_NOTE = (
    "All that a method may train on, oldest first: without held-out events, and without events that are "
    "held out in another domain of the same id space. Users are not matched across domains."
)


def meta_path(path: Path) -> Path:
    """Where an exported file is described: its name plus ``.meta.json``."""
    return path.with_name(path.name + ".meta.json")


def training_path(path: Path) -> Path:
    """Where the training rows beside exported requests stand: ``NAME.training.jsonl``."""
    return path.with_name(f"{path.stem}.training{path.suffix}")


def export_requests(
    task: Task, requests: RequestSet, path: StrPath, *, titles: bool = False
) -> dict[str, Any]:
    """Write requests as JSON lines (``.jsonl``) or Parquet (``.parquet``), one row per request.

    Columns: ``user_id``, ``history`` (raw item ids, oldest first), ``candidates`` (raw item ids in an
    order that says nothing of the label), with ``titles`` also ``history_titles`` and
    ``candidate_titles``. A sibling ``.meta.json`` names the task, so that scores can be checked later, and
    says what the requests give away.

    Args:
        task: the task that made ``requests``.
        requests: from :meth:`Task.test` or :meth:`Task.validation_set`.
        path: the file.
        titles: whether titles are written beside the ids.

    Returns:
        The content of the ``.meta.json`` file.

    Raises:
        ProtocolError: unknown ending, or requests over the whole catalogue.
        OSError: it cannot be written.
    """
    parts = (part for part, _ in requests.chunks(_CHUNK))
    note = TEST_NOTE if requests.split == "test" else VALID_NOTE
    meta = _meta(task, requests.split, requests.candidates_hash, requests.users, note)
    return _write_requests(
        Path(path), meta, parts, requests.domain, requests.n_candidates, requests.is_full, titles
    )


def export_validation(
    task: Task, users: NDArray[np.integer], path: StrPath, *, titles: bool = False
) -> dict[str, Any]:
    """Write the validation requests that a method sees while it fits, as :func:`export_requests` does.

    Their histories are guarded, and users whose validation event is a test event of another domain are
    left out.

    Args:
        task: the task.
        users: canonical indices of evaluated users; others are left out.
        path: the file.
        titles: whether titles are written beside the ids.
    """
    view = task.train_view(with_sources=False).target.validation
    shown = view.take(np.flatnonzero(np.isin(view.users, users)))
    meta = _meta(task, "valid", task.validation_hash, shown.users, VALID_NOTE)
    full = task.options.negatives == "full"
    width = int(shown.candidates.shape[1])
    return _write_requests(
        Path(path), meta, shown.chunks(_CHUNK), task.domains[0], width, full, titles
    )


def export_training(task: Task, path: StrPath, *, titles: bool = False) -> dict[str, Any]:
    """Write the guarded training events of the target and of the task's sources, one row per user.

    Columns: ``domain``, ``user_id``, ``history`` (raw item ids, oldest first), ``timestamps`` (in the
    data's own unit), with ``titles`` also ``history_titles``. Users without training events have no row.
    A sibling ``.meta.json`` names task, hashes and counts.

    Args:
        task: the task, built with the sources that are to be written.
        path: a name ending in ``.jsonl`` or ``.parquet``.
        titles: whether titles are written beside the ids.

    Returns:
        The content of the ``.meta.json`` file.

    Raises:
        ProtocolError: unknown ending.
    """
    path = Path(path)
    view = task.train_view(with_sources=True)
    domains = {domain.name: domain for domain in task.domains}
    views = (view.target, *view.sources)
    _write(path, (_training_frame(one, domains[one.name], titles) for one in views))
    meta = {
        "format": "weavebench.training.v1",
        "target": task.target,
        "task_hash": task.task_hash,
        "train_on": task.options.train_on,
        "guard": task.guard,
        "domains": {
            one.name: {
                "role": "target" if one is view.target else "source",
                "training_hash": one.training_hash,
                "n_users": int((one.sequences.lengths > 0).sum()),
                "n_events": len(one.sequences.items),
            }
            for one in views
        },
        "note": TRAINING_NOTE,
    }
    write_json(meta_path(path), meta)
    return meta


def _meta(
    task: Task, split: str, candidates_hash: str, users: NDArray[np.integer], note: str
) -> dict[str, Any]:
    return {
        "format": "weavebench.requests.v1",
        "target": task.target,
        "split": split,
        "task_hash": task.task_hash,
        "candidates_hash": candidates_hash,
        "users_hash": task.users_hash(users),
        "n_requests": len(users),
        "train_on": task.options.train_on,
        "note": note,
    }


def _write_requests(
    path: Path,
    meta: dict[str, Any],
    parts: Iterable[Requests],
    domain: Domain,
    n_candidates: int,
    is_full: bool,
    titles: bool,
) -> dict[str, Any]:
    if is_full:
        raise ProtocolError(
            f"{domain.name}: requests over the whole catalogue hold {n_candidates} candidates each and are "
            "not exported. Use `--negatives uniform`."
        )
    meta = {**meta, "n_candidates": n_candidates}
    texts = _Texts(domain, titles)
    _write(path, (texts.requests(part) for part in parts))
    write_json(meta_path(path), meta)
    return meta


def _write(path: Path, frames: Iterator[pl.DataFrame]) -> None:
    """Write frames one below the other, complete or not at all."""
    import polars as pl

    if path.suffix not in (".jsonl", ".parquet"):
        raise ProtocolError(f"{path}: expected a name ending in .jsonl or .parquet.")
    with atomic_file(path) as stream:
        if path.suffix == ".parquet":
            # Polars has errors of its own for a full disk; what is written from memory has the system's.
            content = io.BytesIO()
            pl.concat(frames).write_parquet(content)
            stream.write(content.getbuffer())
            return
        for frame in frames:
            for row in frame.iter_rows(named=True):
                stream.write(json.dumps(row, ensure_ascii=False).encode() + b"\n")


def _training_frame(view: DomainView, domain: Domain, titles: bool) -> pl.DataFrame:
    """One row per user with training events."""
    import polars as pl

    texts = _Texts(domain, titles)
    kept = np.flatnonzero(view.sequences.lengths > 0)
    lists = texts.lists("history", view.sequences)
    times = domain.timestamps[:0] if view.timestamps is None else view.timestamps
    return pl.DataFrame(
        {
            "domain": pl.Series([view.name] * len(kept), dtype=pl.String),
            "user_id": texts.users.gather(view.users[kept]),
            "history": lists["history"],
            "timestamps": _lists(view.sequences.rows, pl.Series(times)),
            **{name: column for name, column in lists.items() if name != "history"},
        }
    )


def _lists(rows: NDArray[np.int64], values: pl.Series) -> pl.Series:
    """The values of each row as a list, in order of the rows; rows without values have none."""
    import polars as pl

    frame = pl.DataFrame({"row": rows, "value": values})
    return frame.group_by("row", maintain_order=True).agg("value")["value"]


class _Texts:
    """Turns indices into raw ids and titles."""

    def __init__(self, domain: Domain, titles: bool) -> None:
        import polars as pl

        self.users = pl.Series(domain.user_ids.to_list(), dtype=pl.String)
        self._columns = {"": pl.Series(domain.items.ids.to_list(), dtype=pl.String)}
        if titles:
            self._columns["_titles"] = pl.Series(domain.items.titles.to_list(), dtype=pl.String)

    def lists(self, name: str, items: Sequences) -> dict[str, pl.Series]:
        """Items as lists of ids, and of titles if they are asked for, by column."""
        return {
            (name if not suffix else name.removesuffix("s")) + suffix: _lists(
                items.rows, texts.gather(items.items)
            )
            for suffix, texts in self._columns.items()
        }

    def requests(self, requests: Requests) -> pl.DataFrame:
        """One row per request."""
        import polars as pl

        width = requests.candidates.shape[1]
        offsets = np.arange(len(requests) + 1, dtype=np.int64) * width
        candidates = type(requests.history)(offsets, requests.candidates.ravel())
        history = self.lists("history", requests.history)
        listed = self.lists("candidates", candidates)
        columns = {"user_id": self.users.gather(requests.users)}
        for (name, column), (other, candidate_column) in zip(
            history.items(), listed.items(), strict=True
        ):
            columns |= {name: column, other: candidate_column}
        return pl.DataFrame(columns)
