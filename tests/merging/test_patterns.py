"""Expressions over module names mean what they mean to PEFT, and none is matched for hours."""

from __future__ import annotations

import time

import pytest

from bench.errors import ConfigError
from bench.merging import patterns
from bench.merging.patterns import expression_fault, values_of

NAMES = [
    f"model.layers.{layer}.{part}"
    for layer in (0, 1, 10, 21)
    for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp.up_proj", "mlp.gate_up_proj")
] + ["lm_head", "odd[0]+.q_proj"]
KEYS = [
    "q_proj",
    r"layers\.1\..*",
    "layers.1",
    "^model.layers.0.*",
    r"layers\.([0-9])+\.self_attn\.[qk]_proj",
    "(\\w+\\.)*up_proj",
    r"(model\.)?(layers\.)?(2\d)?(\.\w+)+",
    "(?:(1|0)+)\\.mlp\\.(?!gate)\\w+",
    "(up|gate)_proj|k_proj",
    "odd[0]+.q_proj",
    "model.layers.10.mlp.up_proj",
    "",
    ".*?(.)\\1.*",
]


@pytest.mark.parametrize("keys", [*([key] for key in KEYS), KEYS, KEYS[::-1]])
def test_the_value_of_a_module_is_that_of_peft(keys):
    from peft.utils.other import get_pattern_key

    values = {key: i for i, key in enumerate(keys)}
    theirs = [values.get(get_pattern_key(keys, name), -1) for name in NAMES]
    assert values_of(values, NAMES, -1) == theirs
    assert all(expression_fault(key) is None for key in keys)


def test_both_roads_find_the_same():
    endings = [patterns._ending(key) for key in KEYS]
    assert patterns._first_apart(endings, NAMES) == patterns._first_here(endings, NAMES)


@pytest.mark.parametrize("key", ["(.+)+x", ".*" * 30 + "x", "(a|a)*$x", "((\\w+)\\.?)+!"])
def test_an_expression_that_takes_hours_is_stopped(key, monkeypatch):
    monkeypatch.setattr(patterns, "_SECONDS", 0.5)
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=r"more than 0\.5 s"):
        values_of({key: 4}, ["a" * 200], 1)
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("key", ["q_proj(", "q{99999999999}", "(" * 5000 + ")" * 5000, "[", "*"])
def test_what_is_no_expression_is_named(key):
    assert expression_fault(key)
