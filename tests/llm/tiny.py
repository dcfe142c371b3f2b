"""A random tiny language model as a folder: what the tests of this room run instead of a download."""

from __future__ import annotations

import string
from pathlib import Path
from typing import Literal

SPECIAL_TOKENS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
"""Token ids 0, 1, 2: padding and end of text, start of a turn, end of a turn."""

CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)

TRAINING_TEXT = (
    "You are a recommendation assistant. system user assistant",
    "The user bought: 1. Toy Story (1995) 2. The Lion King (1994) 3. Heat (1995)",
    "Dove Men+Care Body Wash, Sensitive Shield, 18 oz || Neutrogena Hand Cream || Yes || No",
    "Answer with the title of the next item. Candidates: Star Wars (1977), Titanic (1997)",
    string.printable,
)


def tiny_backbone(
    folder: Path,
    architecture: Literal["llama", "mistral", "qwen2"] = "llama",
    vocab: int = 384,
    seed: int = 0,
    hidden: int = 32,
) -> Path:
    """Write a random two-layer model and its byte-level BPE tokenizer to ``folder``.

    The weights are drawn wide enough for next-token distributions to differ clearly between
    prompts (a logit has a standard deviation of about 2). As in the real models, Llama shares its
    input and output embeddings (like SmolLM2), Qwen2 has separate ones and attention biases, and
    Mistral's heads are not as wide as the model divided by their number.

    Args:
        folder: where the model goes; created.
        architecture: which of the three.
        vocab: tokens, >= 300 (256 bytes, 3 special tokens, merges).
        seed: of the weights; the tokenizer is always the same.
        hidden: width of the model, split over four attention heads.

    Returns:
        ``folder``, loadable by ``AutoModelForCausalLM`` and ``AutoTokenizer``.
    """
    import torch
    from transformers import AutoModelForCausalLM, LlamaConfig, MistralConfig, Qwen2Config

    sizes = {
        "vocab_size": vocab,
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": architecture == "llama",
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
    }
    if architecture == "mistral":
        sizes |= {"head_dim": hidden // 2, "sliding_window": None}
    configs = {"llama": LlamaConfig, "mistral": MistralConfig, "qwen2": Qwen2Config}
    config = configs[architecture](**sizes)
    with torch.random.fork_rng(devices=[]):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            if "norm" in name:
                parameter.copy_(1 + 0.1 * values)
            else:
                parameter.copy_(0.35 * (32 / hidden) ** 0.5 * values)
    model.save_pretrained(folder)
    tiny_tokenizer(vocab).save_pretrained(folder)
    return folder


def tiny_tokenizer(vocab: int = 384):
    """A byte-level BPE tokenizer with at most ``vocab`` tokens, trained on the text above."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        show_progress=False,
        special_tokens=[AddedToken(token, special=True) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    core.train_from_iterator(TRAINING_TEXT, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        bos_token="<|im_start|>",
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=4096,
        clean_up_tokenization_spaces=False,
    )
