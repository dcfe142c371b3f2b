"""A random tiny text encoder as a folder: what the tests of this room run instead of a download."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

SPECIAL_TOKENS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
"""Token ids 0 to 4."""

LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"

WORDS = (
    *("the", "of", "and", "item", "shampoo", "cream", "lotion", "body", "wash", "hand", "hair"),
    *("toy", "story", "star", "wars", "blue", "red", "green", "small", "large", "pack", "set"),
)


def tiny_encoder(
    folder: Path,
    *,
    architecture: Literal["bert", "longformer"] = "bert",
    hidden: int = 32,
    seed: int = 0,
    positions: int = 512,
) -> Path:
    """Write a random two-layer encoder and its WordPiece tokenizer to ``folder``.

    The weights are drawn wide enough for the vectors of different texts to differ clearly. Every
    word over ``a-z0-9`` can be written in word pieces, so that no text becomes unknown tokens only.

    Args:
        folder: where the model goes; created.
        architecture: which of the two; the Longformer's local attention looks 8 tokens either way.
        hidden: width of the model, split over four attention heads.
        seed: of the weights; the tokenizer is always the same.
        positions: longest input in tokens.

    Returns:
        ``folder``, loadable by ``AutoModel`` and ``AutoTokenizer``.
    """
    import torch
    from transformers import AutoModel, BertConfig, LongformerConfig

    tokenizer = tiny_wordpiece(positions)
    sizes = {
        "vocab_size": len(tokenizer),
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "pad_token_id": 0,
        "type_vocab_size": 2,
    }
    if architecture == "longformer":
        # Positions count from padding_idx + 1 on, as in the published models.
        config = LongformerConfig(
            **sizes, max_position_embeddings=positions + 2, attention_window=16, sep_token_id=3
        )
    else:
        config = BertConfig(**sizes, max_position_embeddings=positions)
    with torch.random.fork_rng(devices=[]):
        model = AutoModel.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            values = torch.randn(parameter.shape, generator=generator)
            if "LayerNorm.weight" in name:
                parameter.copy_(1 + 0.1 * values)
            else:
                parameter.copy_(0.2 * (32 / hidden) ** 0.5 * values)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def tiny_wordpiece(positions: int = 512):
    """A lower-casing WordPiece tokenizer of letters, digits and a few words."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    pieces = (*SPECIAL_TOKENS, *LETTERS, *(f"##{one}" for one in LETTERS), *WORDS)
    core = Tokenizer(
        models.WordPiece(
            {piece: at for at, piece in enumerate(dict.fromkeys(pieces))}, unk_token="[UNK]"
        )
    )
    core.normalizer = normalizers.BertNormalizer(lowercase=True)
    core.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    core.decoder = decoders.WordPiece()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        mask_token="[MASK]",
        model_max_length=positions,
    )
