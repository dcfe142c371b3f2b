"""Families that are computed by their own forward pass, against plain transformers."""

from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from llm_examples import random_examples
from peft import PeftModel
from test_engine_scoring import CHOICES, sample, separate, separate_choice, worst, write_adapter
from torch.nn import functional
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    Gemma3TextConfig,
    GemmaConfig,
    GPT2Config,
    GPTNeoConfig,
    GPTNeoXConfig,
    Lfm2Config,
    MistralConfig,
    MptConfig,
    PhiConfig,
    PreTrainedConfig,
    Qwen3Config,
)

from bench.llm.batching import pack
from bench.llm.engines import transformers as engine_module
from bench.llm.engines.transformers import TransformersEngine
from bench.llm.own_forward import plain_loss, takes_tree_mask

# PEFT asks the model for a property under a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

SIZES: dict[str, Any] = {
    "vocab_size": 384, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4
}  # fmt: skip
WIDER = {**SIZES, "intermediate_size": 64, "num_key_value_heads": 2}
OLDER: dict[str, Any] = {"vocab_size": 384, "n_layer": 2, "n_head": 4}
UNDER_A_MASK = {
    "gemma": GemmaConfig(**WIDER, head_dim=8),
    "gemma2": Gemma2Config(  # caps its logits; one layer has a window
        **WIDER, head_dim=8, sliding_window=8, final_logit_softcapping=3.0
    ),
    "gemma3": Gemma3TextConfig(**WIDER, head_dim=8, sliding_window=8),
    "gpt2": GPT2Config(**OLDER, n_embd=32),
    "gpt-neox": GPTNeoXConfig(**SIZES, intermediate_size=64),
    "mistral": MistralConfig(**WIDER, sliding_window=8),
    "phi": PhiConfig(**WIDER),
    "qwen3": Qwen3Config(**WIDER, head_dim=8),
}
ROW_BY_ROW = {
    "bloom": BloomConfig(**OLDER, hidden_size=32),  # distances are counted in the row
    "gpt-neo": GPTNeoConfig(  # a window over places in the row
        vocab_size=384, hidden_size=32, num_layers=2, num_heads=4, intermediate_size=64,
        attention_types=[[["global", "local"], 1]], window_size=8,
    ),
    "lfm2": Lfm2Config(**WIDER, layer_types=["conv", "full_attention"]),  # convolutions
    "mpt": MptConfig(vocab_size=384, d_model=32, n_layers=2, n_heads=4),  # takes masks, errs
}  # fmt: skip


def random_model(config: PreTrainedConfig, dtype: torch.dtype = torch.float32) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(deepcopy(config), dtype=dtype)
        model.requires_grad_(False).eval()
        for name, parameter in model.named_parameters():
            if "norm" not in name:
                parameter.normal_(std=0.3)
    return model


@pytest.mark.parametrize("name", [*UNDER_A_MASK, *ROW_BY_ROW])
def test_scores_equal_separate_forwards(name: str) -> None:
    model = random_model((UNDER_A_MASK | ROW_BY_ROW)[name])
    prompts, branches = sample(n=3, n_branches=8)
    engine = TransformersEngine(model, batch_tokens=200)
    assert engine._llama is None
    assert engine._takes_mask is (name in UNDER_A_MASK)
    expected = separate(model, prompts, branches)
    assert worst(engine.branch_log_probs(prompts, branches, adapter=None), expected) < 1e-4
    assert min(float(row.std()) for row in expected[:-1]) > 1
    choice = engine.branch_choice(prompts, branches, CHOICES, adapter=None)
    assert worst(choice, separate_choice(model, prompts, branches)) < 1e-4
    assert not model.get_output_embeddings()._forward_pre_hooks


@pytest.mark.parametrize("name", ["qwen3", "phi"])
def test_adapters_are_added_under_a_mask(name: str, tmp_path: Path) -> None:
    model = random_model(UNDER_A_MASK[name])
    model.save_pretrained(tmp_path / "model")
    folder = write_adapter(tmp_path / "adapter", tmp_path / "model", 0)
    prompts, branches = sample(n=2, n_branches=6)
    engine = TransformersEngine(model)
    base = engine.branch_log_probs(prompts, branches, adapter=None)
    found = engine.branch_log_probs(prompts, branches, adapter=folder)
    reference = PeftModel.from_pretrained(random_model(UNDER_A_MASK[name]), folder)
    assert worst(found, separate(reference, prompts, branches)) < 1e-4
    assert worst(found, base) > 1


@pytest.mark.parametrize("name", ["gemma2", "gpt2", "qwen3"])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_rounding_is_not_taken_for_disobedience(name: str, dtype: torch.dtype) -> None:
    assert takes_tree_mask(random_model(UNDER_A_MASK[name], dtype))
    assert not takes_tree_mask(random_model(ROW_BY_ROW["mpt"], dtype))


def test_a_kernel_without_masks_is_given_none() -> None:
    model = random_model(UNDER_A_MASK["qwen3"])
    model.config._attn_implementation = "flash_attention_2"
    assert not takes_tree_mask(model)


def test_tokens_are_counted_as_they_are_read() -> None:
    prompt = np.arange(3, 13, dtype=np.int32)
    branches = [np.array(ids, dtype=np.int32) for ids in ([9, 10, 11], [9, 10, 12], [8, 7])]
    for config, expected in ((UNDER_A_MASK["gpt2"], 10 + 3), (ROW_BY_ROW["bloom"], 12 + 11)):
        engine = TransformersEngine(random_model(config))
        engine.branch_log_probs([prompt], [branches], adapter=None)
        assert engine.tokens_processed == expected


def test_wide_vocabularies_are_scored_in_smaller_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = TransformersEngine(random_model(UNDER_A_MASK["qwen3"]))
    prompts, branches = sample(n=2, n_branches=8)
    whole = engine.branch_log_probs(prompts, branches, adapter=None)
    n_read = engine.tokens_processed
    monkeypatch.setattr(engine_module, "_LOGITS_BYTES", 4 * 384 * 70)
    pieces = engine.branch_log_probs(prompts, branches, adapter=None)
    assert engine.tokens_processed > 2 * n_read
    assert worst(pieces, whole) < 1e-4


@pytest.mark.parametrize("name", ["gemma2", "lfm2", "phi", "qwen3"])
def test_the_loss_is_that_of_all_logits_with_the_head_at_labels_alone(name: str) -> None:
    model = random_model((UNDER_A_MASK | ROW_BY_ROW)[name])
    examples = random_examples(5, 30)
    packed = pack(examples, range(5))
    expected = 0.0
    for start, end in zip(examples.offsets, examples.offsets[1:], strict=False):
        ids = torch.from_numpy(examples.tokens[start:end].astype(np.int64))
        wanted = torch.from_numpy(examples.labelled[start:end])[1:]
        logits = model(input_ids=ids[None], use_cache=False).logits[0, :-1]
        expected += float(
            functional.cross_entropy(logits[wanted], ids[1:][wanted], reduction="sum")
        )
    shapes = []
    model.get_output_embeddings().register_forward_hook(
        lambda _head, states, _logits: shapes.append(states[0].shape)
    )
    assert float(plain_loss(model, packed)) == pytest.approx(expected, rel=1e-5)
    assert shapes == [(examples.n_labelled, 32)]
