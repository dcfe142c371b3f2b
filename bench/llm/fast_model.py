"""The loss of packed sequences under a causal language model with PEFT's LoRA layers.

For the families whose decoder layers are known (:data:`FAMILIES`), the layers are computed from their
weights by the fused functions of :mod:`bench.llm.fused`, and the vocabulary projection runs at
labelled positions only (:mod:`bench.llm.losses`). Any other model is computed by its own forward on a
padded batch: slower, the same loss.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.checkpoint import checkpoint

from bench.llm.batching import Packed
from bench.llm.fused import (
    lora_linear,
    packed_attention,
    rms_norm,
    sequence_attention,
    swiglu,
)
from bench.llm.losses import chunked_cross_entropy

__all__ = ["FAMILIES", "FastModel", "is_known", "loss_function", "plain_loss"]

# `model_type` of configurations whose decoder layers are: RMSNorm, attention with rotary embedding
# and grouped heads (with or without bias), RMSNorm, gate/up/down with SiLU.
FAMILIES = ("llama", "mistral", "qwen2")

_ADAPTER = "default"


def loss_function(
    model: Any, *, gradient_checkpointing: bool = False
) -> Callable[[Packed], Tensor]:
    """Make the function from packed sequences to their summed loss (float32 scalar, nats).

    Args:
        model: causal language model with the layers of :func:`bench.llm.lora.attach_lora`.
        gradient_checkpointing: keep only the input of every layer and compute the layer again in the
            backward pass.
    """
    model.train()  # dropout of the adapter
    if is_known(model):
        return FastModel(model, gradient_checkpointing=gradient_checkpointing)
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lambda packed: plain_loss(model, packed)


def is_known(model: Any) -> bool:
    """Whether :class:`FastModel` computes exactly what ``model`` does."""
    config = model.config
    windows = set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
    if config.model_type == "mistral" and config.sliding_window is not None:
        return False
    return (
        config.model_type in FAMILIES
        and not windows
        and config.hidden_act in ("silu", "swish")
        and not getattr(config, "attention_dropout", 0.0)
        and model.get_output_embeddings().bias is None
        and all(type(module) is nn.Linear for module in _base_layers(model))
    )


def plain_loss(model: Any, packed: Packed) -> Tensor:
    """Summed loss by the model's own forward on a right-padded batch with full logits."""
    device = model.get_input_embeddings().weight.device
    lengths = np.diff(packed.bounds)
    real = np.arange(lengths.max(initial=1)) < lengths[:, None]
    tokens = np.zeros(real.shape, dtype=np.int64)
    tokens[real] = packed.tokens
    mask = torch.from_numpy(real).to(device)
    logits = model(
        input_ids=torch.from_numpy(tokens).to(device), attention_mask=mask, use_cache=False
    ).logits[mask]
    chosen = logits[torch.from_numpy(packed.predicting).to(device)].float()
    return F.cross_entropy(chosen, torch.from_numpy(packed.labels).to(device), reduction="sum")


class FastModel:
    """Loss of packed sequences for the known families, from the model's own weights.

    Replaces no function of the model. Weights with one input become views of one stacked tensor, whose
    values are the same; nothing is held twice.
    """

    def __init__(self, model: Any, *, gradient_checkpointing: bool = False):
        self._embedding: nn.Module = model.get_input_embeddings()
        self._head: Tensor = model.get_output_embeddings().weight
        self._rotary = model.model.rotary_emb
        self._norm = model.model.norm
        self._layers = [_Layer.of(layer, model.config) for layer in model.model.layers]
        self._checkpointing = gradient_checkpointing

    def __call__(self, packed: Packed) -> Tensor:
        device = self._head.device
        # No gradient is wanted here; it begins at the first adapted layer.
        with torch.no_grad():
            hidden = self._embedding(torch.from_numpy(packed.tokens).to(device))
            positions = torch.from_numpy(packed.positions).to(device)
            cosine, sine = (part[0] for part in self._rotary(hidden[None], positions[None]))
            half = cosine.shape[-1] // 2
            cosine, sine = cosine[:, :half].contiguous(), sine[:, :half].contiguous()
        bounds = tuple(packed.bounds.tolist())
        for layer in self._layers:
            if self._checkpointing:
                hidden = checkpoint(layer, hidden, cosine, sine, bounds, use_reentrant=False)
            else:
                hidden = layer(hidden, cosine, sine, bounds)
        hidden = hidden[torch.from_numpy(packed.predicting).to(device)]
        hidden = rms_norm(hidden, self._norm.weight, self._norm.variance_epsilon)
        return chunked_cross_entropy(hidden, self._head, torch.from_numpy(packed.labels).to(device))


