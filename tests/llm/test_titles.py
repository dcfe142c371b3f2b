"""Titles as prompts show them."""

from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from bench.errors import ConfigError
from bench.llm.titles import SEPARATOR, clean_title, neutralise, prompt_titles

TOKENIZER = tiny_tokenizer()


def length(text: str) -> int:
    return len(TOKENIZER(text, add_special_tokens=False)["input_ids"])


def prepared(title: str, **limits: int | None) -> str:
    settings = {"max_tokens": None, "max_chars": None, **limits}
    return prompt_titles([title], TOKENIZER, **settings)[0]


@given(st.text())
def test_a_cleaned_title_is_one_visible_line_and_stays_as_it_is(text: str) -> None:
    cleaned = clean_title(text)
    assert clean_title(cleaned) == cleaned
    assert cleaned == " ".join(cleaned.split())
    categories = {unicodedata.category(c) for c in cleaned if c not in "‌‍"}
    assert not categories & {"Cc", "Cf", "Cs", "Zl", "Zp"}


@given(st.text(alphabet="a|; \n‮"), st.sampled_from(["||", ";", " ; ", "|;|", "\n"]))
def test_lists_of_neutral_titles_split_in_one_way(text: str, separator: str) -> None:
    title = neutralise(clean_title(text), separator)
    mark = separator.strip()
    # What is left of a title between two others is found again, blanks aside.
    assert [part.strip() for part in f"x{separator}{title}{separator}y".split(mark or "\n")] == [
        "x",
        title,
        "y",
    ]


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ("Toy\tStory\r\n (1995)", "Toy Story (1995)"),
        ("left||right|||", "left right"),
        ("a\u2028b\u2029c\x00d\x1be", "a b c d e"),
        ("\u202egnp.exe", "gnp.exe"),
        (
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
            "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",
        ),
        ("الأسود يليق بك", "الأسود يليق بك"),
        ("{{ 7 * 7 }}", "{{ 7 * 7 }}"),
        ("", "Untitled item 0"),
        (" \u200b\n|| ", "Untitled item 0"),
    ],
)
def test_what_is_shown_of_odd_titles(raw: str, shown: str) -> None:
    assert prepared(raw) == shown


def test_titles_are_cut_at_the_last_word_that_fits() -> None:
    titles = [
        "Dove Men+Care Body Wash, Sensitive Shield, 18 oz",
        "Neutrogena Hand Cream (Norwegian Formula) - 2 Ounces / 56 Grams",
        "Heat (1995)",
        "Köln und Düsseldorf — ein Reiseführer",
    ]
    for limit in (1, 5, 8, 12, 17, 30, 200):
        for title, cut in zip(
            titles,
            prompt_titles(titles, TOKENIZER, max_tokens=limit, max_chars=None),
            strict=True,
        ):
            assert 0 < length(cut) <= limit
            assert title.startswith(cut)
            words = title.split(" ")
            ends = [" ".join(words[:k]).rstrip(" ,;:-–—([{/&") for k in range(1, len(words) + 1)]
            ends[-1] = title
            fitting = [end for end in ends if length(end) <= limit]
            if fitting:
                assert cut == fitting[-1]


@given(st.text(min_size=1), st.integers(min_value=4, max_value=40))
def test_no_title_exceeds_its_tokens(text: str, limit: int) -> None:
    # 4 tokens hold any single character of a byte-level vocabulary.
    assert 1 <= length(prepared(text, max_tokens=limit)) <= limit


@given(st.text(), st.integers(min_value=1, max_value=40))
def test_no_title_exceeds_its_characters(text: str, limit: int) -> None:
    assert 1 <= len(prepared(text, max_chars=limit)) <= limit


@pytest.mark.parametrize("word", ["x" * 8000, "word " * 1600, "語" * 8000])
def test_a_title_of_8000_characters_is_cut(word: str) -> None:
    cut = prepared(word, max_tokens=24)
    assert length(cut) <= 24
    assert length(cut) > 20


def test_a_cut_title_does_not_end_with_half_a_separator() -> None:
    assert prepared("alpha | beta", max_chars=8) == "alpha"
    assert not prepared("a |b", max_chars=3).endswith("|")


@pytest.mark.parametrize("limits", [{"max_tokens": 0}, {"max_chars": -1}])
def test_a_limit_below_one_is_wrong_use(limits: dict[str, int]) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        prepared("Heat", **limits)


def test_the_separator_is_that_of_the_reference_study() -> None:
    assert SEPARATOR == "||"
