"""From raw tables to a :class:`~bench.data.domain.Domain`: pure functions, no I/O.

The order of steps is fixed and part of every result:

1. events sorted by time within a user; equal times by the tie rule;
2. of several events of one (user, item) pair the first is kept;
3. k-core: users and items with fewer than k events are dropped until nothing changes;
4. users and items numbered by the UTF-8 bytes of their raw id;
5. titles: HTML entities decoded, white space collapsed, placeholders if nothing is left.
"""

from __future__ import annotations

import hashlib
import html
import struct
from collections.abc import Mapping
from typing import Any, Literal, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.data.domain import Domain, Items, Sequences
from bench.data.raw import RawData
from bench.data.strings import StringColumn
from bench.errors import ConfigError, DataError

__all__ = [
    "Ties",
    "check_ties",
    "clean_text",
    "k_core_mask",
    "placeholder_title",
    "prepare",
    "tie_key",
]

Ties = Literal["file", "hash"]

_TIE_TAG = b"weavebench/ties/v1\0"
_NON_ASCII_SPACE = "\u00a0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000\ufeff"


def check_ties(ties: str) -> None:
    """Reject an unknown tie rule.

    Raises:
        ConfigError: neither ``file`` nor ``hash``.
    """
    if ties not in get_args(Ties):
        raise ConfigError(f"ties is {ties!r}; expected 'file' or 'hash' (option --ties).")


def placeholder_title(raw_id: str) -> str:
    """Title of an item that has none: ``Unknown item`` and 8 hex digits of its id's SHA-256."""
    return f"Unknown item {hashlib.sha256(raw_id.encode()).hexdigest()[:8]}"


def clean_text(column: pl.Expr) -> pl.Expr:
    """Decode HTML entities (once), collapse runs of white space to one blank, strip the ends."""
    decoded = (
        pl.when(column.str.contains("&", literal=True))
        .then(column.map_elements(html.unescape, return_dtype=pl.String))
        .otherwise(column)
        .fill_null("")
    )
    return decoded.str.replace_all(rf"[\s\x00-\x1f\x7f{_NON_ASCII_SPACE}]+", " ").str.strip_chars()


def tie_key(user: str, time: float, item: str) -> int:
    """64-bit key that orders events of one user and time under ``ties="hash"``.

    The first 8 bytes (big-endian) of SHA-256 over a tag, the user id, the time (IEEE double,
    little-endian) and the item id. It says nothing about the file order and does not depend on the
    other events.
    """
    message = _TIE_TAG + user.encode() + b"\0" + struct.pack("<d", time) + b"\0" + item.encode()
    return int.from_bytes(hashlib.sha256(message).digest()[:8], "big")


def k_core_mask(
    users: NDArray[np.integer], items: NDArray[np.integer], k: int | None
) -> NDArray[np.bool_]:
    """Mark the events of the k-core: the largest subset where every user and item has >= k events.

    Args:
        users: user of every event, shape ``(n,)``, values >= 0.
        items: item of every event, shape ``(n,)``, values >= 0.
        k: fewest events per user and per item; None or 1 keeps everything.

    Returns:
        bool, shape ``(n,)``. Found by dropping to a fixed point; the result does not depend on the
        order of dropping.
    """
    keep = np.ones(len(users), dtype=np.bool_)
    if k is None or k <= 1 or not len(users):
        return keep
    alive = np.arange(len(users))
    while len(alive):
        u, i = users[alive], items[alive]
        stays = (np.bincount(u)[u] >= k) & (np.bincount(i)[i] >= k)
        if stays.all():
            break
        alive = alive[stays]
    keep[:] = False
    keep[alive] = True
    return keep


