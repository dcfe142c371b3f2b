"""A tiny Llama folder as a GGUF file, written with llama.cpp's own package."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import dequantize, quantize
from safetensors.numpy import load_file

_NAMES = {
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def _gguf_name(name: str) -> str:
    if name == "model.embed_tokens.weight":
        return "token_embd.weight"
    if name == "model.norm.weight":
        return "output_norm.weight"
    _, _, layer, module = name.removesuffix(".weight").split(".", 3)
    return f"blk.{layer}.{_NAMES[module]}.weight"


def _rotary_order(weight: np.ndarray, n_heads: int) -> np.ndarray:
    """llama.cpp interleaves the two halves that transformers rotates against each other."""
    size = weight.shape[0] // n_heads
    halves = weight.reshape(n_heads, 2, size // 2, weight.shape[1])
    return halves.swapaxes(1, 2).reshape(weight.shape)


def write_gguf(
    folder: Path,
    file: Path,
    *,
    pre: str | None = "gpt-2",
    scaling: str | None = None,
    without: str | None = None,
) -> dict[str, np.ndarray]:
    """Write a tiny Llama as GGUF: matrices in Q4_1, vectors in float32.

    Args:
        folder: a Llama with tied embeddings and a byte-level BPE tokenizer.
        file: the GGUF file to write.
        pre: llama.cpp's name of how text is split.
        scaling: name of a rotary scaling to declare.
        without: GGUF name of a tensor to leave out.

    Returns:
        The values of the tensors as they are in the file, by transformers' names.
    """
    config = json.loads((folder / "config.json").read_text())
    core = json.loads((folder / "tokenizer.json").read_text())
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_name("Tiny")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    if scaling:
        writer.add_string("llama.rope.scaling.type", scaling)
    ids = sorted(core["model"]["vocab"].items(), key=lambda item: item[1])
    special = {token["content"] for token in core["added_tokens"]}
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list([token for token, _ in ids])
    writer.add_token_types([3 if token in special else 1 for token, _ in ids])
    writer.add_token_merges([" ".join(pair) for pair in core["model"]["merges"]])
    writer.add_pad_token_id(0)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_chat_template((folder / "chat_template.jinja").read_text())
    stored = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        heads = {"q_proj": "num_attention_heads", "k_proj": "num_key_value_heads"}
        turned = next((config[key] for part, key in heads.items() if part in name), None)
        if weight.ndim == 1:
            stored[name] = weight
            data, kind = weight, None
        else:
            kind = gguf.GGMLQuantizationType.Q4_1
            data = quantize(weight if turned is None else _rotary_order(weight, turned), kind)
            # Rows keep their blocks when they move, so the order does not matter to the values.
            stored[name] = dequantize(quantize(weight, kind), kind)
        if _gguf_name(name) != without:
            writer.add_tensor(_gguf_name(name), data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return stored
