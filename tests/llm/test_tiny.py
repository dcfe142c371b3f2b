from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import torch
from tiny import SPECIAL_TOKENS, TRAINING_TEXT, tiny_backbone


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.iterdir()}


@pytest.mark.parametrize("architecture", ["llama", "qwen2"])
def test_equal_arguments_write_equal_folders_and_leave_the_global_generator(
    tmp_path: Path, architecture: str
) -> None:
    state = torch.get_rng_state()
    first = digests(tiny_backbone(tmp_path / "a", architecture))
    torch.randn(3)
    torch.set_rng_state(state)
    assert first == digests(tiny_backbone(tmp_path / "b", architecture))
    assert torch.equal(state, torch.get_rng_state())
    other = digests(tiny_backbone(tmp_path / "c", architecture, seed=5))
    assert {name for name in first if first[name] != other[name]} == {"model.safetensors"}


def test_the_tokenizer_is_lossless_and_knows_its_special_tokens(tiny_llama: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_llama)
    for text in [*TRAINING_TEXT, "déjà vu — 東京 🎬", "  two  blanks ", "a <|im_end|> b"]:
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)
    assert len(tokenizer) == 384
    assert 2 not in tokenizer.encode("a <|im_end|> b", split_special_tokens=True)


def test_the_chat_template_renders_all_roles(tiny_qwen2: Path) -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_qwen2)
    messages = [{"role": role, "content": role.upper()} for role in ("system", "user", "assistant")]
    text = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nSYSTEM<|im_end|>\n<|im_start|>user\nUSER<|im_end|>\n"
        "<|im_start|>assistant\nASSISTANT<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("fixture", ["tiny_llama", "tiny_qwen2"])
def test_predictions_depend_on_the_prompt(fixture: str, request: pytest.FixtureRequest) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(request.getfixturevalue(fixture)).eval()
    with torch.inference_mode():
        logits = model(torch.tensor([[5, 9, 40, 77], [300, 9, 40, 77]])).logits[:, -1]
    assert 1 < logits.std() < 5
    assert (logits[0] - logits[1]).abs().max() > 0.5
