"""What a reader of people's own files is given, and the base of all readers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bench.data.raw import OnError, RawData
from bench.data.readers.columns import ColumnMapping
from bench.data.readers.delimited import Quotes
from bench.errors import ConfigError

__all__ = ["Files", "Reader", "Reading", "Repeats"]

Repeats = Literal["first", "keep"]


@dataclass(frozen=True, slots=True)
class Reading:
    """How files are read.

    Attributes:
        separator: what separates fields of text; None: found from the ending and the first line.
        quotes: ``csv`` or ``none``; None: by the rule of :mod:`bench.data.readers.delimited`.
        header: whether line 1 of the interactions holds names; None: found from the file.
        encoding: text encoding; None: UTF-8 (MovieLens: that of the release).
        time_format: strftime directives of times; None: numbers or ISO 8601.
        where: conditions that an interaction must meet, such as ``"rating >= 4"``.
        sequences: whether each line is a user followed by all their items, oldest first.
        repeats: of several events of one user and item, the earliest (``first``), or none of them:
            such data are refused (``keep``).
        on_error: ``raise``, or ``skip`` and count malformed lines.
        reader: name in :data:`bench.data.readers.READERS`; None: found from the files.
    """

    separator: str | None = None
    quotes: Quotes | None = None
    header: bool | None = None
    encoding: str | None = None
    time_format: str | None = None
    where: Sequence[str] = ()
    sequences: bool = False
    repeats: Repeats = "first"
    on_error: OnError = "raise"
    reader: str | None = None

    def words(self) -> list[str]:
        """The options of `bench data import` that say the same."""
        flags = {True: "--header", False: "--no-header", None: ""}
        given = {
            "--separator": self.separator,
            "--quotes": self.quotes,
            "--encoding": self.encoding,
            "--time-format": self.time_format,
            "--reader": self.reader,
            "--on-error": self.on_error if self.on_error != "raise" else None,
        }
        words = [word for flag, value in given.items() if value for word in (flag, value)]
        words += [word for condition in self.where for word in ("--where", condition)]
        return [w for w in (*words, flags[self.header], "--sequences" * self.sequences) if w]


@dataclass(frozen=True, slots=True)
class Files:
    """What is to be read.

    Attributes:
        name: name of the domain, for commands in messages.
        inter: one or several files or folders.
        items: the item table, or None.
        mapping: which column holds what, or None.
        reading: how.
    """

    name: str
    inter: Sequence[Path]
    items: Path | None
    mapping: ColumnMapping | None
    reading: Reading

    def refuse_table_options(self, *, titles_inside: bool) -> None:
        """Refuse what only tables are told: columns, separators, conditions.

        Args:
            titles_inside: whether the format is one place that holds the titles too.

        Raises:
            ConfigError: one of them was given.
        """
        asked, place = self.reading, self.inter[0]
        plain = Reading(
            encoding=asked.encoding,
            repeats=asked.repeats,
            on_error=asked.on_error,
            reader=asked.reader,
        )
        if titles_inside and self.items is not None:
            raise ConfigError(f"{place}: this format brings its titles; leave the item table out.")
        if self.mapping is not None or asked != plain:
            raise ConfigError(
                f"{place}: the columns of this format are known; leave the mapping (--column) out, and "
                "the options of tables. To read one of its files as a table, name that file."
            )
        if titles_inside and len(self.inter) > 1:
            raise ConfigError(f"{place}: such a data set stands alone; name no further files.")


class Reader(ABC):
    """Reads files of one format; made without arguments. The docstring's first line describes it."""

    def recognises(self, path: Path) -> bool:
        """Whether ``path`` is of this format, asked of built-in readers if none is named.

        Raises:
            DataError: a file that cannot be read.
        """
        return False

    @abstractmethod
    def read(self, files: Files) -> RawData:
        """Read interactions and, if there are any, items; nothing is filtered or sorted.

        Raises:
            ConfigError: options that do not fit the format.
            DataError: malformed files.
        """
