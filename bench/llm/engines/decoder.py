"""Forward pass of Llama-like decoders over forests of prompts and branches.

All tokens of a batch lie in one row without padding; the linear layers, norms and rotations run over
it at once. Attention runs in two parts whose softmaxes are joined exactly by their normalisers: the
prompts, each causal and alone, with the branches of a user reading that user's prompt without any
mask; and the branches among themselves, one causal row per path of a tree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from bench.llm.engines.attention import causal, join, with_normaliser
from bench.llm.engines.lora_factors import Factors
from bench.llm.engines.sizes import padded
from bench.llm.engines.tree import Forest

__all__ = ["ForestDecoder", "is_known"]

FAMILIES = ("llama", "qwen2")
"""``model_type`` of configurations whose layers are RMSNorm, grouped rotary attention, RMSNorm and
a SiLU-gated feed-forward, with residuals."""

_ROTARY = ("default", "linear", "llama3")
"""Rotary embeddings whose angles depend on nothing but the position."""

Lora = tuple[Tensor, Tensor] | None
"""Stacked factors of linear layers with one input: A ``(R, d_in)`` and B transposed ``(R, d_out)``."""


def is_known(model: Any) -> bool:
    """Whether :class:`ForestDecoder` computes what the model does."""
    config = model.config
    if config.model_type not in FAMILIES or config.hidden_act not in ("silu", "swish"):
        return False
    if config.rope_parameters.get("rope_type", "default") not in _ROTARY:
        return False
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"}:
        return False
    head = model.get_output_embeddings()
    linear = [m for m in model.model.layers.modules() if isinstance(m, nn.Linear)]
    return (
        len(linear) == 7 * config.num_hidden_layers
        and all(type(layer) is nn.Linear for layer in (*linear, head))
        and len({p.device for p in model.parameters()}) == 1
    )


class ForestDecoder:
    """The decoder layers of a model; holds its weights once and changes nothing in what it computes."""

    def __init__(self, model: Any) -> None:
        self._model = model.model
        self._layers = [
            _Layer(f"model.layers.{i}", layer, model.config)
            for i, layer in enumerate(model.model.layers)
        ]
        self._norm = _Norm(model.model.norm)

    def prepare(self, factors: Mapping[str, Factors] | None) -> list[_LayerLora] | None:
        """Stack an adapter's factors for :meth:`__call__`."""
        return None if factors is None else [layer.stack(factors) for layer in self._layers]

    def __call__(self, forest: Forest, lora: list[_LayerLora] | None) -> Tensor:
        """Final hidden states, after the last norm, of the tokens in ``forest.read``.

        Returns:
            Shape ``(n_read, hidden)``.
        """
        device = self._model.embed_tokens.weight.device
        hidden = self._model.embed_tokens(padded(torch.from_numpy(forest.tokens).to(device)))
        positions = padded(torch.from_numpy(forest.positions).to(device))
        cosine, sine = self._model.rotary_emb(hidden[None], positions[None])
        plan = _Plan.of(forest, cosine[0], sine[0], self._layers[0], device)
        for i, layer in enumerate(self._layers):
            hidden = layer(hidden, plan, None if lora is None else lora[i])
        return self._norm(hidden[torch.from_numpy(forest.read).to(device)])


@dataclass(frozen=True, slots=True)
class _LayerLora:
    """Stacked factors of the four products of one layer."""

    qkv: Lora
    out: Lora
    gate_up: Lora
    down: Lora


