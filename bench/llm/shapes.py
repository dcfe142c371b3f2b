"""Sizes of language models, from their configuration or as published: enough to count their arithmetic."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bench.llm.lora import LoraSpec

__all__ = ["PUBLISHED_SHAPES", "ModelShape", "shape_from_config"]


@dataclass(frozen=True, slots=True)
class ModelShape:
    """Sizes of a Llama-like decoder.

    Attributes:
        layers: decoder layers.
        hidden: width.
        inner: width of the gated feed-forward.
        heads: query heads.
        kv_heads: key and value heads.
        head_size: numbers per head.
        vocabulary: rows of the embedding.
        tied: whether embedding and vocabulary projection are one matrix.
    """

    layers: int
    hidden: int
    inner: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    tied: bool

    @property
    def projections(self) -> Mapping[str, tuple[int, int]]:
        """(outputs, inputs) of the linear layers of one decoder layer."""
        query, key = self.heads * self.head_size, self.kv_heads * self.head_size
        return {
            "q_proj": (query, self.hidden),
            "k_proj": (key, self.hidden),
            "v_proj": (key, self.hidden),
            "o_proj": (self.hidden, query),
            "gate_proj": (self.inner, self.hidden),
            "up_proj": (self.inner, self.hidden),
            "down_proj": (self.hidden, self.inner),
        }

    @property
    def block_weights(self) -> int:
        """Weights of all those layers."""
        return self.layers * sum(out * inputs for out, inputs in self.projections.values())

    @property
    def parameters(self) -> int:
        """Weights of the model; norms and biases, a few in a thousand, are left out."""
        return self.block_weights + (1 if self.tied else 2) * self.vocabulary * self.hidden

    @property
    def activations(self) -> int:
        """Elements that one token has in all layers: about 8 widths, 3 inner widths in each."""
        return self.layers * (8 * self.hidden + 3 * self.inner)

    def lora_weights(self, lora: LoraSpec) -> int:
        """Numbers in an adapter of this shape."""
        return self.layers * lora.r * sum(out + inputs for out, inputs in self._adapted(lora))

    def adapted_weights(self, lora: LoraSpec) -> int:
        """Numbers in the products B A of an adapter of this shape."""
        return self.layers * sum(out * inputs for out, inputs in self._adapted(lora))

    def _adapted(self, lora: LoraSpec) -> list[tuple[int, int]]:
        return [
            shape
            for name, shape in self.projections.items()
            if lora.targets == "all-linear" or name in lora.targets
        ]


PUBLISHED_SHAPES: Mapping[str, ModelShape] = {
    "smollm2-135m": ModelShape(30, 576, 1536, 9, 3, 64, 49_152, True),
    "Qwen/Qwen2-7B-Instruct": ModelShape(28, 3584, 18_944, 28, 4, 128, 152_064, False),
    "meta-llama/Llama-2-7b-chat-hf": ModelShape(32, 4096, 11_008, 32, 32, 128, 32_000, False),
}
"""Shapes from the models' published configurations, for plans if the model is absent."""


def shape_from_config(config: Mapping[str, Any]) -> ModelShape | None:
    """The shape that a model's ``config.json`` describes; None if it is no dense decoder."""
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "num_attention_heads")
    sizes = [config.get(name) for name in (*names, "vocab_size")]
    mixed = any(key.startswith("num_") and key.endswith("experts") for key in config)
    if mixed or not all(isinstance(size, int) and size > 0 for size in sizes):
        return None
    layers, hidden, inner, heads, vocabulary = (int(size) for size in sizes if size)
    return ModelShape(
        layers=layers,
        hidden=hidden,
        inner=inner,
        heads=heads,
        kv_heads=config.get("num_key_value_heads") or heads,
        head_size=config.get("head_dim") or hidden // heads,
        vocabulary=vocabulary,
        tied=bool(config.get("tie_word_embeddings", True)),
    )
