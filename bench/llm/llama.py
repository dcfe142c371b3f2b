"""Llama-like models computed from their own weights: the loss of packed sequences, the states of forests.

A decoder layer of these families is RMSNorm, attention with rotary embedding and grouped heads,
RMSNorm and a SiLU-gated feed-forward, with residuals. Training (:meth:`Llama.loss`) runs the fused
functions of :mod:`bench.llm.fused` over PEFT's LoRA layers and projects labelled positions only;
scoring (:meth:`Llama.states`) changes what it can in place and attends by
:mod:`bench.llm.engines.attention`. In both all tokens lie in one row without padding.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name
from torch.utils.checkpoint import checkpoint

from bench.llm.batching import Packed
from bench.llm.engines.attention import ForestPlan, forest_attention
from bench.llm.engines.sizes import padded
from bench.llm.engines.tree import Forest
from bench.llm.engines.updates import Update
from bench.llm.fused import lora_linear, packed_attention, rms_norm, sequence_attention, swiglu
from bench.llm.losses import chunked_cross_entropy
from bench.llm.own_forward import plain_loss, recompute_layers

__all__ = ["FAMILIES", "LayerLora", "Llama", "is_known", "loss_function"]

FAMILIES = ("llama", "mistral", "qwen2")
"""``model_type`` of configurations with such layers."""

_LENGTH_DEPENDENT = ("dynamic", "longrope")
"""Rotary embeddings whose angles depend on the longest text of a pass."""

_PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
_ADAPTER = "default"

Lora = tuple[Tensor, Tensor] | None
"""Stacked factors of linear layers with one input: A ``(R, d_in)`` and B transposed ``(R, d_out)``."""


def is_known(model: Any) -> bool:
    """Whether :class:`Llama` computes exactly what ``model`` does, with or without PEFT's LoRA layers."""
    config = model.config
    if config.model_type not in FAMILIES or config.hidden_act not in ("silu", "swish"):
        return False
    if config.model_type == "mistral" and config.sliding_window is not None:
        return False
    head = model.get_output_embeddings()
    linear = [
        getattr(module, "base_layer", module)
        for name, module in model.model.layers.named_modules()
        if name.rpartition(".")[2] in _PROJECTIONS
    ]
    return (
        config.rope_parameters.get("rope_type") not in _LENGTH_DEPENDENT
        and not set(getattr(config, "layer_types", None) or ()) - {"full_attention"}
        and not getattr(config, "attention_dropout", 0.0)
        and len(linear) == len(_PROJECTIONS) * config.num_hidden_layers
        # Quantised layers are subclasses.
        and all(type(layer) is nn.Linear for layer in (*linear, head))
        and head.bias is None
        and len({p.device for p in model.parameters()}) == 1
    )


def loss_function(
    model: Any, *, gradient_checkpointing: bool = False
) -> Callable[[Packed], Tensor]:
    """The function from packed sequences to their summed loss (float32 scalar, nats) under any model.

    Args:
        model: causal language model with the layers of :func:`bench.llm.lora.attach_lora`.
        gradient_checkpointing: keep only the input of every layer and compute the layer again in the
            backward pass.
    """
    model.train()  # dropout of the adapter
    if is_known(model):
        return Llama(model, gradient_checkpointing=gradient_checkpointing).loss
    if gradient_checkpointing:
        recompute_layers(model)
    return lambda packed: plain_loss(model, packed)


class Llama:
    """A model of the known families.

    Replaces no function of the model. Weights with one input become views of one stacked tensor, whose
    values are the same; nothing is held twice.

    Args:
        model: causal language model of transformers for which :func:`is_known` holds.
        gradient_checkpointing: in training, keep only the input of every layer and compute the layer
            again in the backward pass.
    """

    def __init__(self, model: Any, *, gradient_checkpointing: bool = False) -> None:
        self._embedding: nn.Module = model.get_input_embeddings()
        self._head: Tensor = model.get_output_embeddings().weight
        self._rotary = model.model.rotary_emb
        self._norm = model.model.norm
        self._layers = [
            _Layer(f"model.layers.{i}", layer, model.config)
            for i, layer in enumerate(model.model.layers)
        ]
        self._checkpointing = gradient_checkpointing

    def loss(self, packed: Packed) -> Tensor:
        """Summed loss of packed sequences, float32 scalar (nats), with gradients for LoRA's factors."""
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
                hidden = checkpoint(layer.train, hidden, cosine, sine, bounds, use_reentrant=False)
            else:
                hidden = layer.train(hidden, cosine, sine, bounds)
        hidden = hidden[torch.from_numpy(packed.predicting).to(device)]
        hidden = rms_norm(hidden, self._norm.weight, self._norm.variance_epsilon)
        return chunked_cross_entropy(hidden, self._head, torch.from_numpy(packed.labels).to(device))

    def stack(self, updates: Mapping[str, Update]) -> list[LayerLora]:
        """Stack an adapter's updates, by name of the module, for :meth:`states`."""
        return [layer.stack(updates) for layer in self._layers]

    def states(self, forest: Forest, lora: list[LayerLora] | None) -> Tensor:
        """Final hidden states, after the last norm, of the tokens in ``forest.read``.

        Returns:
            Shape ``(n_read, hidden)``.
        """
        device = self._head.device
        hidden = self._embedding(padded(torch.from_numpy(forest.tokens).to(device)))
        positions = padded(torch.from_numpy(forest.positions).to(device))
        cosine, sine = self._rotary(hidden[None], positions[None])
        plan = ForestPlan.of(forest, cosine[0], sine[0], self._layers[0].heads)
        for i, layer in enumerate(self._layers):
            hidden = layer.read(hidden, plan, None if lora is None else lora[i])
        return _normed(hidden[torch.from_numpy(forest.read).to(device)], self._norm)


