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

import csv
import io
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from bench.data.raw import (
    EVENT_SCHEMA,
    LineErrors,
    OnError,
    RawData,
    check_on_error,
    require_events,
)
from bench.data.readers.archive import Place, open_place
from bench.data.readers.lines import iter_lines, numeric_time, split_fields
from bench.errors import DataError

__all__ = ["find_movielens", "read_movielens", "source_files"]

_RATINGS = ("u.data", "ratings.dat", "ratings.csv")
_NAMES = frozenset((*_RATINGS, "u.item", "movies.dat", "users.dat", "movies.csv"))
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


def source_files(place: Path) -> tuple[Path, ...]:
    """All files under ``place`` that decide what :func:`read_movielens` returns."""
    if place.is_file():
        return (place,)
    return tuple(place / name for name in sorted(_NAMES) if (place / name).is_file())


def read_movielens(path: Path, *, on_error: OnError = "raise") -> RawData:
    """Read any MovieLens data set.

    Args:
        path: the zip file, or the folder with its files.
        on_error: what happens at a malformed line.

    Raises:
        DataError: no MovieLens files, a damaged archive or a malformed line.
    """
    check_on_error(on_error)
    place = open_place(path, _NAMES)
    layout = _layout(place)
    errors = LineErrors(place.label(layout.ratings), on_error)
    events = _ratings(place, layout, errors)
    require_events(events, errors.file)
    skipped = {layout.ratings: errors.count}
    errors = LineErrors(place.label(layout.movies), on_error)
    rows = (
        _movies_csv(place, errors)
        if layout.separator == ","
        else _movies_plain(place, layout, errors)
    )
    skipped[layout.movies] = errors.count
    schema = dict.fromkeys(("item", "title", "category"), pl.String)
    items = pl.DataFrame(rows, schema=schema, orient="row")
    return RawData(events, items, source_files(path), skipped, complete_items=True)


def _ratings(place: Place, layout: _Layout, errors: LineErrors) -> pl.DataFrame:
    picks = [("user", 0), ("item", 1), ("time", 3)]
    parts = []
    with place.open(layout.ratings) as stream:
        for lines in iter_lines(stream, errors.file, encoding=layout.encoding):
            skip = 0
            if layout.separator == "," and lines.first == 1:
                header = str(lines.text[0]).split(",")
                expected = ["userId", "movieId", "rating", "timestamp"]
                _expect_header(header, expected, errors.file)
                skip = 1
            frame = split_fields(lines, layout.separator, 4, picks, errors, skip_rows=skip)
            parts.append(numeric_time(frame, errors))
    return pl.concat(parts) if parts else pl.DataFrame(schema=EVENT_SCHEMA)


def _expect_header(found: list[str], expected: list[str], file: str) -> None:
    if found != expected:
        raise DataError(
            f"{file}, line 1: found the header {','.join(found)!r}; expected {','.join(expected)!r}. "
            "Check that this is the official file; other tables go through `bench data import`."
        )


def _movies_plain(place: Place, layout: _Layout, errors: LineErrors) -> list[tuple[str, str, str]]:
    """Movies of 100K (``|``, one 0/1 column per genre) or of 1M and 10M (``::``)."""
    is_100k = layout.movies == "u.item"
    separator, n_fields = ("|", 5 + len(_GENRES_100K)) if is_100k else ("::", 3)
    rows: dict[str, tuple[str, str, str]] = {}
    with place.open(layout.movies) as stream:
        for lines in iter_lines(stream, errors.file, encoding=layout.encoding):
            for number, line in enumerate(lines.text.to_list(), lines.first):
                if not line.strip():
                    continue
                fields = line.split(separator)
                if len(fields) != n_fields or not fields[0].strip():
                    expected = f"{n_fields} fields separated by {separator!r}, not {len(fields)}"
                    errors.report(number, line, expected)
                    continue
                if is_100k:
                    flags = zip(_GENRES_100K, fields[5:], strict=True)
                    genres = [genre for genre, flag in flags if flag == "1"]
                else:
                    genres = fields[2].split("|")
                _add_movie(rows, number, fields[0], fields[1], genres, errors)
    return list(rows.values())


def _movies_csv(place: Place, errors: LineErrors) -> list[tuple[str, str, str]]:
    rows: dict[str, tuple[str, str, str]] = {}
    with place.open("movies.csv") as stream:
        text = "\n".join(
            line for run in iter_lines(stream, errors.file) for line in run.text.to_list()
        )
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        _expect_header(next(reader, []), ["movieId", "title", "genres"], errors.file)
        for fields in reader:
            if not fields:
                continue
            if len(fields) != 3 or not fields[0].strip():
                expected = f"3 fields separated by commas, not {len(fields)}"
                errors.report(reader.line_num, ",".join(fields), expected)
                continue
            genres = [] if fields[2] == "(no genres listed)" else fields[2].split("|")
            _add_movie(rows, reader.line_num, fields[0], fields[1], genres, errors)
    except csv.Error as error:
        raise DataError(
            f"{errors.file}, line {reader.line_num}: {error}; expected comma-separated values with "
            "balanced quotation marks. Download the data set again."
        ) from error
    return list(rows.values())


def _add_movie(
    rows: dict[str, tuple[str, str, str]],
    number: int,
    identifier: str,
    title: str,
    genres: list[str],
    errors: LineErrors,
) -> None:
    if identifier in rows:
        errors.report(number, identifier, "one row per movie (this id has one above)")
        return
    rows[identifier] = (identifier, title, " ".join(genres))
