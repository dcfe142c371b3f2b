"""Item titles as prompts may show them: one clean line, short enough, never empty."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from bench.errors import ConfigError
from bench.llm.tokens import encode_texts

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["SEPARATOR", "clean_title", "neutralise", "prompt_titles"]

SEPARATOR = "||"
"""What stands between titles in the listwise prompt of the reference study."""

# Zero-width joiners decide how Indic and Persian text and emoji read; other format characters (bidi
# overrides, tags, soft hyphens) only hide text.
_JOINERS = "‌‍"
_DANGLING = " ,;:-–—([{/&"
_BATCH = 4096


def clean_title(text: str) -> str:
    """One line of visible text.

    Control characters, line and paragraph separators become blanks, invisible format characters
    vanish (joiners stay), lone surrogates become U+FFFD, runs of white space one blank.
    """
    if not text.isprintable():
        text = "".join(_visible(character) for character in text)
    return " ".join(text.split())


def _visible(character: str) -> str:
    category = unicodedata.category(character)
    if category == "Cs":
        return "�"
    if category == "Cf":
        return character if character in _JOINERS else ""
    return " " if category in ("Cc", "Zl", "Zp") else character


def neutralise(text: str, separator: str) -> str:
    """The text without ``separator`` inside, and without its characters at either end.

    Otherwise a list of titles could be read in two ways. Separators of blanks need nothing: titles
    have one line and single blanks.
    """
    mark = separator.strip()
    if not mark:
        return text
    while mark in text:
        text = " ".join(text.replace(mark, " ").split())
    return text.strip(mark + " ")


def prompt_titles(
    titles: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_tokens: int | None,
    max_chars: int | None,
    separator: str = SEPARATOR,
) -> list[str]:
    """Titles as prompts show them.

    Cleaned (:func:`clean_title`, :func:`neutralise`), then cut at the last word that fits. A first
    word that is too long by itself is cut inside. Different titles may become equal by cutting.

    Args:
        titles: raw titles of a vocabulary.
        tokenizer: the backbone's.
        max_tokens: most tokens of a title (without what a template puts around it), >= 1, or None.
        max_chars: most characters, >= 1, or None.
        separator: what the template puts between titles.

    Returns:
        One title for each; ``Untitled item <position>`` if nothing visible was left.

    Raises:
        ConfigError: a limit below 1.
    """
    for name, limit in (("max_tokens", max_tokens), ("max_chars", max_chars)):
        if limit is not None and limit < 1:
            raise ConfigError(f"{name} = {limit} for titles; expected at least 1, or none.")
    cleaned = [
        neutralise(clean_title(title), separator) or f"Untitled item {i}"
        for i, title in enumerate(titles)
    ]
    if max_chars is not None:
        cleaned = [_cut(title, max_chars) for title in cleaned]
    if max_tokens is not None:
        for start in range(0, len(cleaned), _BATCH):
            part = cleaned[start : start + _BATCH]
            cleaned[start : start + _BATCH] = _within(part, tokenizer, max_tokens)
    # A cut may have left a title that ends with a part of the separator.
    return [neutralise(title, separator) or title for title in cleaned]


def _cut(title: str, length: int) -> str:
    """The longest beginning of at most ``length`` characters that ends with a word."""
    if len(title) <= length:
        return title
    end = title.rfind(" ", 0, length + 1)
    return _tidy(title[: end if end > 0 else length])


def _tidy(head: str) -> str:
    return head.rstrip(_DANGLING) or head


def _within(titles: list[str], tokenizer: PreTrainedTokenizerBase, limit: int) -> list[str]:
    """Titles of at most ``limit`` tokens, by bisection over word ends, all long titles at a time."""
    counts = [len(ids) for ids in encode_texts(tokenizer, titles)]
    long = {i: titles[i] for i, count in enumerate(counts) if count > limit}
    ends = {i: [k for k, c in enumerate(title) if c == " "] for i, title in long.items()}
    best = _bisect(long, ends, tokenizer, limit)
    # If not even the first word fits, over its characters; one always stays.
    words = {i: title[: ends[i][0]] if ends[i] else title for i, title in long.items()}
    rest = {i: word for i, word in words.items() if i not in best}
    best |= _bisect(rest, {i: range(1, len(word)) for i, word in rest.items()}, tokenizer, limit)
    return [best.get(i) or (words[i][:1] if i in long else title) for i, title in enumerate(titles)]


def _bisect(
    titles: dict[int, str],
    ends: Mapping[int, Sequence[int]],
    tokenizer: PreTrainedTokenizerBase,
    limit: int,
) -> dict[int, str]:
    """For every title the longest beginning within the limit that stops at one of its ``ends``.

    Titles without such a beginning are left out.
    """
    low = dict.fromkeys(titles, 0)
    high = {i: len(ends[i]) for i in titles}
    found: dict[int, str] = {}
    while pending := [i for i in titles if low[i] < high[i]]:
        middle = {i: (low[i] + high[i]) // 2 for i in pending}
        tried = [_tidy(titles[i][: ends[i][middle[i]]]) for i in pending]
        for i, text, ids in zip(pending, tried, encode_texts(tokenizer, tried), strict=True):
            if len(ids) <= limit:
                low[i], found[i] = middle[i] + 1, text
            else:
                high[i] = middle[i]
    return found
