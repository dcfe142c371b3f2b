"""Candidate sets as files with one row per user and candidate, to bring or to take away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from bench.data.strings import StringColumn
from bench.errors import ProtocolError
from bench.io import StrPath
from bench.protocol.imported import CandidateTable, ImportedCandidates
from bench.protocol.tables import read_table, require_values, table_format, write_table
from bench.protocol.types import Split

if TYPE_CHECKING:
    import polars as pl

    from bench.protocol.task import Task

__all__ = ["export_candidates", "read_candidates"]

_CHUNK = 65536


def read_candidates(path: StrPath) -> ImportedCandidates:
    """Read candidate sets from CSV, TSV (also .gz) or Parquet.

    Columns: ``user_id``, ``item_id``, and optionally ``split`` (``valid`` or ``test``; all ``test``
    without it). One row per candidate, the held-out item among them; rows of a user may stand
    anywhere and in any order.

    Raises:
        ProtocolError: unreadable, a split unknown, users with different numbers of candidates; what
            only the domain can tell is checked by :func:`bench.protocol.build_task`.
    """
    import polars as pl

    path = Path(path)
    frame = read_table(path, ["user_id", "item_id"], ["split"])
    if not len(frame):
        raise ProtocolError(f"{path}: no rows; expected one per user and candidate.")
    if "split" not in frame.columns:
        frame = frame.with_columns(pl.lit("test").alias("split"))
    require_values(path, frame, "split")
    splits: tuple[Split, ...] = get_args(Split)
    bad = (~frame["split"].is_in(splits)).arg_true()
    if len(bad):
        row = int(bad[0])
        # Parquet has no lines; a text table has its header in the first.
        place = f"row {row + 1}" if table_format(path) == "parquet" else f"line {row + 2}"
        raise ProtocolError(
            f"{path}, {place}: split {frame['split'][row]!r}; expected "
            f"{' or '.join(repr(s) for s in splits)}. {len(bad)} rows are affected."
        )
    tables: dict[Split, CandidateTable] = {}
    for split in splits:
        part = frame.filter(pl.col("split") == split)
        if len(part):
            tables[split] = _table(path, part)
    return ImportedCandidates(tables, str(path))


def _table(path: Path, rows: pl.DataFrame) -> CandidateTable:
    rows = rows.sort("user_id", maintain_order=True)
    counts = rows.group_by("user_id", maintain_order=True).len()
    usual = int(counts["len"].mode().max())  # type: ignore[arg-type]
    odd = counts.filter(counts["len"] != usual)
    if len(odd):
        user, count = odd.row(0)
        raise ProtocolError(
            f"{path}: user {user!r} has {count} candidates, others have {usual}; {len(odd)} users differ. "
            "Every user needs the same number."
        )
    if usual < 2:
        raise ProtocolError(
            f"{path}: one candidate per user; expected the held-out item and at least one negative."
        )
    return CandidateTable(
        StringColumn.from_list(counts["user_id"].to_list()),
        StringColumn.from_list(rows["item_id"].to_list()),
        usual,
    )


def export_candidates(
    task: Task, path: StrPath, *, splits: tuple[Split, ...] = ("valid", "test")
) -> None:
    """Write the candidate sets of all evaluated users in the form that :func:`read_candidates` reads.

    The order of a user's rows says nothing about the label, and the file holds no labels.

    Raises:
        ProtocolError: the task ranks the whole catalogue, which needs no file.
    """
    import polars as pl

    if task.options.negatives == "full":
        raise ProtocolError(
            f"{task.target}: candidates are the whole catalogue; there are no sets to export."
        )
    users = task.subset(None)
    columns: dict[str, list[Any]] = {"split": [], "user_id": [], "item_id": []}
    for split in splits:
        requests = task.test(users) if split == "test" else task.validation_set(users)
        user_ids = pl.Series("user_id", requests.domain.user_ids.to_list())
        item_ids = pl.Series("item_id", requests.domain.items.ids.to_list())
        for part, _ in requests.chunks(_CHUNK):
            n_candidates = part.candidates.shape[1]
            columns["user_id"].append(user_ids.gather(np.repeat(part.users, n_candidates)))
            columns["item_id"].append(item_ids.gather(part.candidates.ravel()))
            columns["split"].append(pl.repeat(split, part.candidates.size, eager=True))
    write_table(Path(path), {name: pl.concat(parts) for name, parts in columns.items()})
