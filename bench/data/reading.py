"""One door to all readers of people's own files: from paths and options to raw tables."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

from bench.data.raw import EVENT_SCHEMA, RawData, require_events
from bench.data.readers import READERS
from bench.data.readers.base import Files, Reader, Reading, Repeats
from bench.data.readers.columns import ColumnMapping
from bench.errors import ConfigError, DataError, MethodError
from bench.registry import BUILT_IN

__all__ = ["Reading", "Repeats", "read_files"]


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
        ConfigError: options that do not fit the format, or an unknown reader.
        DataError: malformed files, or repeated events that ``reading`` wants to keep.
        MethodError: what an installed package announces is no reader, or returns no such tables.
    """
    if reading.repeats not in get_args(Repeats):
        raise ConfigError(f"repeats is {reading.repeats!r}; expected 'first' or 'keep'.")
    _require_items(inter, items, mapping)
    if mapping is not None and not isinstance(mapping, ColumnMapping):
        mapping = ColumnMapping.from_pairs(mapping)
    chosen = reading.reader or _reader_of(inter[0])
    raw = _reader(chosen).read(Files(name, inter, items, mapping, reading))
    if READERS.origin(chosen) != BUILT_IN:
        if not isinstance(raw, RawData) or dict(raw.events.schema) != EVENT_SCHEMA:
            found = dict(raw.events.schema) if isinstance(raw, RawData) else type(raw).__name__
            raise MethodError(
                f"reader {chosen!r} ({READERS.origin(chosen)}) returned {found}; expected a "
                f"bench.data.raw.RawData with events of {EVENT_SCHEMA}."
            )
        require_events(raw.events, str(inter[0]), sum(raw.skipped.values()))
        source = READERS.source_sha256(chosen)
        said = f"read by {chosen} of {READERS.origin(chosen)}, source {source}"
        raw = replace(raw, notes=(said, *raw.notes))
    if reading.repeats == "keep":
        _refuse_repeats(raw)
    return replace(raw, notes=(*raw.notes, *_missing_parts(inter)))


def _reader_of(path: Path) -> str:
    """Name of the built-in reader of a file; a package that is installed never changes how one is read."""
    for name in READERS:
        if READERS.origin(name) == BUILT_IN and _reader(name).recognises(path):
            return name
    return "table"


def _reader(name: str) -> Reader:
    cls = READERS.load(name)
    if not (isinstance(cls, type) and issubclass(cls, Reader)):
        raise MethodError(
            f"reader {name!r} ({READERS.origin(name)}): found {cls!r}, expected a subclass of "
            "bench.data.readers.Reader."
        )
    return cls()


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