def prepare(
    raw: RawData,
    *,
    name: str,
    k_core: int | None = None,
    ties: Ties = "file",
    namespace: str | None = None,
    group: str | None = None,
    provenance: Mapping[str, Any] | None = None,
    on_missing_item: Literal["raise", "placeholder"] = "raise",
) -> Domain:
    """Build a domain from raw tables.

    Args:
        raw: what a reader returned.
        name: name of the domain.
        k_core: fewest events per user and item; None keeps all.
        ties: order of one user's events of equal time: ``file`` (order of the source) or ``hash``
            (:func:`tie_key`, if the order of the source carries an artefact such as item codes).
        namespace: shared id space, or None.
        group: study group, or None.
        provenance: added to the counts that this function records.
        on_missing_item: what happens when the source promises a row for every item and one is
            missing: an error, or a placeholder that is counted.

    Raises:
        DataError: nothing is left after the k-core filter, or an item has no row.
        ConfigError: ``k_core`` or ``ties`` is out of range.
    """
    check_ties(ties)
    if k_core is not None and k_core < 1:
        raise ConfigError(f"k_core is {k_core}; expected None or a whole number of at least 1.")
    user_ids, users = _codes(raw.events["user"])
    item_ids, items = _codes(raw.events["item"])
    times = raw.events["time"].to_numpy()
    order = _chronological(users, items, times, user_ids, item_ids, ties)
    users, items, times = users[order], items[order], times[order]

    first = _first_of_pairs(users, items, len(item_ids))
    n_duplicates = int(len(first) - first.sum())
    users, items, times = users[first], items[first], times[first]

    keep = k_core_mask(users, items, k_core)
    if not keep.any():
        raise DataError(
            f"domain {name}: nothing is left of {len(keep)} events after the {k_core}-core filter; "
            f"expected users and items with at least {k_core} events each. "
            "Choose a smaller k (--k-core of `bench data import`), or use more data."
        )
    n_dropped = int(len(keep) - keep.sum())
    user_ids, users = _renumber(user_ids, users[keep])
    item_ids, items = _renumber(item_ids, items[keep])

    table, n_placeholders, n_missing = _items(raw, item_ids, name, on_missing_item)
    offsets = np.zeros(len(user_ids) + 1, dtype=np.int64)
    np.cumsum(np.bincount(users, minlength=len(user_ids)), out=offsets[1:])
    counts = {
        "events_read": raw.events.height,
        "duplicates_dropped": n_duplicates,
        "k_core_dropped": n_dropped,
        "placeholder_titles": n_placeholders,
        "items_without_row": n_missing + raw.items_without_row,
        "lines_skipped": dict(raw.skipped),
    }
    options = {"k_core": k_core, "ties": ties}
    return Domain(
        name=name,
        items=table,
        user_ids=StringColumn.from_list(user_ids.to_list()),
        sequences=Sequences(offsets, items.astype(np.int32)),
        timestamps=np.ascontiguousarray(times[keep], dtype=np.float64),
        namespace=namespace,
        group=group,
        provenance={**(provenance or {}), "options": options, "counts": counts},
    )


def _codes(column: pl.Series) -> tuple[pl.Series, NDArray[np.int64]]:
    """Distinct ids in canonical order (UTF-8 bytes, ascending) and the position of every row's."""
    ids = column.unique().sort().rename("id")
    table = ids.to_frame().with_row_index("code")
    codes = column.rename("id").to_frame().join(table, on="id", how="left", maintain_order="left")
    return ids, codes["code"].to_numpy().astype(np.int64)


def _renumber(ids: pl.Series, codes: NDArray[np.int64]) -> tuple[pl.Series, NDArray[np.int64]]:
    present = np.zeros(len(ids), dtype=np.bool_)
    present[codes] = True
    new = np.cumsum(present, dtype=np.int64) - 1
    return ids.filter(pl.Series(present)), new[codes]


def _chronological(
    users: NDArray[np.int64],
    items: NDArray[np.int64],
    times: NDArray[np.float64],
    user_ids: pl.Series,
    item_ids: pl.Series,
    ties: Ties,
) -> NDArray[np.int64]:
    order = np.lexsort((times, users))  # stable: equal times stay in file order
    if ties == "file":
        return order
    u, t = users[order], times[order]
    same = (u[1:] == u[:-1]) & (t[1:] == t[:-1])
    tied = np.zeros(len(order), dtype=np.bool_)
    tied[1:] |= same
    tied[:-1] |= same
    rows = order[tied]
    keys = np.zeros(len(users), dtype=np.uint64)
    names = zip(
        user_ids.gather(users[rows]).to_list(),
        times[rows].tolist(),
        item_ids.gather(items[rows]).to_list(),
        strict=True,
    )
    keys[rows] = np.fromiter(
        (tie_key(user, time, item) for user, time, item in names), dtype=np.uint64, count=len(rows)
    )
    return np.lexsort((keys, times, users))


def _first_of_pairs(
    users: NDArray[np.int64], items: NDArray[np.int64], n_items: int
) -> NDArray[np.bool_]:
    pairs = pl.Series(users * n_items + items)
    return pairs.is_first_distinct().to_numpy()


def _items(
    raw: RawData, item_ids: pl.Series, name: str, on_missing_item: str
) -> tuple[Items, int, int]:
    ids = item_ids.rename("item").to_frame()
    n_missing = 0
    if raw.items is None:
        table = ids.with_columns(pl.lit("").alias("title"))
    else:
        missing = ids.join(raw.items, on="item", how="anti")
        n_missing = missing.height
        if n_missing and raw.complete_items and on_missing_item == "raise":
            raise DataError(
                f"domain {name}: item {missing['item'][0]!r} of {raw.files[0].name} has no row in "
                f"{raw.files[-1].name} ({n_missing} such items); expected one row per item. "
                "Add the rows (an empty title is allowed), or give them placeholder titles: "
                "--on-error skip of `bench data import`, on_error='skip' in Python."
            )
        table = ids.join(raw.items, on="item", how="left", maintain_order="left")
    table = table.with_columns(clean_text(pl.col(c)) for c in table.columns if c != "item")
    titles = [
        title or placeholder_title(identifier)
        for identifier, title in table.select("item", "title").iter_rows()
    ]
    n_placeholders = int((table["title"] == "").sum())
    extra: dict[str, StringColumn] = {
        column: StringColumn.from_list(table[column].to_list())
        for column in ("brand", "category")
        if column in table.columns
    }
    columns = (StringColumn.from_list(table["item"].to_list()), StringColumn.from_list(titles))
    return Items(*columns, extra=extra, n_placeholders=n_placeholders), n_placeholders, n_missing
