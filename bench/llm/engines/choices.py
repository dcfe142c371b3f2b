"""Walking the trie of the titles that a list may name, one token at a time.

A node of the trie is what titles share that begin alike; it is held as these titles and the number of
tokens behind it. At a leaf a title is named, and the walk begins again at the root without it, so that
a list holds titles only, and none of them twice.
"""

from __future__ import annotations

from collections.abc import Sequence

from bench.llm.engines.base import Choice

__all__ = ["ListWalk"]


class ListWalk:
    """Where one list stands.

    A title whose tokens, separator included, begin those of another one ends there: the longer one is
    never more probable. That takes a template whose separator is a mark that titles hold themselves.

    Args:
        choices: the titles to choose from, each with at least one token; those with equal tokens count
            once.
        n_titles: length of the list, >= 1; shorter if there are fewer titles.

    Attributes:
        tokens: what was written so far.
        longest: most tokens that the whole list can have.
    """

    def __init__(self, choices: Sequence[Choice], n_titles: int) -> None:
        distinct = {tuple(c.followed.tolist()): tuple(c.last.tolist()) for c in choices}
        self._left = list(distinct.items())
        self._to_name = min(n_titles, len(self._left))
        self.tokens: list[int] = []
        lengths = sorted((len(followed) for followed in distinct), reverse=True)
        ends = max((len(last) for last in distinct.values()), default=0)
        self.longest = sum(lengths[: max(0, self._to_name - 1)]) + ends
        self._depth = 0
        self._open: list[tuple[int, ...]] = []
        self._begin_title()

    @property
    def complete(self) -> bool:
        """Whether the list has all its titles."""
        return not self._to_name

    @property
    def allowed(self) -> list[int]:
        """Tokens that may come next, ascending; none in a complete list."""
        return sorted({title[self._depth] for title in self._open})

    def take(self, token: int) -> None:
        """Go on with one of the allowed tokens."""
        self.tokens.append(token)
        self._open = [title for title in self._open if title[self._depth] == token]
        self._depth += 1
        ended = next((title for title in self._open if len(title) == self._depth), None)
        if ended is not None:
            self._to_name -= 1
            self._left = [pair for pair in self._left if pair[0] != ended]
            self._begin_title()

    def _begin_title(self) -> None:
        self._depth = 0
        self._open = []
        if self._to_name:
            self._open = [followed if self._to_name > 1 else last for followed, last in self._left]