@dataclass(slots=True)
class _Layer:
    """One decoder layer: norm, attention, norm, gated feed-forward, with residuals."""

    norm: Any
    qkv: _Linears
    out: _Linears
    second_norm: Any
    gate_up: _Linears
    down: _Linears
    heads: tuple[int, int]
    scale: float

    @classmethod
    def of(cls, layer: Any, config: Any) -> _Layer:
        attention, mlp = layer.self_attn, layer.mlp
        return cls(
            norm=layer.input_layernorm,
            qkv=_Linears(attention.q_proj, attention.k_proj, attention.v_proj),
            out=_Linears(attention.o_proj),
            second_norm=layer.post_attention_layernorm,
            gate_up=_Linears(mlp.gate_proj, mlp.up_proj),
            down=_Linears(mlp.down_proj),
            heads=(config.num_attention_heads, config.num_key_value_heads),
            scale=attention.scaling,
        )

    def __call__(
        self, hidden: Tensor, cosine: Tensor, sine: Tensor, bounds: tuple[int, ...]
    ) -> Tensor:
        norm, second = self.norm, self.second_norm
        qkv = self.qkv(rms_norm(hidden, norm.weight, norm.variance_epsilon))
        attend = packed_attention if qkv.device.type == "cpu" else sequence_attention
        mixed = attend(qkv, cosine, sine, bounds, self.heads, self.scale)
        hidden = hidden + self.out(mixed)
        gate_up = self.gate_up(rms_norm(hidden, second.weight, second.variance_epsilon))
        return hidden + self.down(swiglu(gate_up))


class _Linears:
    """Linear layers with one input, adapted or not, computed side by side."""

    def __init__(self, *layers: Any):
        self._layers = layers
        bases = [getattr(layer, "base_layer", layer) for layer in layers]
        self._adapted = tuple(hasattr(layer, "lora_A") for layer in layers)
        self._weight = _stack([base.weight for base in bases])
        biases = [base.bias for base in bases]
        self._bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])
        self._sizes = tuple(base.out_features for base in bases)

    def __call__(self, x: Tensor) -> Tensor:
        if not any(self._adapted):
            return F.linear(x, self._weight, self._bias)
        adapted = [layer for layer in self._layers if hasattr(layer, "lora_A")]
        factors = [
            factor[_ADAPTER].weight for layer in adapted for factor in (layer.lora_A, layer.lora_B)
        ]
        # One mask for the layers of a group; PEFT draws one per layer.
        dropped = adapted[0].lora_dropout[_ADAPTER](x)
        return lora_linear(
            x,
            dropped,
            self._weight,
            self._bias,
            adapted[0].scaling[_ADAPTER],
            self._sizes,
            self._adapted,
            *factors,
        )


def _stack(weights: list[nn.Parameter]) -> Tensor:
    """The weights one below the other; the layers keep views, so nothing is held twice."""
    if len(weights) == 1:
        return weights[0].detach()
    stacked = torch.cat([weight.detach() for weight in weights])
    start = 0
    for weight in weights:
        weight.data = stacked[start : start + len(weight)]
        start += len(weight)
    return stacked


def _base_layers(model: Any) -> list[nn.Module]:
    """The projections of all decoder layers, without what LoRA puts around them."""
    names = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    return [
        getattr(module, "base_layer", module)
        for layer in model.model.layers
        for name, module in layer.named_modules()
        if name.rpartition(".")[2] in names
    ]