@dataclass(frozen=True, slots=True)
class _Plan:
    """What all layers share of one forest, on the device.

    Attributes:
        cosine: ``(n, 1, head size)``.
        sine: the same with the first half's sign changed.
        query: places of the paths' queries in the (node, query head) rows, ``(paths * heads *
            longest,)``; None without nodes.
        key: the same for keys and values, repeated for the query heads that share them.
        back: places of the nodes' results in the paths' results.
        shape: paths, query heads, longest path.
    """

    forest: Forest
    cosine: Tensor
    sine: Tensor
    query: Tensor | None
    key: Tensor | None
    back: Tensor | None
    shape: tuple[int, int, int]

    @classmethod
    def of(
        cls, forest: Forest, cosine: Tensor, sine: Tensor, layer: _Layer, device: torch.device
    ) -> _Plan:
        half = sine.shape[-1] // 2
        sine = torch.cat((-sine[:, :half], sine[:, half:]), dim=-1)
        n_q, n_k = layer.heads
        n_paths, longest = forest.paths.shape
        if not forest.paths.size:
            return cls(forest, cosine[:, None], sine[:, None], None, None, None, (0, n_q, 0))
        paths = torch.from_numpy(forest.paths).to(device)[:, None, :]
        head = torch.arange(n_q, device=device)[:, None]
        first = torch.from_numpy(forest.first).to(device)[:, None]
        path, place = first // longest, first % longest
        return cls(
            forest,
            cosine[:, None],
            sine[:, None],
            (paths * n_q + head).reshape(-1),
            (paths * n_k + head // (n_q // n_k)).reshape(-1),
            ((path * n_q + head[:, 0]) * longest + place).reshape(-1),
            (n_paths, n_q, longest),
        )


class _Layer:
    """One decoder layer: norm, attention, norm, gated feed-forward, with residuals."""

    def __init__(self, name: str, layer: Any, config: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.heads = (config.num_attention_heads, config.num_key_value_heads)
        self._head_size: int = attention.head_dim
        self._scale: float = attention.scaling
        self._norm = _Norm(layer.input_layernorm)
        self._second_norm = _Norm(layer.post_attention_layernorm)
        self._qkv = _Linears(name + ".self_attn", attention, "q_proj", "k_proj", "v_proj")
        self._out = _Linears(name + ".self_attn", attention, "o_proj")
        self._gate_up = _Linears(name + ".mlp", mlp, "gate_proj", "up_proj")
        self._down = _Linears(name + ".mlp", mlp, "down_proj")

    def stack(self, factors: Mapping[str, Factors]) -> _LayerLora:
        return _LayerLora(
            self._qkv.stack(factors),
            self._out.stack(factors),
            self._gate_up.stack(factors),
            self._down.stack(factors),
        )

    def __call__(self, hidden: Tensor, plan: _Plan, lora: _LayerLora | None) -> Tensor:
        qkv = self._qkv(self._norm(hidden), None if lora is None else lora.qkv)
        mixed = self._attention(qkv, plan)
        hidden = self._out.add(hidden, mixed, None if lora is None else lora.out)
        gate_up = self._gate_up(self._second_norm(hidden), None if lora is None else lora.gate_up)
        gate, up = gate_up.chunk(2, dim=-1)
        inner = F.silu(gate).mul_(up)
        return self._down.add(hidden, inner, None if lora is None else lora.down)

    def _attention(self, qkv: Tensor, plan: _Plan) -> Tensor:
        """(n, (H + 2 K) e) to (n, H e)."""
        n_q, n_k = self.heads
        by_head = qkv.view(len(qkv), n_q + 2 * n_k, self._head_size)
        rotated = _rotate(by_head[:, : n_q + n_k], plan)
        q, k, v = rotated[:, :n_q], rotated[:, n_q:], by_head[:, n_q + n_k :]
        out = torch.empty_like(q)
        cut, end = plan.forest.n_prompt, len(plan.forest.tokens)
        out[end:] = 0  # rows that nobody asked for
        to_prompt = out[cut:end]
        normaliser = q.new_empty((end - cut, n_q), dtype=torch.float32)
        for (start, stop), (first, last) in zip(
            plan.forest.prompts, plan.forest.nodes, strict=True
        ):
            keys, values = k[start:stop], v[start:stop]
            out[start:stop] = causal(q[start:stop], keys, values, self._scale)
            if last > first:
                part = _to_prompt(q[cut + first : cut + last], keys, values, self._scale)
                to_prompt[first:last], normaliser[first:last] = part
        if plan.query is not None and plan.key is not None and plan.back is not None:
            size = (*plan.shape, self._head_size)
            own, own_normaliser = with_normaliser(
                _take(q[cut:], plan.query).view(size),
                _take(k[cut:], plan.key).view(size),
                _take(v[cut:], plan.key).view(size),
                self._scale,
                is_causal=True,
            )
            own = own.reshape(-1, self._head_size).index_select(0, plan.back)
            own_normaliser = own_normaliser.reshape(-1).index_select(0, plan.back)
            to_prompt.copy_(
                join(
                    (to_prompt, normaliser),
                    (own.view(to_prompt.shape), own_normaliser.view(normaliser.shape)),
                )
            )
        return out.view(len(qkv), -1)


class _Norm:
    """Root-mean-square norm, in float32 and rounded once; few passes over memory."""

    def __init__(self, norm: Any) -> None:
        self._weight: Tensor = norm.weight.detach().float()
        self._epsilon: float = norm.variance_epsilon

    def __call__(self, x: Tensor) -> Tensor:
        wide = x.to(torch.float32, copy=True)
        scale = torch.linalg.vector_norm(wide, dim=-1, keepdim=True)
        scale.square_().div_(x.shape[-1]).add_(self._epsilon).rsqrt_()
        return wide.mul_(scale).mul_(self._weight).to(x.dtype)


def _take(x: Tensor, places: Tensor) -> Tensor:
    """Rows of (n, heads, e), counted over token and head."""
    return x.reshape(-1, x.shape[-1]).index_select(0, places)


def _to_prompt(q: Tensor, k: Tensor, v: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """Attention of (n, H, e) to all of a prompt's (m, K, e), and its normaliser (n, H)."""
    (n, n_q, size), (m, n_k, _) = q.shape, k.shape
    # Key heads as the batch: the query heads of a group read the same keys without a copy.
    grouped = q.view(n, n_k, n_q // n_k, size).permute(1, 2, 0, 3)
    k, v = (x.transpose(0, 1)[:, None].expand(n_k, n_q // n_k, m, size) for x in (k, v))
    out, normaliser = with_normaliser(grouped, k, v, scale)
    return out.permute(2, 0, 1, 3).reshape(n, n_q, size), normaliser.permute(2, 0, 1).reshape(
        n, n_q
    )


def _rotate(x: Tensor, plan: _Plan) -> Tensor:
    """Rotary embedding of (n, heads, e)."""
    half = x.shape[-1] // 2
    swapped = torch.cat((x[..., half:], x[..., :half]), dim=-1)
    return (x * plan.cosine).addcmul_(swapped, plan.sine)


class _Linears:
    """Linear layers with one input, computed as one; the layers keep views of the stacked weight."""

    def __init__(self, prefix: str, parent: Any, *names: str) -> None:
        layers = [getattr(parent, name) for name in names]
        self._names = [f"{prefix}.{name}" for name in names]
        self._sizes = [layer.out_features for layer in layers]
        self._weight = _stack([layer.weight for layer in layers])
        self._transposed = self._weight.t()
        biases = [layer.bias for layer in layers]
        self._bias = None if biases[0] is None else torch.cat([b.detach() for b in biases])

    def stack(self, factors: Mapping[str, Factors]) -> Lora:
        """The factors of these layers, B as one block-diagonal matrix: one product for all."""
        own = [factors.get(name) for name in self._names]
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

    def __call__(self, x: Tensor, lora: Lora) -> Tensor:
        """The layers' outputs side by side."""
        out = F.linear(x, self._weight, self._bias)
        return out if lora is None else out.addmm_(F.linear(x, lora[0]), lora[1])

    def add(self, total: Tensor, x: Tensor, lora: Lora) -> Tensor:
        """Add the layer's output to ``total`` in place."""
        total.addmm_(x, self._transposed)
        if self._bias is not None:
            total.add_(self._bias)
        return total if lora is None else total.addmm_(F.linear(x, lora[0]), lora[1])


def _stack(weights: list[nn.Parameter]) -> Tensor:
    """The weights one below the other, in memory once."""
    if len(weights) == 1:
        return weights[0].detach()
    stacked = torch.cat([weight.detach() for weight in weights])
    start = 0
    for weight in weights:
        weight.data = stacked[start : start + len(weight)]
        start += len(weight)
    return stacked
