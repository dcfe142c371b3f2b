"""Amazon product data 2014 (UCSD): 5-core reviews as JSON lines, metadata as Python-literal lines.

``reviews_X_5.json.gz`` holds one strict JSON object per line. ``meta_X.json.gz`` does not: its lines
are Python literals (single quotes), so they go through :func:`ast.literal_eval`, which evaluates no
expression. Metadata files list every product of a category (up to millions); only the lines of items
that have a review are parsed. Both files are streamed in blocks of lines.
"""

from __future__ import annotations

import ast
import json
import warnings
from collections.abc import Set
from pathlib import Path
from typing import Any, TypeGuard

import polars as pl

from bench.data.raw import (
    EVENT_SCHEMA,
    LineErrors,
    OnError,
    RawData,
    check_on_error,
    require_events,
)
from bench.data.readers.lines import iter_lines, numeric_time, open_source

__all__ = ["read_amazon", "read_meta", "read_reviews"]

_ASIN_FIRST = r"^\{'asin': '([^'\\]*)'"
_MAX_LITERAL = 4_000_000
_ITEM_SCHEMA = dict.fromkeys(("item", "title", "brand", "category"), pl.String)


def read_amazon(reviews: Path, meta: Path | None = None, *, on_error: OnError = "raise") -> RawData:
    """Read the pair of files of one category.

    Args:
        reviews: ``reviews_X_5.json.gz`` (or uncompressed): ``reviewerID``, ``asin``,
            ``unixReviewTime``; the other keys are ignored.
        meta: ``meta_X.json.gz`` (or uncompressed): ``asin``, ``title``, ``brand``, ``categories``;
            None: no titles. Items without a line get a placeholder later.
        on_error: what happens at a malformed line.

    Raises:
        DataError: a malformed line or a damaged file.
    """
    check_on_error(on_error)
    errors = LineErrors(str(reviews), on_error)
    events = read_reviews(reviews, errors)
    require_events(events, str(reviews))
    skipped = {reviews.name: errors.count}
    if meta is None:
        return RawData(events, None, (reviews,), skipped)
    errors = LineErrors(str(meta), on_error)
    items = read_meta(meta, errors, set(events["item"].unique().to_list()))
    skipped[meta.name] = errors.count
    return RawData(events, items, (reviews, meta), skipped)


def read_reviews(path: Path, errors: LineErrors) -> pl.DataFrame:
    """Read reviews: columns ``user``, ``item``, ``time``, in file order."""
    decoder = json.JSONDecoder(parse_constant=_no_constant)
    parts = []
    with open_source(path) as stream:
        for lines in iter_lines(stream, str(path)):
            rows = []
            for number, line in enumerate(lines.text.to_list(), lines.first):
                if line.strip():
                    row = _review(decoder, number, line, errors)
                    if row is not None:
                        rows.append(row)
            schema = {"line_number": pl.Int64, **EVENT_SCHEMA}
            parts.append(numeric_time(pl.DataFrame(rows, schema=schema, orient="row"), errors))
    return pl.concat(parts) if parts else pl.DataFrame(schema=EVENT_SCHEMA)


def _no_constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _review(
    decoder: json.JSONDecoder, number: int, line: str, errors: LineErrors
) -> tuple[int, str, str, float] | None:
    try:
        record = decoder.decode(line)
    except (ValueError, RecursionError):
        errors.report(number, line, "one JSON object")
        return None
    if not isinstance(record, dict):
        errors.report(number, line, "one JSON object")
        return None
    user, item = record.get("reviewerID"), record.get("asin")
    if not (_is_text(user) and _is_text(item)):
        errors.report(number, line, "texts under the keys 'reviewerID' and 'asin'")
        return None
    time = record.get("unixReviewTime")
    if isinstance(time, bool) or not isinstance(time, int | float):
        errors.report(number, repr(time), "a number under the key 'unixReviewTime'")
        return None
    return number, user, item, float(time)


def read_meta(path: Path, errors: LineErrors, wanted: Set[str]) -> pl.DataFrame:
    """Read metadata of the items ``wanted``: columns ``item``, ``title``, ``brand``, ``category``.

    An id with two lines keeps the first. ``category`` is the first category path, its levels
    joined by `` > ``.
    """
    rows: dict[str, tuple[str, str, str, str]] = {}
    needed = pl.DataFrame({"asin": sorted(wanted)}, schema={"asin": pl.String})
    with open_source(path) as stream, warnings.catch_warnings():
        # Texts hold backslashes that Python would warn about; they are data here.
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        for lines in iter_lines(stream, str(path)):
            frame = lines.text.to_frame("line").with_columns(
                (pl.int_range(pl.len(), dtype=pl.Int64) + lines.first).alias("number"),
                pl.col("line").str.extract(_ASIN_FIRST).alias("asin"),
            )
            frame = frame.filter(pl.col("line").str.strip_chars() != "")
            unknown = frame.filter(pl.col("asin").is_null())
            hits = frame.join(needed, on="asin", how="semi")
            candidates = pl.concat([unknown, hits]).sort("number").select("number", "line")
            for number, line in candidates.iter_rows():
                row = _product(number, line, errors)
                if row is not None and row[0] in wanted:
                    rows.setdefault(row[0], row)
    return pl.DataFrame(list(rows.values()), schema=_ITEM_SCHEMA, orient="row")


def _product(number: int, line: str, errors: LineErrors) -> tuple[str, str, str, str] | None:
    expected = "one Python literal of a dictionary with the key 'asin' (no expressions)"
    if len(line) > _MAX_LITERAL:
        errors.report(number, line, f"a line of at most {_MAX_LITERAL} characters")
        return None
    try:
        record: Any = ast.literal_eval(line)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        errors.report(number, line, expected)
        return None
    if not isinstance(record, dict) or not _is_text(record.get("asin")):
        errors.report(number, line, expected)
        return None
    texts = [record.get("title", ""), record.get("brand", "")]
    if not all(isinstance(text, str) for text in texts):
        errors.report(number, line, "texts under the keys 'title' and 'brand'")
        return None
    texts.append(_category(record.get("categories")))
    title, brand, category = (text.encode(errors="replace").decode() for text in texts)
    return record["asin"], title, brand, category


def _is_text(value: Any) -> TypeGuard[str]:
    """Whether a value is a text that UTF-8 can hold (an escape may name half a character)."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:
        return False
    return True


def _category(value: Any) -> str:
    """First path of a list of category paths, or "" where the form is another."""
    if isinstance(value, list) and value and isinstance(value[0], list):
        return " > ".join(level for level in value[0] if isinstance(level, str))
    return ""
