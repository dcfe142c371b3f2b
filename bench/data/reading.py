"""One door to all readers of people's own files: from paths and options to raw tables."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, get_args

from bench.data.raw import OnError, RawData
from bench.data.readers.columns import ColumnMapping
from bench.data.readers.delimited import Dialect, Quotes
from bench.data.readers.movielens import is_movielens, read_movielens
from bench.data.readers.tabular import TableOptions, read_tabular
from bench.data.readers.where import parse_condition
from bench.errors import ConfigError, DataError

__all__ = ["Reading", "Repeats", "read_files"]

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
        sequences: whether each line is a user followed by all his items, oldest first.
        repeats: of several events of one user and item, the earliest (``first``), or none of them:
            such data are refused (``keep``).
        on_error: ``raise``, or ``skip`` and count malformed lines.
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

    def words(self) -> list[str]:
        """The options of `bench data import` that say the same."""
        flags = {True: "--header", False: "--no-header", None: ""}
        given = {
            "--separator": self.separator,
            "--quotes": self.quotes,
            "--encoding": self.encoding,
            "--time-format": self.time_format,
            "--on-error": self.on_error if self.on_error != "raise" else None,
        }
        words = [word for flag, value in given.items() if value for word in (flag, value)]
        words += [word for condition in self.where for word in ("--where", condition)]
        return [w for w in (*words, flags[self.header], "--sequences" * self.sequences) if w]


def read_files(
    name: str,
    inter: Sequence[Path],
    items: Path | None,
    mapping: ColumnMapping | Mapping[str, str] | None,
    reading: Reading,
) -> RawData:
    """Read interactions and, optionally, items of any format.

    Args:
        name: name of the domain, for commands in messages.
        inter: one or several files or folders; a MovieLens folder or zip file stands alone.
        items: the item table, or None.
        mapping: which column holds what.
        reading: how.

    Raises:
        ConfigError: options that do not fit the format.
        DataError: malformed files, or repeated events that ``reading`` wants to keep.
    """
    if reading.repeats not in get_args(Repeats):
        raise ConfigError(f"repeats is {reading.repeats!r}; expected 'first' or 'keep'.")
    _require_items(inter, items, mapping)
    conditions = [parse_condition(text) for text in reading.where]
    if is_movielens(inter[0]):
        _only_movielens(inter, items, mapping, reading)
        raw = read_movielens(inter[0], encoding=reading.encoding, on_error=reading.on_error)
    else:
        if mapping is not None and not isinstance(mapping, ColumnMapping):
            mapping = ColumnMapping.from_pairs(mapping)
        words = ["bench", "data", "import", name, *map(str, inter)]
        words += ["--items", str(items)] * (items is not None) + reading.words()
        dialect = Dialect(
            reading.separator,
            reading.quotes,
            reading.header,
            reading.encoding or "utf-8",
            reading.time_format,
        )
        options = TableOptions(dialect, conditions, reading.sequences, shlex.join(words))
        raw = read_tabular(
            inter, items, mapping=mapping, options=options, on_error=reading.on_error
        )
    if reading.repeats == "keep":
        _refuse_repeats(raw)
    return replace(raw, notes=(*raw.notes, *_missing_parts(inter)))


def _require_items(
    inter: Sequence[Path], items: Path | None, mapping: ColumnMapping | Mapping[str, str] | None
) -> None:
    """Refuse columns of the item table if there is none: their texts would be left out silently."""
    named = mapping.words() if isinstance(mapping, ColumnMapping) else mapping or {}
    of_items = [role for role in ("item_id", "title", "brand", "category") if role in named]
    if of_items and items is None:
        raise ConfigError(
            f"--column {of_items[0]}={named[of_items[0]]} names a column of the item table, and there is "
            f"none. If {inter[0]} holds it beside the events, name that file twice: --items {inter[0]}"
        )


def _missing_parts(inter: Sequence[Path]) -> list[str]:
    """Warn of a split of which only some parts were named (X.train.csv without X.test.csv)."""
    parts: dict[str, dict[str, str]] = {}
    for path in inter:
        form = re.fullmatch(r"(.+)\.(train|valid|test)\.[a-z.]+", path.name)
        if form:
            parts.setdefault(form[1], {})[form[2]] = path.name
    return [
        f"warning: {next(iter(there.values()))} is one part of a split; the events of "
        f"{' and '.join(p for p in ('train', 'valid', 'test') if p not in there)} are missing: name "
        "all parts in one import"
        for there in parts.values()
        if len(there) < 3
    ]


def _only_movielens(
    inter: Sequence[Path],
    items: Path | None,
    mapping: ColumnMapping | Mapping[str, str] | None,
    reading: Reading,
) -> None:
    plain = Reading(encoding=reading.encoding, repeats=reading.repeats, on_error=reading.on_error)
    if items is not None:
        raise ConfigError(f"{inter[0]}: MovieLens brings its titles; leave the item table out.")
    if mapping is not None or reading != plain:
        raise ConfigError(
            f"{inter[0]}: the columns of this format are known; leave the mapping (--column) out, and "
            "the options of tables. To read one of its files as a table, name that file."
        )
    if len(inter) > 1:
        raise ConfigError(f"{inter[0]}: a MovieLens data set stands alone; name no further files.")


def _refuse_repeats(raw: RawData) -> None:
    pairs = raw.events.select("user", "item")
    again = pairs.filter(pairs.is_duplicated())
    if again.height:
        user, item = again.row(0)
        extra = pairs.height - pairs.unique().height
        raise DataError(
            f"{raw.files[0]}: {extra} of {pairs.height} events repeat an event of the same user and "
            f"item (user {user!r}, item {item!r}); expected distinct pairs. A held-out item that "
            "stands in the history too would be no candidate, and no model could be asked for it, so "
            "repeats cannot be kept: use --repeats first, which keeps the earliest of each pair."
        )
