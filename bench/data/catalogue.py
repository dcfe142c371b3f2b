"""What the harness knows about public data sets: official address, terms, files, expected counts.

Nothing here is read from the network. Sizes and SHA-256 are given if a trustworthy source states
them (MovieLens: the checksum list of TensorFlow Datasets); elsewhere a download is checked against
the size that the server announces, and its counts against ``expected``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from bench.errors import unknown_name

__all__ = [
    "CATALOGUE",
    "GROUPS",
    "CatalogueEntry",
    "Counts",
    "RemoteFile",
    "entry",
    "namespace_members",
]

SourceKind = Literal["amazon-2014", "movielens", "embedded"]


@dataclass(frozen=True, slots=True)
class Counts:
    """Users, items and events of a prepared domain."""

    users: int
    items: int
    events: int


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One official file.

    Attributes:
        name: file name on disk and last part of the address.
        url: official address.
        size: bytes, or None if no source states it.
        sha256: 64 hex digits, or None if no source states it.
    """

    name: str
    url: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One known domain.

    Attributes:
        name: name on the command line.
        title: name for people.
        group: study group, or None.
        namespace: id space that this domain shares with others in reality, or None.
        kind: which reader understands the official files.
        homepage: official page with description and terms.
        terms: the terms of use in one sentence.
        files: official files; empty for embedded domains.
        k_core: users and items with fewer events are dropped, repeatedly; None keeps all.
        expected: counts after preparation; the paper's Table 5 for its six domains.
        note: what a reader of the counts must know; may be empty.
        genre: embedded domains: the first-listed genre that selects the items.
    """

    name: str
    title: str
    group: str | None
    namespace: str | None
    kind: SourceKind
    homepage: str
    terms: str
    files: tuple[RemoteFile, ...] = ()
    k_core: int | None = None
    expected: Counts | None = None
    note: str = ""
    genre: str | None = None

    @property
    def urls(self) -> tuple[str, ...]:
        """Official addresses of all files."""
        return tuple(file.url for file in self.files)


_AMAZON_HOME = "https://jmcauley.ucsd.edu/data/amazon/"
_AMAZON_FILES = "https://snap.stanford.edu/data/amazon/productGraph/categoryFiles/"
_AMAZON_TERMS = (
    "UCSD McAuley lab, Amazon product data 2014: for research; cite He and McAuley (WWW 2016) and "
    "McAuley et al. (SIGIR 2015). The reviews belong to their authors; do not redistribute."
)
_GROUPLENS_HOME = "https://grouplens.org/datasets/movielens/"
_GROUPLENS_FILES = "https://files.grouplens.org/datasets/movielens/"
_GROUPLENS_TERMS = (
    "GroupLens, MovieLens: research use with acknowledgement (Harper and Konstan 2015); no "
    "redistribution and no commercial use without permission."
)


def _amazon(
    short: str,
    category: str,
    title: str,
    group: str,
    counts: tuple[int, int, int],
    note: str = "",
) -> CatalogueEntry:
    names = (f"reviews_{category}_5.json.gz", f"meta_{category}.json.gz")
    return CatalogueEntry(
        name=f"amazon-{short}",
        title=title,
        group=group,
        namespace="amazon-2014",
        kind="amazon-2014",
        homepage=_AMAZON_HOME,
        terms=_AMAZON_TERMS,
        files=tuple(RemoteFile(name, _AMAZON_FILES + name) for name in names),
        k_core=5,
        expected=Counts(*counts),
        note=note,
    )


def _movielens(
    name: str,
    title: str,
    size: int,
    sha256: str,
    counts: tuple[int, int, int],
    *,
    group: str | None = None,
    note: str = "",
) -> CatalogueEntry:
    file = RemoteFile(f"{name}.zip", f"{_GROUPLENS_FILES}{name}.zip", size, sha256)
    return CatalogueEntry(
        name=name,
        title=title,
        group=group,
        namespace=None,
        kind="movielens",
        homepage=_GROUPLENS_HOME,
        terms=_GROUPLENS_TERMS,
        files=(file,),
        k_core=None,
        expected=Counts(*counts),
        note=note,
    )


def _embedded(genre: str, counts: tuple[int, int, int]) -> CatalogueEntry:
    return CatalogueEntry(
        name=f"ml100k-{genre.lower()}",
        title=f"MovieLens 100K, {genre}",
        group="ml100k",
        namespace=None,
        kind="embedded",
        homepage=_GROUPLENS_HOME + "100k/",
        terms=_GROUPLENS_TERMS,
        k_core=5,
        expected=Counts(*counts),
        note=(
            f"Movies whose first-listed genre is {genre}. The three embedded domains share nearly "
            "all users: good for trying things, not for claims about transfer."
        ),
        genre=genre,
    )


_ENTRIES = (
    _amazon(
        "sports",
        "Sports_and_Outdoors",
        "Amazon 2014, Sports and Outdoors",
        "amazon-4",
        (35598, 18357, 296337),
    ),
    _amazon("beauty", "Beauty", "Amazon 2014, Beauty", "amazon-4", (22363, 12101, 198502)),
    _amazon(
        "clothing",
        "Clothing_Shoes_and_Jewelry",
        "Amazon 2014, Clothing, Shoes and Jewelry",
        "amazon-4",
        (39387, 23033, 278677),
    ),
    _amazon(
        "food",
        "Grocery_and_Gourmet_Food",
        "Amazon 2014, Grocery and Gourmet Food",
        "amazon-4",
        (14681, 8713, 151254),
    ),
    _amazon(
        "toys", "Toys_and_Games", "Amazon 2014, Toys and Games", "toys-ml", (19412, 11924, 167597)
    ),
    _movielens(
        "ml-1m",
        "MovieLens 1M",
        5917549,
        "a6898adb50b9ca05aa231689da44c217cb524e7ebd39d264c56e2832f2c54e20",
        (6040, 3706, 1000209),
        group="toys-ml",
        note=(
            "No k-core filter. The paper's Table 5 prints 6,883 items, which fits no version of the "
            "data: 3,706 movies have a rating (3,883 have a title); with 1,000,209 events the data "
            "cannot be 5-core filtered either (that leaves 3,416 movies and 999,611 events)."
        ),
    ),
    _movielens(
        "ml-100k",
        "MovieLens 100K",
        4924029,
        "50d2a982c66986937beb9ffb3aa76efe955bf3d5c6b761f4e3a7cd717c6a3229",
        (943, 1682, 100000),
    ),
    _movielens(
        "ml-20m",
        "MovieLens 20M",
        198702078,
        "96f243c338a8665f6bcc89c53edf6ee39162a846940de6b7c8c48aeada765ff3",
        (138493, 26744, 20000263),
    ),
    _movielens(
        "ml-25m",
        "MovieLens 25M",
        261978986,
        "8b21cfb7eb1706b4ec0aac894368d90acf26ebdfb6aced3ebd4ad5bd1eb9c6aa",
        (162541, 59047, 25000095),
    ),
    _embedded("Drama", (874, 392, 26534)),
    _embedded("Comedy", (778, 347, 22162)),
    _embedded("Action", (846, 221, 25268)),
)

CATALOGUE: dict[str, CatalogueEntry] = {e.name: e for e in _ENTRIES}
"""Every known domain by name; the paper's six first."""

GROUPS: dict[str, tuple[str, ...]] = {
    group: tuple(e.name for e in _ENTRIES if e.group == group)
    for group in ("amazon-4", "toys-ml", "ml100k")
}
"""Study groups: domains that serve as sources for one another."""


def entry(name: str) -> CatalogueEntry:
    """Return the catalogue entry ``name``.

    Raises:
        ConfigError: no such entry; the message lists near names.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise unknown_name("domain", name, CATALOGUE) from None


def namespace_members(namespace: str | None) -> tuple[str, ...]:
    """Names of the catalogue's domains whose user and item ids share ``namespace``."""
    if namespace is None:
        return ()
    return tuple(sorted(e.name for e in _ENTRIES if e.namespace == namespace))
