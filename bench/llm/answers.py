"""Generated text to slots: which candidate every part of an answer names."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.errors import ConfigError
from bench.protocol.titles import canonical_title

__all__ = ["COUNTERS", "Match", "ParsedAnswer", "parse_answer"]

Match = Literal["normalised", "strict", "fuzzy"]

DUPLICATE, NOT_A_CANDIDATE, EMPTY = -1, -2, -3
"""Slots without a candidate, as :class:`bench.methods.Scores` has them."""

COUNTERS = (
    "answers_with_a_title",
    "answers_full",
    "titles",
    "duplicates",
    "hallucinations",
    "ambiguous",
    "fuzzy_matches",
    "parts_beyond_the_list",
    "repeated_prompts",
)
"""Keys of :attr:`ParsedAnswer.counters`."""

_FUZZY_SHARE = 0.9
_LIST_MARK = re.compile(r"^\d{1,3} ?[.):\]-] ?")


@dataclass(frozen=True, slots=True, eq=False)
class ParsedAnswer:
    """What an answer names.

    Attributes:
        slots: int16, shape ``(k,)``: position of the candidate named in every slot; -1 a candidate
            named before, -2 not a candidate or several at once, -3 nothing.
        counters: a whole number for each of :data:`COUNTERS`; add them up over answers.
    """

    slots: NDArray[np.int16]
    counters: dict[str, int]


def parse_answer(
    text: str,
    titles: Sequence[str],
    *,
    slots: int = 5,
    match: Match = "normalised",
    separator: str = "||",
    truncated: bool = False,
    lead_in: str = "",
) -> ParsedAnswer:
    r"""Find the candidates that a generated answer names, in its order.

    1. What comes before the last repetition of ``lead_in`` is dropped (an echoed prompt).
    2. The text is split at the separator, at line ends if there is no separator. Parts without text
       are dropped, except in ``strict``.
    3. Parts are compared with the titles. ``strict``: equality. ``normalised``: the first of these
       that holds for any title: equality, equality of canonical titles, equality without list marks,
       quotes, brackets and punctuation around them. ``fuzzy``: if none holds, one text begins the
       other with at least 90 % of its length. Titles that hold the separator are matched over several
       parts, longest first.
    4. A part that fits several titles (titles can be equal once cut) is ambiguous, and a miss.

    Args:
        text: the answer, without control tokens.
        titles: the candidates' titles as the prompt wrote them, in the order of ``Scores.values``.
        slots: length of the list, >= 1; what comes later is counted and ignored.
        match: see above.
        separator: what the prompt puts between titles; line ends count as one too if it is blank.
        truncated: generation was stopped by its limit: the last part may be a piece of a title and
            is compared whole (steps 1 and 2 of ``normalised``) only.
        lead_in: last line of the prompt.

    Raises:
        ConfigError: ``slots`` below 1 or an unknown ``match``.
    """
    if slots < 1:
        raise ConfigError(f"an answer of {slots} titles; expected at least 1.")
    if match not in ("normalised", "strict", "fuzzy"):
        raise ConfigError(f"match {match!r}; expected normalised, strict or fuzzy.")
    counters = dict.fromkeys(COUNTERS, 0)
    if lead_in and match != "strict" and lead_in in text:
        text = text.rpartition(lead_in)[2]
        counters["repeated_prompts"] = 1
    parts, joint = _split(text, separator, match)
    matcher = _Matcher(titles, match)
    longest = 1 + max((title.count(joint) for title in titles), default=0) if joint else 1
    named: list[_Found] = []
    start = 0
    while start < len(parts):
        found, taken = _MISS, 1
        for width in range(min(longest, len(parts) - start), 0, -1):
            whole = truncated and start + width == len(parts)
            found = matcher.find(joint.join(parts[start : start + width]), whole=whole)
            if found is not _MISS:
                taken = width
                break
        named.append(found)
        start += taken
    return _fill(named, slots, counters)


@dataclass(frozen=True, slots=True)
class _Found:
    """The candidate that a part names (-2 for none), and how."""

    candidate: int
    ambiguous: bool = False
    fuzzy: bool = False


_MISS = _Found(NOT_A_CANDIDATE)


def _split(text: str, separator: str, match: Match) -> tuple[list[str], str]:
    """Parts of an answer, and what stood between them."""
    if match == "strict" and separator:
        return (text.split(separator) if text else []), separator
    mark = separator.strip()
    joint = mark if mark and mark in text else "\n"
    return [part for part in text.split(joint) if part.strip()], joint


def _fill(named: list[_Found], slots: int, counters: dict[str, int]) -> ParsedAnswer:
    values = np.full(slots, EMPTY, dtype=np.int16)
    seen: set[int] = set()
    for slot, found in enumerate(named[:slots]):
        counters["fuzzy_matches"] += found.fuzzy
        if found.candidate == NOT_A_CANDIDATE:
            counters["ambiguous" if found.ambiguous else "hallucinations"] += 1
            values[slot] = NOT_A_CANDIDATE
        elif found.candidate in seen:
            counters["duplicates"] += 1
            values[slot] = DUPLICATE
        else:
            seen.add(found.candidate)
            values[slot] = found.candidate
    counters["titles"] = len(seen)
    counters["answers_with_a_title"] = int(bool(seen))
    counters["answers_full"] = int(len(seen) == slots)
    counters["parts_beyond_the_list"] = max(len(named) - slots, 0)
    return ParsedAnswer(values, counters)


def _plain(text: str) -> str:
    return text


def _bare(text: str) -> str:
    """The canonical title without punctuation and blanks at its ends."""
    text = canonical_title(text)
    start, end = 0, len(text)
    while start < end and _is_wrapping(text[start]):
        start += 1
    while end > start and _is_wrapping(text[end - 1]):
        end -= 1
    return text[start:end]


def _is_wrapping(character: str) -> bool:
    return character in "`| " or unicodedata.category(character).startswith("P")


def _unmarked(text: str) -> str:
    """The bare text without a list mark such as ``1.`` or ``-``."""
    return _bare(_LIST_MARK.sub("", _bare(text), count=1))


# Each step: form of the part, form of the titles. The first step with an equal title decides.
_STEPS: tuple[tuple[Callable[[str], str], Callable[[str], str]], ...] = (
    (str.strip, str.strip),
    (canonical_title, canonical_title),
    (_bare, _bare),
    (_unmarked, _bare),
)
_WHOLE_STEPS = 2


class _Matcher:
    """Compares parts with the titles of one request, in forms that are made when first needed."""

    def __init__(self, titles: Sequence[str], match: Match) -> None:
        self._titles = titles
        self._match = match
        self._forms: dict[Callable[[str], str], dict[str, list[int]]] = {}

    def _by_form(self, form: Callable[[str], str]) -> dict[str, list[int]]:
        if form not in self._forms:
            positions: dict[str, list[int]] = {}
            for position, title in enumerate(self._titles):
                positions.setdefault(form(title), []).append(position)
            self._forms[form] = positions
        return self._forms[form]

    def find(self, part: str, *, whole: bool) -> _Found:
        """The candidate that ``part`` names; ``whole``: nothing around the title is forgiven."""
        if self._match == "strict":
            return _one(self._by_form(_plain).get(part, []))
        for of_part, of_title in _STEPS[: _WHOLE_STEPS if whole else None]:
            key = of_part(part)
            positions = self._by_form(of_title).get(key, []) if key else []
            if positions:
                return _one(positions)
        if self._match == "fuzzy" and not whole:
            return _one(self._nearly(_unmarked(part)), fuzzy=True)
        return _MISS

    def _nearly(self, key: str) -> list[int]:
        """Candidates of which one text begins the other with at least 90 % of its length.

        A common beginning alone would take sequels for each other ("Part 2", "Part 3").
        """
        found = []
        for form, positions in self._by_form(_bare).items():
            short, long = sorted((key, form), key=len)
            if short and len(short) >= _FUZZY_SHARE * len(long) and long.startswith(short):
                found += positions
        return found


def _one(positions: list[int], *, fuzzy: bool = False) -> _Found:
    if not positions:
        return _MISS
    if len(positions) > 1:
        return _Found(NOT_A_CANDIDATE, ambiguous=True)
    return _Found(positions[0], fuzzy=fuzzy)
