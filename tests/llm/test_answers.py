"""Generated lists to slots."""

from __future__ import annotations

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tiny import tiny_tokenizer

from bench.errors import ConfigError
from bench.llm.answers import COUNTERS, parse_answer
from bench.llm.prompts import PromptWriter, load_template
from bench.llm.titles import prompt_titles

TOKENIZER = tiny_tokenizer()
TITLES = [
    "Heat (1995)",
    "Toy Story",
    "Toy Story 2",
    "1984",
    '"Quoted" title',
    "C++",
    "C",
    "The A/B",
]


def slots(text: str, titles: list[str] = TITLES, **settings) -> list[int]:
    return parse_answer(text, titles, **settings).slots.tolist()


@given(st.data())
def test_a_written_ranking_is_read_again(data: st.DataObject) -> None:
    characters = st.one_of(st.characters(), st.sampled_from("||\n\"'[]()1.-,* <>"))
    raw = data.draw(st.lists(st.text(characters, max_size=20), min_size=1, max_size=8))
    titles = prompt_titles(raw, TOKENIZER, max_tokens=None, max_chars=None)
    assume(len(set(titles)) == len(titles))
    ranking = data.draw(st.permutations(range(len(titles))))
    writer = PromptWriter(
        load_template("listwise"),
        TOKENIZER,
        titles,
        max_history=5,
        max_tokens=None,
        n_answers=len(titles),
    )
    text = writer.text(writer.listwise_answer(ranking))
    for match in ("normalised", "strict", "fuzzy"):
        parsed = parse_answer(
            text, writer.titles, slots=len(titles), match=match, lead_in=writer.template.lead_in
        )
        assert parsed.slots.tolist() == ranking
        assert parsed.counters["titles"] == len(titles)
        assert parsed.counters["answers_full"] == 1


@given(st.text(max_size=60), st.integers(1, 6), st.sampled_from(["normalised", "strict", "fuzzy"]))
def test_any_text_gives_a_valid_list(text: str, k: int, match: str) -> None:
    parsed = parse_answer(text, TITLES, slots=k, match=match)
    found = [s for s in parsed.slots.tolist() if s >= 0]
    assert parsed.slots.dtype == "int16"
    assert len(parsed.slots) == k
    assert len(set(found)) == len(found) == parsed.counters["titles"]
    assert set(parsed.slots.tolist()) <= {-3, -2, -1, *range(len(TITLES))}
    assert set(parsed.counters) == set(COUNTERS)
    outcomes = ("titles", "duplicates", "hallucinations", "ambiguous")
    named = sum(parsed.counters[name] for name in outcomes)
    assert named == int((parsed.slots != -3).sum())
    # Empty slots come last.
    assert sorted(parsed.slots.tolist(), key=lambda s: s == -3) == parsed.slots.tolist()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Toy Story||Heat (1995)", [1, 0, -3, -3, -3]),
        ("  toy   STORY || heat (1995)", [1, 0, -3, -3, -3]),
        ("Toy Story||Toy Story||1984", [1, -1, 3, -3, -3]),
        ("Toy Story||Alien||1984", [1, -2, 3, -3, -3]),
        ("1. Toy Story 2\n2. Heat (1995)\n3) 1984", [2, 0, 3, -3, -3]),
        ("- Toy Story\n* C++\n• C", [1, 5, 6, -3, -3]),
        ("**Heat (1995)**", [0, -3, -3, -3, -3]),
        ('["Toy Story"||"1984"||\'C++\']', [1, 3, 5, -3, -3]),
        ("Quoted title", [-2, -3, -3, -3, -3]),
        ('1. ""Quoted" title".', [4, -3, -3, -3, -3]),
        ("ＴＯＹ Ｓｔｏｒｙ", [1, -3, -3, -3, -3]),
        ("Toy Story||\n||1984", [1, 3, -3, -3, -3]),
        ("1984||C||C++||Toy Story||Heat (1995)||Toy Story 2", [3, 6, 5, 1, 0]),
        ("I would recommend Toy Story.", [-2, -3, -3, -3, -3]),
        ("", [-3] * 5),
        ("||", [-3] * 5),
        ("the a/b.", [7, -3, -3, -3, -3]),
    ],
)
def test_lists_as_models_write_them(text: str, expected: list[int]) -> None:
    assert slots(text) == expected