@dataclass(frozen=True, slots=True)
class LayerLora:
    """Stacked factors of the four products of one layer."""

    qkv: Lora
    out: Lora
    gate_up: Lora
    down: Lora


_NO_LORA = LayerLora(None, None, None, None)


class _Layer:
    """One decoder layer: norm, attention, norm, gated feed-forward, with residuals."""

    def __init__(self, name: str, layer: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.heads = (config.num_attention_heads, config.num_key_value_heads)
        self._scale: float = attention.scaling
        self._norm, self._second_norm = layer.input_layernorm, layer.post_attention_layernorm
        self._qkv = _Linears(name + ".self_attn", attention, "q_proj", "k_proj", "v_proj")
        self._out = _Linears(name + ".self_attn", attention, "o_proj")
        self._gate_up = _Linears(name + ".mlp", mlp, "gate_proj", "up_proj")
        self._down = _Linears(name + ".mlp", mlp, "down_proj")

    def train(
        self, hidden: Tensor, cosine: Tensor, sine: Tensor, bounds: tuple[int, ...]
    ) -> Tensor:
        norm, second = self._norm, self._second_norm
        qkv = self._qkv.train(rms_norm(hidden, norm.weight, norm.variance_epsilon))
        attend = packed_attention if qkv.device.type == "cpu" else sequence_attention
        mixed = attend(qkv, cosine, sine, bounds, self.heads, self._scale)
        hidden = hidden + self._out.train(mixed)
        gate_up = self._gate_up.train(rms_norm(hidden, second.weight, second.variance_epsilon))
        return hidden + self._down.train(swiglu(gate_up))

    def stack(self, updates: Mapping[str, Update]) -> LayerLora:
        return LayerLora(
            self._qkv.stack(updates),
            self._out.stack(updates),
            self._gate_up.stack(updates),
            self._down.stack(updates),
        )

    def read(self, hidden: Tensor, plan: ForestPlan, lora: LayerLora | None) -> Tensor:
        lora = lora or _NO_LORA
        qkv = self._qkv.read(_normed(hidden, self._norm), lora.qkv)
        mixed = forest_attention(qkv, plan, self._scale)
        hidden = self._out.add(hidden, mixed, lora.out)
        gate, up = self._gate_up.read(_normed(hidden, self._second_norm), lora.gate_up).chunk(2, -1)
        return self._down.add(hidden, F.silu(gate).mul_(up), lora.down)


def _normed(x: Tensor, norm: Any) -> Tensor:
    """Root-mean-square norm, in float32 and rounded once; few passes over memory."""
    wide = x.to(torch.float32, copy=True)
    scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
    scale.square_().div_(x.shape[-1]).add_(norm.variance_epsilon).rsqrt_()
    return wide.mul_(scale).mul_(norm.weight.float()).to(x.dtype)


class _Linears:
    """Linear layers with one input, computed as one; the layers keep views of the stacked weight."""

    def __init__(self, prefix: str, parent: Any, *names: str) -> None:
        layers = [getattr(parent, name) for name in names]
        bases = [getattr(layer, "base_layer", layer) for layer in layers]
        self._names = [f"{prefix}.{name}" for name in names]
        self._adapted = tuple(hasattr(layer, "lora_A") for layer in layers)
        self._lora = [layer for layer in layers if hasattr(layer, "lora_A")]
        self._sizes = tuple(base.out_features for base in bases)
        self._weight = _stack([base.weight for base in bases])
        biases = [base.bias for base in bases]
        self._bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])

    def train(self, x: Tensor) -> Tensor:
        """The outputs side by side, with PEFT's layers and a graph for the backward pass."""
        if not self._lora:
            return F.linear(x, self._weight, self._bias)
        factors = [f[_ADAPTER].weight for one in self._lora for f in (one.lora_A, one.lora_B)]
        first = self._lora[0]
        # One mask for the layers of a group; PEFT draws one per layer.
        dropped = first.lora_dropout[_ADAPTER](x)
        scaling = first.scaling[_ADAPTER]
        return lora_linear(
            x, dropped, self._weight, self._bias, scaling, self._sizes, self._adapted, *factors
        )

    def stack(self, updates: Mapping[str, Update]) -> Lora:
        """The factors of these layers, B as one block-diagonal matrix: one product for all."""
        own = [updates.get(name) for name in self._names]
        known = [f for f in own if f is not None]
        if not known:
            return None
        a = torch.cat([f.a for f in known])
        b = a.new_zeros(len(a), sum(self._sizes))
        row = column = 0
        for size, f in zip(self._sizes, own, strict=True):
            if f is not None:
                b[row : row + len(f.a), column : column + size] = f.b.t()
                row += len(f.a)
            column += size
        return a, b

    def read(self, x: Tensor, lora: Lora) -> Tensor:
        """The outputs side by side, with stacked factors and without a graph."""
        out = F.linear(x, self._weight, self._bias)
        return out if lora is None else out.addmm_(F.linear(x, lora[0]), lora[1])

    def add(self, total: Tensor, x: Tensor, lora: Lora) -> Tensor:
        """Add what :meth:`read` returns to ``total``, in place."""
        total.addmm_(x, self._weight.t())
        if self._bias is not None:
            total.add_(self._bias)
        return total if lora is None else total.addmm_(F.linear(x, lora[0]), lora[1])


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
