"""Layouts of well-known public data sets: which column holds what, so that one command imports them.

A layout with names is taken only if the file has all of its columns; one without a header only if
nearly all of the first rows look as it says. Whichever is taken is said in the output.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

__all__ = [
    "EVENT_LAYOUTS",
    "HEADERLESS",
    "HEADERLESS_ITEMS",
    "ITEM_LAYOUTS",
    "Headerless",
    "Layout",
]

_ENOUGH = 0.95


@dataclass(frozen=True, slots=True)
class Layout:
    """Names of columns (keys of records) by role; ``time`` None: the order of rows.

    Attributes:
        name: how the output calls it.
        columns: role -> column; all must be in the file.
        optional: role -> column, taken if it is there.
    """

    name: str
    columns: Mapping[str, str | None]
    optional: Mapping[str, str] = field(default_factory=dict)


def _events(name: str, user: str, item: str, time: str | None) -> Layout:
    return Layout(name, {"user": user, "item": item, "time": time})


def _items(name: str, item: str, title: str, **optional: str) -> Layout:
    return Layout(name, {"item": item, "title": title}, optional)


EVENT_LAYOUTS = (
    _events("Amazon reviews 2023", "user_id", "parent_asin", "timestamp"),
    _events("Amazon reviews 2014 or 2018", "reviewerID", "asin", "unixReviewTime"),
    _events("Steam reviews", "username", "product_id", "date"),
    _events("Yelp reviews", "user_id", "business_id", "date"),
    _events("H&M transactions", "customer_id", "article_id", "t_dat"),
    _events("MovieLens ratings", "userId", "movieId", "timestamp"),
    _events("KuaiRec", "user_id", "video_id", "timestamp"),
    _events("Book-Crossing ratings", "User-ID", "ISBN", None),
)

ITEM_LAYOUTS = (
    _items("Amazon metadata 2023", "parent_asin", "title", brand="store", category="categories"),
    _items("Amazon metadata 2018", "asin", "title", brand="brand", category="category"),
    _items("Amazon metadata 2014", "asin", "title", brand="brand", category="categories"),
    _items("Steam games", "id", "app_name"),
    _items("Yelp businesses", "business_id", "name", category="categories"),
    _items("H&M articles", "article_id", "prod_name", category="product_type_name"),
    _items("MovieLens movies", "movieId", "title", category="genres"),
    _items("Book-Crossing books", "ISBN", "Book-Title"),
)


@dataclass(frozen=True, slots=True)
class Headerless:
    """A table without a header, known by its values.

    Attributes:
        name: how the output calls it.
        patterns: one regular expression per column, for whole fields.
        columns: role -> number of the column, from 1; no ``time``: the order of rows.
        time_format: strftime directives of the times, or None.
    """

    name: str
    patterns: tuple[str, ...]
    columns: Mapping[str, int]
    time_format: str | None = None

    def fits(self, first: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
        """Whether the first row, and nearly all of some rows below it, look like this layout."""
        forms = [re.compile(pattern) for pattern in self.patterns]

        def fit(row: Sequence[str]) -> bool:
            cells = [cell.strip() for cell in row]
            return len(cells) == len(forms) and all(map(re.Pattern.fullmatch, forms, cells))

        return fit(first) and sum(map(fit, rows)) >= _ENOUGH * len(rows)


_ASIN, _REVIEWER = r"[0-9B][0-9A-Z]{9}", r"A[0-9A-Z]{9,}"
_NUMBER, _UNIX = r"-?\d+(\.\d+)?", r"\d{8,10}"
_ISO = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"
_MIND_TIME = r"\d+/\d+/\d{4} \d+:\d\d:\d\d [AP]M"

HEADERLESS = (
    Headerless(
        "Amazon ratings in the order of 2018: item, user, rating, time",
        (_ASIN, _REVIEWER, _NUMBER, _UNIX),
        {"item": 1, "user": 2, "time": 4},
    ),
    Headerless(
        "Amazon ratings in the order of 2014: user, item, rating, time",
        (_REVIEWER, _ASIN, _NUMBER, _UNIX),
        {"user": 1, "item": 2, "time": 4},
    ),
    Headerless(
        "check-ins of Gowalla or Brightkite: user, time, latitude, longitude, place",
        (r"\d+", _ISO, _NUMBER, _NUMBER, r"\S+"),
        {"user": 1, "time": 2, "item": 5},
    ),
    Headerless(
        "MovieLens u.data: user, item, rating, time",
        (r"\d+", r"\d+", r"[0-5](\.\d+)?", _UNIX),
        {"user": 1, "item": 2, "time": 4},
    ),
    Headerless(
        "'user item' lines, oldest first",
        (r"\d+", r"\d+"),
        {"user": 1, "item": 2},
    ),
    Headerless(
        "MIND behaviors: the history of a user, then the clicked news of every impression",
        (r"\d+", r"U\d+", _MIND_TIME, r"(N\d+ ?)*", r"(N\d+-[01] ?)+"),
        {"user": 2, "time": 3, "history": 4, "impressions": 5},
        "%m/%d/%Y %I:%M:%S %p",
    ),
)

HEADERLESS_ITEMS = (
    Headerless(
        "MIND news",
        (r"N\d+", r"\S*", r"\S*", r".*", r".*", r".*", r".*", r".*"),
        {"item": 1, "category": 2, "title": 4},
    ),
)
