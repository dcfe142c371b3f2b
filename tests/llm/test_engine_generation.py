"""Greedy answers against transformers' own ``generate``, one prompt at a time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from test_engine_scoring import VOCAB, load, write_adapter

from bench.llm.engines.transformers import TransformersEngine

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")


def prompts_of(n: int = 9) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    return [
        rng.integers(3, VOCAB, int(length)).astype(np.int32) for length in rng.integers(1, 50, n)
    ]


def own_generate(model, prompt: np.ndarray, budget: int, stop: list[int]) -> list[int]:
    """New tokens including the stop token, by the library."""
    ids = torch.from_numpy(prompt.astype(np.int64))[None]
    with torch.inference_mode():
        out = model.generate(
            input_ids=ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=budget,
            do_sample=False,
            eos_token_id=stop,
            pad_token_id=0,
        )
    return out[0, len(prompt) :].tolist()


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
@pytest.mark.parametrize("batch_tokens", [60, 4096])
def test_answers_equal_the_librarys(
    tiny_qwen2: Path, tmp_path: Path, adapted: bool, batch_tokens: int
) -> None:
    prompts = prompts_of()
    budgets = [1 + (5 * i) % 13 for i in range(len(prompts))]
    folder = write_adapter(tmp_path / "adapter", tiny_qwen2, 5) if adapted else None
    reference = load(tiny_qwen2)
    if adapted:
        reference = PeftModel.from_pretrained(reference, folder)
    endless = [own_generate(reference, p, b, []) for p, b in zip(prompts, budgets, strict=True)]
    # Tokens that really come up in the middle of answers end some of them.
    stop = sorted({answer[len(answer) // 2] for answer in endless[4:7]})
    engine = TransformersEngine(load(tiny_qwen2), batch_tokens=batch_tokens)
    found = engine.generate(prompts, max_new_tokens=budgets, stop=stop, adapter=folder)
    reasons = set()
    for answer, prompt, budget in zip(found, prompts, budgets, strict=True):
        expected = own_generate(reference, prompt, budget, stop)
        ended = expected[-1] in stop
        assert answer.tokens.dtype == np.int32
        assert answer.tokens.tolist() == (expected[:-1] if ended else expected)
        assert answer.finished == ("stop" if ended else "length")
        reasons.add(answer.finished)
    assert reasons == {"stop", "length"}


def test_an_adapter_changes_answers_and_leaves_the_base_alone(
    tiny_llama: Path, tmp_path: Path
) -> None:
    prompts = prompts_of(4)
    folder = write_adapter(tmp_path / "adapter", tiny_llama, 5)
    engine = TransformersEngine(load(tiny_llama))

    def answers(adapter: Path | None) -> list[list[int]]:
        found = engine.generate(prompts, max_new_tokens=[8] * 4, stop=[], adapter=adapter)
        return [one.tokens.tolist() for one in found]

    base = answers(None)
    assert answers(folder) != base
    assert answers(None) == base


def test_empty_answer_where_the_first_token_stops(tiny_llama: Path) -> None:
    prompts = prompts_of(2)
    engine = TransformersEngine(load(tiny_llama))
    first = engine.generate(prompts, max_new_tokens=[1, 1], stop=[], adapter=None)
    assert [answer.finished for answer in first] == ["length", "length"]
    stop = [int(answer.tokens[0]) for answer in first]
    found = engine.generate(prompts, max_new_tokens=[5, 5], stop=stop, adapter=None)
    assert [(len(answer.tokens), answer.finished) for answer in found] == [(0, "stop")] * 2