def test_counters_say_what_happened() -> None:
    parsed = parse_answer("1984||1984||Alien||C||Heat (1995)||C++||more", TITLES)
    assert parsed.counters == {
        "answers_with_a_title": 1,
        "answers_full": 0,
        "titles": 3,
        "duplicates": 1,
        "hallucinations": 1,
        "ambiguous": 0,
        "fuzzy_matches": 0,
        "parts_beyond_the_list": 2,
        "repeated_prompts": 0,
    }


def test_strict_is_the_equality_of_the_reference_study() -> None:
    assert slots("Toy Story||1984", match="strict") == [1, 3, -3, -3, -3]
    assert slots("Toy Story|| 1984||toy story 2", match="strict") == [1, -2, -2, -3, -3]
    assert slots("Toy Story\n1984", match="strict") == [-2, -3, -3, -3, -3]
    assert slots("Toy Story||||1984", match="strict") == [1, -2, 3, -3, -3]
    assert slots("", match="strict") == [-3] * 5


def test_fuzzy_forgives_a_cut_end_but_no_sequel() -> None:
    titles = ["A very long title of a book, part 2", "A very long title of a book, part 3", "Heat"]
    assert slots("A very long title of a book, part", titles) == [-2, -3, -3, -3, -3]
    parsed = parse_answer("A very long title of a book, part", titles, match="fuzzy")
    assert parsed.slots.tolist() == [-2, -3, -3, -3, -3]
    assert parsed.counters["ambiguous"] == 1
    assert slots("A very long title of a book, part 4", titles, match="fuzzy")[0] == -2
    parsed = parse_answer("A very long title of a book, par", titles[1:], match="fuzzy")
    assert parsed.slots.tolist() == [0, -3, -3, -3, -3]
    assert parsed.counters["fuzzy_matches"] == 1
    assert slots("A very long", titles[1:], match="fuzzy")[0] == -2


def test_the_last_part_of_a_truncated_answer_is_compared_whole() -> None:
    assert slots("1984||Toy Story", truncated=True) == [3, 1, -3, -3, -3]
    assert slots("1984||toy story", truncated=True) == [3, 1, -3, -3, -3]
    assert slots("1984||2. Toy Story", truncated=True) == [3, -2, -3, -3, -3]
    assert slots("1984||2. Toy Story", truncated=False) == [3, 1, -3, -3, -3]
    long = ["Neutrogena Hand Cream"]
    assert slots("Neutrogena Hand Crea", long, match="fuzzy") == [0, -3, -3, -3, -3]
    assert slots("Neutrogena Hand Crea", long, match="fuzzy", truncated=True)[0] == -2


def test_an_ambiguous_title_is_a_miss_and_never_the_first() -> None:
    titles = ["Body Wash, Sensitive", "Heat", "Body Wash, Sensitive", "HEAT"]
    parsed = parse_answer("Body Wash, Sensitive||Heat||heat", titles)
    assert parsed.slots.tolist() == [-2, 1, -2, -3, -3]
    assert parsed.counters["ambiguous"] == 2
    assert parsed.counters["hallucinations"] == 0
    assert slots("Body Wash, Sensitive", titles, match="strict")[0] == -2


def test_titles_that_hold_the_separator_are_matched_longest_first() -> None:
    titles = ["a||b", "a", "b||c||d", "b"]
    assert slots("a||b||b||c||d||a", titles) == [0, 2, 1, -3, -3]
    assert slots("a||b", titles, match="strict") == [0, -3, -3, -3, -3]
    assert slots("b||a||x", titles) == [3, 1, -2, -3, -3]


def test_an_echoed_prompt_is_dropped() -> None:
    echo = "The 5 most likely titles:\nToy Story||The 5 most likely titles: 1984||C"
    parsed = parse_answer(echo, TITLES, lead_in="The 5 most likely titles:")
    assert parsed.slots.tolist() == [3, 6, -3, -3, -3]
    assert parsed.counters["repeated_prompts"] == 1


def test_one_title_a_line_is_read_with_a_blank_separator() -> None:
    assert slots("Toy Story\n1984\n", slots=1, separator="\n") == [1]


@pytest.mark.parametrize("settings", [{"slots": 0}, {"match": "loose"}])
def test_wrong_use_is_refused(settings: dict) -> None:
    with pytest.raises(ConfigError, match="expected"):
        parse_answer("x", TITLES, **settings)
