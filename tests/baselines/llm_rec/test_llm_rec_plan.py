"""What a training of LLM-Rec is said to cost before it is run."""

from __future__ import annotations

import pytest

from bench.baselines.llm_rec.config import LLMRecConfig
from bench.baselines.llm_rec.estimates import training_seconds, training_tokens
from bench.baselines.llm_rec.method import LLMRec
from bench.methods import DomainSize, PlanSpec

# Titles of 8 bytes are two tokens and a separator, of 200 bytes they are cut at 24.
FEW = DomainSize(sequences={1: 5, 4: 2}, titles={8: 3, 200: 1})
LONG = DomainSize(sequences={13: 1}, titles={8: 1})
FEW_TITLE = (3 * 3 + 24) / 4


def test_tokens_are_those_of_all_prefixes_and_their_choices() -> None:
    config = LLMRecConfig(negatives=4)
    # Two sequences of four events: histories of 1, 2 and 3, each with a choice among 5 titles.
    few = FEW_TITLE * 2 * (1 + 2 + 3 + 3 * 5)
    assert training_tokens([FEW], config) == round(few)
    # Twelve rows; the last two histories are cut at ten items.
    long = 3 * (sum(range(1, 11)) + 10 + 10 + 12 * 5)
    assert training_tokens([LONG], config) == long
    assert training_tokens([FEW, LONG], config) == round(few + long)
    assert training_tokens([FEW], config.model_copy(update={"epochs": 3})) == round(3 * few)


def test_steps_take_their_share_of_a_pass() -> None:
    config = LLMRecConfig(steps=3, batch_size=4)
    whole = LLMRecConfig()
    assert training_tokens([LONG], config) == training_tokens([LONG], whole)
    assert training_tokens([DomainSize({1: 9}, {8: 1})], config) == 0


def test_time_is_known_for_the_default_encoder_on_a_processor_only() -> None:
    config = LLMRecConfig()
    seconds = training_seconds(145_000, config, device="cpu", dtype="bfloat16", threads=1)
    assert seconds == pytest.approx(100)
    assert training_seconds(145_000, config, device="cpu", dtype="bfloat16", threads=2) == 50
    assert training_seconds(145_000, config, device="cpu", dtype="float32", threads=1) > 300  # type: ignore[operator]
    for other, device in (({"encoder": "x"}, "cpu"), ({"lora_rank": 4}, "cpu"), ({}, "cuda")):
        changed = LLMRecConfig(**other)
        assert training_seconds(9, changed, device=device, dtype="bfloat16", threads=1) is None


def test_the_plan_holds_the_estimate_where_all_sizes_are_known() -> None:
    method = LLMRec(LLMRecConfig())
    spec = PlanSpec("a", ("b",), "cpu", 0, dtype="bfloat16", sizes={"a": FEW, "b": LONG})
    (training, *_) = method.plan(spec)
    tokens = training_tokens([FEW, LONG], method.config)
    assert training.tokens == tokens
    assert training.seconds == pytest.approx(tokens / 1450)
    (unknown, *_) = method.plan(PlanSpec("a", ("b",), "cpu", 0, sizes={"a": FEW}))
    assert (unknown.tokens, unknown.seconds) == (None, None)
