"""Which column of a file holds what: the user's mapping, known layouts, and one error for the rest."""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields

from bench.data.readers.atomic import ATOMIC_TYPES, ITEM_COLUMNS
from bench.data.readers.delimited import Columns, Dialect
from bench.data.readers.layouts import (
    EVENT_LAYOUTS,
    HEADERLESS,
    HEADERLESS_ITEMS,
    ITEM_LAYOUTS,
    Headerless,
    Layout,
)
from bench.data.readers.times import is_time
from bench.errors import ConfigError, DataError

__all__ = ["ColumnMapping", "Found", "Request", "choose_columns", "find_columns"]

_SHOWN = 25
_SEQUENCES = " (or, if each line is a user and all their items: --sequences)"
_WORDS = {
    "user": ("user", "customer", "reviewer", "member", "account", "session", "visitor", "uid"),
    "item": ("item", "product", "asin", "article", "movie", "video", "book", "business", "isbn",
             "sku", "song", "track", "news", "location", "place", "iid"),
    "time": ("time", "date", "t_dat", "when", "unix", "ts"),
    "title": ("title", "name"),
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """Which column of a table (key of a record) holds what.

    A column without a header is called by its number, from 1.

    Attributes:
        user, item: id columns of the interaction table; any text or whole number.
        time: time column: numbers, or dates and times of ISO 8601 (without zone: UTC), in Parquet
            also of its own types; None: the order of rows.
        item_id: id column of the item table; None: the same name as ``item``.
        title: title column of the item table.
        brand, category: optional text columns of the item table.
    """

    user: str = "user_id"
    item: str = "item_id"
    time: str | None = "timestamp"
    item_id: str | None = None
    title: str = "title"
    brand: str | None = None
    category: str | None = None

    @classmethod
    def from_pairs(cls, pairs: Mapping[str, str]) -> ColumnMapping:
        """Build a mapping from ``{"user": "reviewer", ...}``; ``time=row`` means the order of rows.

        Raises:
            ConfigError: an unknown field or an empty column name.
        """
        known = [field.name for field in fields(cls)]
        for name, column in pairs.items():
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f" Did you mean {near[0]!r}?" if near else ""
                raise ConfigError(
                    f"column mapping: unknown field {name!r}.{hint} Known: {', '.join(known)}."
                )
            if not column:
                raise ConfigError(
                    f"column mapping: {name} names no column; expected {name}=COLUMN."
                )
        values: dict[str, str | None] = dict(pairs)
        if values.get("time") == "row":
            values["time"] = None
        return cls(**values)  # type: ignore[arg-type]

    def words(self) -> dict[str, str]:
        """What was chosen, as ``--column`` takes it: role -> column."""
        chosen = {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if getattr(self, f.name) != f.default
        }
        return {role: column or "row" for role, column in chosen.items()}


@dataclass(frozen=True, slots=True)
class Request:
    """What is looked for in one file.

    Attributes:
        wanted: role -> column; ``time`` None: the order of rows.
        usual: the defaults among them, which a known layout may replace.
        is_items: whether it is the item table.
        known: for an item table, the items of the interactions.
        extra: further columns that must be there (those of conditions).
        optional: whether the title may be absent, and titles have several names (atomic files).
        mapping: the whole mapping, for messages.
        command: the import command without its ``--column`` options, for messages.
    """

    wanted: Mapping[str, str | None]
    usual: Collection[str]
    is_items: bool = False
    known: Collection[str] = ()
    extra: Sequence[str] = ()
    optional: bool = False
    mapping: ColumnMapping = field(default_factory=ColumnMapping)
    command: str = "bench data import NAME FILE"

    @classmethod
    def events(cls, mapping: ColumnMapping, extra: Sequence[str], command: str) -> Request:
        """What an interaction table must have."""
        wanted = {"user": mapping.user, "item": mapping.item, "time": mapping.time}
        usual = [
            role for role, column in wanted.items() if column == getattr(ColumnMapping(), role)
        ]
        return cls(wanted, usual, extra=extra, mapping=mapping, command=command)

    @classmethod
    def items(
        cls, mapping: ColumnMapping, item: str, known: list[str], command: str, *, optional: bool
    ) -> Request:
        """What an item table must have; ``item`` is the id column of the interactions."""
        # Numbers of columns mean nothing in another file.
        item = ColumnMapping().item if item.isdigit() else item
        wanted: dict[str, str | None] = {"item": mapping.item_id or item, "title": mapping.title}
        usual = [
            role
            for role, given in (("item", mapping.item_id), ("title", mapping.words().get("title")))
            if given is None
        ]
        wanted |= {r: c for r, c in (("brand", mapping.brand), ("category", mapping.category)) if c}
        return cls(wanted, usual, True, known, (), optional, mapping, command)


@dataclass(frozen=True, slots=True)
class Found:
    """The columns of one file: role -> column (``time`` may be None), and what was decided."""

    columns: Mapping[str, str | None]
    note: str = ""
    time_format: str | None = None


def plain_names(names: Sequence[str]) -> list[str]:
    """Column names without blanks around, and without types if all have one (atomic files)."""
    stripped = [name.strip() for name in names]
    typed = [name.rpartition(":") for name in stripped]
    if all(colon and kind in ATOMIC_TYPES for _, colon, kind in typed):
        return [name for name, _, _ in typed]
    return stripped


def find_columns(names: Sequence[str], request: Request, place: str) -> Found:
    """Look the wanted columns up among the names of a table or the keys of records.

    Raises:
        DataError: some are missing or occur twice; the message names all of them and a command.
    """
    columns = dict(request.wanted)
    note = ""
    if request.optional:
        for role, known in ITEM_COLUMNS.items():
            if role not in request.mapping.words():
                columns[role] = next((name for name in known if name in names), None)
    absent = [r for r, c in columns.items() if c is not None and c not in names]
    layout = _known_layout(names, request)
    if layout is not None and set(absent) <= set(request.usual):
        columns |= {role: layout.columns[role] for role in absent}
        if layout.columns.items() <= columns.items():
            extra = {r: c for r, c in layout.optional.items() if c in names}
            columns = {**extra, **columns}
        if absent:
            named = ", ".join(f"{role}={column or 'row'}" for role, column in columns.items())
            note = f"read as {layout.name}: {named}"
        absent = []
    missing = [(role, str(columns[role])) for role in absent]
    missing += [("--where", column) for column in request.extra if column not in names]
    if missing:
        raise DataError(f"{place}: {_missing(names, missing, request)}")
    used = [column for column in (*columns.values(), *request.extra) if column is not None]
    twice = next((column for column in used if names.count(column) > 1), None)
    if twice is not None:
        raise DataError(
            f"{place}: column {twice!r} occurs twice; expected distinct names. Rename one."
        )
    return Found(columns, note)


def _known_layout(names: Sequence[str], request: Request) -> Layout | None:
    layouts = ITEM_LAYOUTS if request.is_items else EVENT_LAYOUTS
    fit = [x for x in layouts if {c for c in x.columns.values() if c is not None} <= set(names)]
    # Releases of one source differ in their optional columns.
    return max(fit, key=lambda x: sum(c in names for c in x.optional.values()), default=None)


def _missing(names: Sequence[str], missing: list[tuple[str, str]], request: Request) -> str:
    taken = {column for role, column in request.wanted.items() if column in names}
    choices = dict(request.mapping.words())
    hints, lost = [], []
    for role, column in missing:
        lost.append(
            f"{column!r} ({role})" if role.startswith("-") else f"{column!r} (mapped to {role})"
        )
        near = _near(role, column, [name for name in names if name not in taken])
        if near is not None:
            hints.append(near)
            taken.add(near)
        if not role.startswith("-"):
            key = "item_id" if request.is_items and role == "item" else role
            choices[key] = near or ("row" if role == "time" else "COLUMN")
    shown = ", ".join(repr(name[:40]) for name in names[:_SHOWN]) + ", ..." * (len(names) > _SHOWN)
    guess = f" Did you mean {' and '.join(map(repr, hints))}?" if hints else ""
    words = " ".join(f"--column {shlex.quote(f'{r}={column}')}" for r, column in choices.items())
    asked = all(role.startswith("-") for role, _ in missing)
    way = "Correct the condition." if asked else f"Name them: {request.command} {words}"
    return f"no column {' and no column '.join(lost)}; the columns are {shown}.{guess} {way}"


def _near(role: str, column: str, names: Sequence[str]) -> str | None:
    close = difflib.get_close_matches(column, names, n=1)
    if close:
        return close[0]
    words = _WORDS.get(role, ())
    return next((name for word in words for name in names if word in name.lower()), None)


def choose_columns(
    first: list[str], rows: list[list[str]], dialect: Dialect, request: Request, place: str
) -> tuple[Columns, Found]:
    """Decide whether line 1 of a table is a header, and which fields to take.

    Args:
        first: fields of line 1.
        rows: fields of some lines below it.
        dialect: whether there is a header, if the user said so.
        request: what is looked for.
        place: how messages name line 1.

    Raises:
        DataError: columns are missing, or line 1 is data and was mapped as names.
    """
    names = plain_names(first)
    asked = [c for c in (*request.wanted.values(), *request.extra) if c is not None]
    by_number = [column for column in asked if column.isdigit() and column not in names]
    if dialect.header is False or (dialect.header is None and by_number):
        return _without_header(first, rows, request, place)
    if dialect.header is None and any(column not in names for column in asked):
        is_data = any(is_time(name, dialect.time_format) for name in names)
        if is_data or _known_values(first, rows, request) is not None:
            return _without_header(first, rows, request, place)
    found = find_columns(names, request, place)
    if dialect.header is None:
        _refuse_data(names, rows, found, request, dialect, place)
    return Columns(_picks(found.columns, request.extra, names), len(first), header=True), found


def _picks(
    columns: Mapping[str, str | None], extra: Sequence[str], names: Sequence[str]
) -> list[tuple[str, int]]:
    picks = [(role, names.index(column)) for role, column in columns.items() if column is not None]
    return picks + [(f"where {at}", names.index(column)) for at, column in enumerate(extra)]


def _without_header(
    first: list[str], rows: list[list[str]], request: Request, place: str
) -> tuple[Columns, Found]:
    names = [str(at) for at in range(1, len(first) + 1)]
    absent = [r for r, c in request.wanted.items() if c is not None and c not in names]
    layout = _known_values(first, rows, request)
    conditions = all(column in names for column in request.extra)
    if absent and set(absent) <= set(request.usual) and layout is not None and conditions:
        return _known_rows(layout, names, request)
    if not absent and conditions:
        picks = _picks(request.wanted, request.extra, names)
        return Columns(picks, len(first), header=False), Found(dict(request.wanted))
    cells = list(zip(names, first, strict=True))[:_SHOWN]
    shown = ", ".join(f"{name}: {value[:20]!r}" for name, value in cells)
    roles = ("item_id", "title") if request.is_items else ("user", "item", "time")
    words = " ".join(f"--column {role}=N" for role in roles)
    raise DataError(
        f"{place}: looks like data, not like column names ({shown}); expected a header, or columns "
        f"called by their numbers. Name them: {_headless(request)} {words}"
        f"{_SEQUENCES * (len(names) > 3)}"
    )


def _headless(request: Request) -> str:
    """The command with --no-header, which item tables do not need."""
    given = request.is_items or "--no-header" in request.command
    return request.command if given else f"{request.command} --no-header"


def _known_values(
    first: Sequence[str], rows: Sequence[Sequence[str]], request: Request
) -> Headerless | None:
    known = HEADERLESS_ITEMS if request.is_items else HEADERLESS
    return next((layout for layout in known if layout.fits(first, rows)), None)


def _known_rows(layout: Headerless, names: list[str], request: Request) -> tuple[Columns, Found]:
    columns: dict[str, str | None] = {role: str(at) for role, at in layout.columns.items()}
    if not request.is_items:
        columns.setdefault("time", None)
    picks = _picks(columns, request.extra, names)
    note = f"no header: read as {layout.name}"
    return Columns(picks, len(names), header=False), Found(columns, note, layout.time_format)


def _refuse_data(
    names: list[str],
    rows: list[list[str]],
    found: Found,
    request: Request,
    dialect: Dialect,
    place: str,
) -> None:
    """Refuse a mapping that takes the values of a first data row for column names."""
    at = {role: names.index(c) for role, c in found.columns.items() if c is not None}
    values = [row for row in rows if len(row) == len(names) and plain_names(row) != names]
    suspect = [
        role
        for role, pick in at.items()
        if (role == "time" and is_time(names[pick], dialect.time_format))
        or (role in ("user", "item") and any(row[pick] == names[pick] for row in values))
    ]
    if suspect:
        words = " ".join(
            f"--column {'item_id' if request.is_items and role == 'item' else role}={pick + 1}"
            for role, pick in at.items()
        )
        raise DataError(
            f"{place}: {names[at[suspect[0]]]!r} is mapped to {suspect[0]} as a column name but is a "
            "value like those below it; expected a header. If the file has none, call its columns by "
            f"number: {_headless(request)} {words} (if it is a header: --header)"
        )
