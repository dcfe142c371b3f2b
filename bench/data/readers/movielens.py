"""MovieLens data sets as GroupLens ships them: a zip file or the unpacked folder.

========== ============================ ================= ===========================
data set   ratings                      movies            encoding
========== ============================ ================= ===========================
100K       ``u.data``, tabs             ``u.item``, ``|`` Latin-1
1M         ``ratings.dat``, ``::``      ``movies.dat``    Latin-1 (has ``users.dat``)
10M        ``ratings.dat``, ``::``      ``movies.dat``    UTF-8
20M, later ``ratings.csv``              ``movies.csv``    UTF-8, quoted titles
========== ============================ ================= ===========================

Ratings are read as events whatever their value.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
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
from bench.data.readers.archive import Place, open_place
from bench.data.readers.base import Files, Reader
from bench.data.readers.delimited import Columns, Dialect, read_delimited
from bench.data.readers.rows import events_of, items_of
from bench.errors import DataError

__all__ = ["MovieLens", "find_movielens", "is_movielens", "read_movielens", "source_files"]

_PAIRS = (("u.data", "u.item"), ("ratings.dat", "movies.dat"), ("ratings.csv", "movies.csv"))
_RATINGS = tuple(ratings for ratings, _ in _PAIRS)
_NAMES = frozenset((*(name for pair in _PAIRS for name in pair), "users.dat"))
_GENRES_100K = (
    "unknown",
    "Action",
    "Adventure",
    "Animation",
    "Children's",
    "Comedy",
    "Crime",
    "Documentary",
    "Drama",
    "Fantasy",
    "Film-Noir",
    "Horror",
    "Musical",
    "Mystery",
    "Romance",
    "Sci-Fi",
    "Thriller",
    "War",
    "Western",
)


@dataclass(frozen=True, slots=True)
class _Layout:
    ratings: str
    movies: str
    separator: str
    encoding: str


def _layout(place: Place) -> _Layout:
    has = place.members
    if "u.data" in has:
        layout = _Layout("u.data", "u.item", "\t", "latin-1")
    elif "ratings.dat" in has:
        layout = _Layout(
            "ratings.dat", "movies.dat", "::", "latin-1" if "users.dat" in has else "utf-8"
        )
    elif "ratings.csv" in has:
        layout = _Layout("ratings.csv", "movies.csv", ",", "utf-8")
    else:
        raise DataError(
            f"{place.path}: no MovieLens ratings found; expected u.data (100K), ratings.dat (1M, "
            "10M) or ratings.csv (20M and later). Give the zip file or the unpacked folder."
        )
    if layout.movies not in has:
        raise DataError(
            f"{place.path}: {layout.ratings} is there but {layout.movies} is missing; expected both. "
            "Download the data set again."
        )
    return layout


def find_movielens(folder: Path, name: str) -> Path | None:
    """Return the zip file or the folder with MovieLens files below ``folder``, or None."""
    for candidate in (folder, folder / name):
        if any((candidate / ratings).is_file() for ratings in _RATINGS):
            return candidate
    archive = folder / f"{name}.zip"
    return archive if archive.is_file() else None


def is_movielens(path: Path) -> bool:
    """Whether a folder or zip file holds ratings and movies of MovieLens.

    Raises:
        DataError: a zip file that cannot be read.
    """
    if not path.is_dir() and path.suffix != ".zip":
        return False
    members = open_place(path, _NAMES).members
    return any({ratings, movies} <= members.keys() for ratings, movies in _PAIRS)


class MovieLens(Reader):
    """A MovieLens folder or .zip, 100K to 32M, with its titles."""

    def recognises(self, path: Path) -> bool:
        return is_movielens(path)

    def read(self, files: Files) -> RawData:
        files.refuse_table_options(titles_inside=True)
        asked = files.reading
        return read_movielens(files.inter[0], encoding=asked.encoding, on_error=asked.on_error)


def source_files(place: Path) -> tuple[Path, ...]:
    """All files under ``place`` that decide what :func:`read_movielens` returns."""
    if place.is_file():
        return (place,)
    return tuple(place / name for name in sorted(_NAMES) if (place / name).is_file())


def read_movielens(
    path: Path, *, encoding: str | None = None, on_error: OnError = "raise"
) -> RawData:
    """Read any MovieLens data set.

    Args:
        path: the zip file, or the folder with its files.
        encoding: text encoding; None: that of the release (see above).
        on_error: what happens at a malformed line.

    Raises:
        DataError: no MovieLens files, a damaged archive or a malformed line.
    """
    check_on_error(on_error)
    place = open_place(path, _NAMES)
    layout = _layout(place)
    if encoding is not None:
        layout = replace(layout, encoding=encoding)
    ratings = LineErrors(place.label(layout.ratings), on_error)
    names = ("userId", "movieId", "rating", "timestamp")
    picks = [("user", 0), ("item", 1), ("time", 3)]
    events = _read(
        place,
        layout,
        layout.ratings,
        names,
        picks,
        ratings,
        lambda frame: events_of(frame, ratings),
    )
    require_events(events, ratings.file, ratings.count)
    movies = LineErrors(place.label(layout.movies), on_error)
    items = _movies(place, layout, movies)
    skipped = skipped_lines(ratings, movies)
    return RawData(events, items, source_files(path), skipped, complete_items=True)


def _read(
    place: Place,
    layout: _Layout,
    member: str,
    names: tuple[str, ...],
    picks: list[tuple[str, int]],
    errors: LineErrors,
    each: Callable[[pl.DataFrame], pl.DataFrame] = lambda frame: frame,
) -> pl.DataFrame:
    is_csv = layout.separator == ","

    def choose(first: list[str], _: list[list[str]], __: Dialect) -> Columns:
        if is_csv and tuple(first) != names:
            raise DataError(
                f"{errors.file}, line 1: found the header {','.join(first)!r}; expected "
                f"{','.join(names)!r}. Check that this is the official file; other tables are named "
                "themselves, not by their folder: bench data import NAME FILE"
            )
        return Columns(picks, len(names), header=is_csv)

    separator = "|" if member == "u.item" else layout.separator
    dialect = Dialect(separator, "csv" if is_csv else "none", is_csv, layout.encoding)
    with place.open(member) as stream:
        return read_delimited(stream, dialect, choose, errors, each=each)


def _movies(place: Place, layout: _Layout, errors: LineErrors) -> pl.DataFrame:
    """Movies with their genres: one 0/1 column per genre in 100K, else a list split at ``|``."""
    names: tuple[str, ...] = ("movieId", "title", "genres")
    picks = [("item", 0), ("title", 1), ("genres", 2)]
    if layout.movies == "u.item":
        names = ("movieId", "title", "date", "video date", "address", *_GENRES_100K)
        picks = [("item", 0), ("title", 1), *((g, at) for at, g in enumerate(_GENRES_100K, 5))]
    frame = _read(place, layout, layout.movies, names, picks, errors)
    if layout.movies == "u.item":
        flagged = (pl.when(pl.col(g) == "1").then(pl.lit(g)) for g in _GENRES_100K)
        category = pl.concat_str(*flagged, separator=" ", ignore_nulls=True)
    else:
        category = (
            pl.col("genres")
            .replace("(no genres listed)", "")
            .str.replace_all("|", " ", literal=True)
        )
    columns = ("line_number", "item", "title", category.alias("category"))
    return items_of(frame.select(*columns), errors, what="movie")
