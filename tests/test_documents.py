"""JSON and YAML that anybody may have written: a value, or a reason in one sentence."""

from __future__ import annotations

import json

import pytest
import yaml

from bench.documents import DocumentError, parse_json, parse_yaml


def unfolding(levels: int) -> str:
    """A YAML text of ``9 ** levels`` values."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, levels)]
    return "\n".join(lines)


MERGED = "a0: &a0 {x: 1}\n" + "\n".join(
    f"a{i}: &a{i}\n  <<: [{', '.join([f'*a{i - 1}'] * 9)}]" for i in range(1, 12)
)

YAML = {
    "billion laughs": (unfolding(30), "unfold to more than 100,000 values"),
    "merged laughs": (MERGED, "unfold to more than 100,000 values"),
    "a list in itself": ("a: &a [*a]", "contains itself"),
    "a mapping in itself": ("&a {b: *a}", "contains itself"),
    "deep": ("[" * 2000 + "]" * 2000, "nested too deeply"),
    "deep within the parser's limit": ("[" * 150 + "]" * 150, "nested too deeply"),
    "an integer of 5,000 digits": ("a: " + "9" * 5000, "cannot be read"),
    "a hexadecimal one": ("a: 0x" + "f" * 5000, "20000 bits"),
    "an infinite number": ("a: [.inf]", "no finite number"),
    "no number": ("a: {b: .nan}", "no finite number"),
    "not UTF-8": (b"a: caf\xe9", "0xe9, which is not UTF-8"),
    "a control character": ("a: \x1b[2J", "unacceptable character"),
    "too long": ("#" * 5_000_000, "at most 4,000,000"),
    "month 13": ("a: 2024-13-45", "cannot be read"),
    "an unknown tag": ("a: !!python/object/apply:os.system [ls]", "constructor"),
    "a tag with the wrong value": ("a: !!timestamp today", "cannot be read"),
    "two documents": ("a: 1\n---\nb: 1", "another document"),
    "an unhashable key": ("? [1]\n: 2", "unhashable"),
}

JSON = {
    "deep": ("[" * 100_000, "nested too deeply"),
    "an integer of 5,000 digits": ('{"a": ' + "9" * 5000 + "}", "5000 digits"),
    "an integer of 70 bits": ("1" + "0" * 21, "22 digits"),
    "NaN": ('{"a": NaN}', "NaN is no JSON number"),
    "an infinity": ("[-Infinity]", "-Infinity is no JSON number"),
    "beyond the range": ("[1e999]", "1e999 is no JSON number"),
    "cut": ('{"a": ', "Expecting value at line 1"),
    "not UTF-8": (b'{"a": "caf\xe9"}', "0xe9, which is not UTF-8"),
    "empty": ("", "Expecting value"),
}


@pytest.mark.parametrize("case", YAML)
def test_hostile_yaml_is_refused(case):
    text, message = YAML[case]
    with pytest.raises(DocumentError, match=message):
        parse_yaml(text)


@pytest.mark.parametrize("case", JSON)
def test_hostile_json_is_refused(case):
    text, message = JSON[case]
    with pytest.raises(DocumentError, match=message):
        parse_json(text)


def test_the_line_is_known():
    with pytest.raises(DocumentError) as caught:
        parse_yaml("a: 1\nb: [1\n")
    assert caught.value.line == 3
    with pytest.raises(DocumentError) as caught:
        parse_json('{\n"a": 1,\n}')
    assert caught.value.line == 3


@pytest.mark.parametrize(
    "value",
    [None, True, -1.5e-3, 2**63, "t\u00eaxt \x7f", [], {"a": [1, {"b": None}]}, [[["x"]] * 3] * 3],
)
def test_ordinary_documents_are_what_the_standard_readers_give(value):
    text = json.dumps(value)
    assert parse_json(text) == parse_json(text.encode()) == json.loads(text)
    dumped = yaml.safe_dump(value)
    assert parse_yaml(dumped) == parse_yaml(dumped.encode()) == yaml.safe_load(dumped)


def test_a_yaml_key_that_stands_twice_is_refused():
    with pytest.raises(DocumentError, match="'rate' stands twice") as caught:
        parse_yaml("all:\n  rate: 1\n  size: 2\n  rate: 3\n")
    assert caught.value.line == 4


def test_references_are_allowed():
    assert parse_yaml("a: &x {r: 8}\nb: {<<: *x, alpha: 16}\nc: [*x, *x]") == {
        "a": {"r": 8},
        "b": {"r": 8, "alpha": 16},
        "c": [{"r": 8}, {"r": 8}],
    }
