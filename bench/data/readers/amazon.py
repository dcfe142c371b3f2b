"""Amazon product data 2014 (UCSD): 5-core reviews as JSON lines, metadata as Python-literal lines.

Metadata files list every product of a category (up to millions); of lines in the form of 2014 only
those of items that have a review are parsed. Lines of strict JSON (the release of 2018) are read too.
"""

from __future__ import annotations

from collections.abc import Set
from pathlib import Path

import polars as pl

from bench.data.raw import (
    LineErrors,
    OnError,
    RawData,
    check_on_error,
    require_events,
    skipped_lines,
)
from bench.data.readers.records import Fields, read_records
from bench.data.readers.rows import events_of

__all__ = ["read_amazon", "read_meta", "read_reviews"]


def read_amazon(reviews: Path, meta: Path | None = None, *, on_error: OnError = "raise") -> RawData:
    """Read the pair of files of one category.

    Args:
        reviews: ``reviews_X_5.json.gz`` (or uncompressed): ``reviewerID``, ``asin``,
            ``unixReviewTime``; the other keys are ignored.
        meta: ``meta_X.json.gz`` (or uncompressed): ``asin``, ``title``, ``brand``, ``categories``
            (2018: ``category``); None: no titles. Items without a line get a placeholder later.
        on_error: what happens at a malformed line.

    Raises:
        DataError: a malformed line or a damaged file.
    """
    check_on_error(on_error)
    errors = [LineErrors(str(reviews), on_error)]
    events = read_reviews(reviews, errors[0])
    require_events(events, str(reviews), errors[0].count)
    if meta is None:
        return RawData(events, None, (reviews,), skipped_lines(*errors))
    errors.append(LineErrors(str(meta), on_error))
    items = read_meta(meta, errors[1], set(events["item"].unique().to_list()))
    return RawData(events, items, (reviews, meta), skipped_lines(*errors))


def read_reviews(path: Path, errors: LineErrors) -> pl.DataFrame:
    """Read reviews: columns ``user``, ``item``, ``time``, in file order."""
    keys = {"user": "reviewerID", "item": "asin", "time": "unixReviewTime"}
    return events_of(read_records(path, Fields(keys, strict=True, literals=False), errors), errors)


def read_meta(path: Path, errors: LineErrors, wanted: Set[str]) -> pl.DataFrame:
    """Read metadata of the items ``wanted``: columns ``item``, ``title``, ``brand``, ``category``.

    An id with two lines keeps the first. ``category`` is the first category path, its levels
    joined by `` > ``.
    """
    keys = {
        "item": "asin",
        "title": "title",
        "brand": "brand",
        "category": "categories",
        "flat": "category",
    }
    needed = sorted(wanted)
    frame = read_records(path, Fields(keys, strict=True), errors, items=needed)
    path_2018 = pl.when(pl.col("category") == "").then("flat").otherwise("category")
    frame = frame.filter(pl.col("item").is_in(needed)).unique(
        "item", keep="first", maintain_order=True
    )
    return frame.select("item", "title", "brand", path_2018.alias("category"))
