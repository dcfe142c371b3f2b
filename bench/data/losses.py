"""What an import loses without being wrong: sentences for the user, none if all is well."""

from __future__ import annotations

import re

from bench.data.domain import Domain
from bench.data.raw import RawData

__all__ = ["losses"]

_SCRIPT = r"aPageStart|\.getTime\(|function\s*\(|<script|document\.|window\."
_MANY_WORDS = 200


def losses(raw: RawData, domain: Domain) -> list[str]:
    """Name the losses of a domain that was just prepared from raw tables."""
    return [*_short_users(domain), *_times(domain), *_titles(domain), *_rows(raw, domain)]


def _short_users(domain: Domain) -> list[str]:
    short = int((domain.sequences.lengths < 3).sum())
    if not short:
        return []
    rest = domain.n_users - short
    then = f"{rest} are evaluated" if rest else "nobody is left: no run is possible"
    return [
        f"warning: {short} of {domain.n_users} users have 1 or 2 events; they fall out of the "
        f"evaluation and only train; {then}"
    ]


def _times(domain: Domain) -> list[str]:
    times = domain.timestamps
    if len(times) > 1 and times.min() == times.max():
        return [
            f"warning: all times are equal ({times[0]:g}); the order of the file stands for time, and "
            "the last two rows of each user are held out"
        ]
    early = int((times < 0).sum())
    if early and times.max() > 1e8:
        return [
            f"warning: {early} times lie before 1970 ({times.min():g}); their events come first"
        ]
    seconds, thousandths = (times > 1e8) & (times < 1e10), (times > 1e11) & (times < 1e14)
    if seconds.any() and thousandths.any():
        return [
            f"warning: {int(seconds.sum())} times look like seconds ({times[seconds][0]:.0f}) and "
            f"{int(thousandths.sum())} like milliseconds ({times[thousandths][0]:.0f}); the latter come last. "
            "Convert them if they have two units"
        ]
    return []


def _titles(domain: Domain) -> list[str]:
    titles = domain.items.titles.to_list()
    scripts = [at for at, title in enumerate(titles) if re.search(_SCRIPT, title)]
    long = [at for at, title in enumerate(titles) if len(title.split()) > _MANY_WORDS]
    found = []
    if scripts:
        found.append(
            f"warning: {len(scripts)} titles are page scripts, not titles (item "
            f"{domain.items.ids[scripts[0]]!r}: {titles[scripts[0]][:40]!r}...)"
        )
    rest = sorted(set(long) - set(scripts))
    if rest:
        found.append(
            f"warning: {len(rest)} titles have more than {_MANY_WORDS} words (item "
            f"{domain.items.ids[rest[0]]!r}: {len(titles[rest[0]].split())} words)"
        )
    return found


def _rows(raw: RawData, domain: Domain) -> list[str]:
    absent = domain.provenance["counts"]["items_without_row"]
    if raw.items is None or not absent or raw.items.is_empty():
        return []
    known = set(raw.items["item"].to_list())
    first = next((item for item in domain.items.ids if item not in known), "")
    return [
        f"warning: {absent} of {domain.n_items} items have no row in {raw.files[-1].name} (item "
        f"{first!r}; ids there look like {raw.items['item'][0]!r}) and get placeholder titles"
    ]
