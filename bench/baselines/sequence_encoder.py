"""SASRec's causal Transformer over item vectors that a subclass makes, scored by cosines.

Modules and parameters have the names of RecBole's ``SASRec`` (1.2.1), because the published weights
of UniSRec and VQ-Rec have them. It computes the same; a test holds the two against each other.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal, Self

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.batches import Batch, length_groups
from bench.baselines.dropout import BitDropout
from bench.baselines.losses import full_softmax_loss
from bench.baselines.training import LoopConfig

__all__ = [
    "ENCODER_PARTS",
    "EncoderConfig",
    "SequenceEncoder",
    "cosine_softmax",
    "encode_groups",
    "initialise",
    "predictions",
]

_NORM_EPSILON = 1e-12
_INITIAL_STD = 0.02

ENCODER_PARTS = ("position_embedding.", "trm_encoder.")
"""Prefixes of the weights that stay as pre-trained when a pre-trained model is tuned."""


class EncoderConfig(LoopConfig):
    """Sizes and dropout of the sequence encoder.

    Attributes:
        hidden_size: size of the item vectors and of the states.
        inner_size: size of the feed-forward layers.
        n_layers: Transformer layers.
        n_heads: attention heads per layer; divides ``hidden_size``.
        hidden_dropout_prob: dropout on states.
        attn_dropout_prob: dropout on attention weights.
        temperature: cosines are divided by it in every loss.
        rows: rows of an epoch of the main training: every prefix of a sequence is one, or every
            sequence is one with all its positions.
    """

    hidden_size: int = Field(default=64, ge=1)
    inner_size: int = Field(default=256, ge=1)
    n_layers: int = Field(default=2, ge=1)
    n_heads: int = Field(default=2, ge=1)
    hidden_dropout_prob: float = Field(default=0.5, ge=0, lt=1)
    attn_dropout_prob: float = Field(default=0.5, ge=0, lt=1)
    temperature: float = Field(default=0.07, gt=0)
    rows: Literal["prefixes", "all-positions"] = "all-positions"
    batch_size: int = Field(default=2048, ge=1)

    @model_validator(mode="after")
    def _heads_divide(self) -> Self:
        if self.hidden_size % self.n_heads:
            raise ValueError(
                f"hidden_size={self.hidden_size} is not a multiple of n_heads={self.n_heads}"
            )
        return self


class _Attention(nn.Module):
    """Multi-head causal self-attention with residual and LayerNorm (RecBole: MultiHeadAttention)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        size = config.hidden_size
        self.query = nn.Linear(size, size)
        self.key = nn.Linear(size, size)
        self.value = nn.Linear(size, size)
        self.attn_dropout = BitDropout(config.attn_dropout_prob)
        self.dense = nn.Linear(size, size)
        self.LayerNorm = nn.LayerNorm(size, eps=_NORM_EPSILON)
        self.out_dropout = BitDropout(config.hidden_dropout_prob)
        self._heads = config.n_heads

    def forward(self, states: Tensor) -> Tensor:
        b, length, size = states.shape
        query, key, value = (
            part(states).view(b, length, self._heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        scores = query @ key.transpose(2, 3) / (size // self._heads) ** 0.5
        # Rows are padded on the right, so that no real position sees a padding one through it.
        future = torch.ones(length, length, dtype=torch.bool, device=states.device).triu(1)
        weights = self.attn_dropout(scores.masked_fill(future, -torch.inf).softmax(dim=-1))
        context = (weights @ value).transpose(1, 2).reshape(b, length, size)
        made: Tensor = self.LayerNorm(self.out_dropout(self.dense(context)) + states)
        return made


class _FeedForward(nn.Module):
    """Two layers with residual and LayerNorm (RecBole: FeedForward)."""

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.dense_1 = nn.Linear(config.hidden_size, config.inner_size)
        self.dense_2 = nn.Linear(config.inner_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=_NORM_EPSILON)
        self.dropout = BitDropout(config.hidden_dropout_prob)

    def forward(self, states: Tensor) -> Tensor:
        inner = self.dense_2(functional.gelu(self.dense_1(states)))
        made: Tensor = self.LayerNorm(self.dropout(inner) + states)
        return made


class _Layer(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.multi_head_attention = _Attention(config)
        self.feed_forward = _FeedForward(config)

    def forward(self, states: Tensor) -> Tensor:
        made: Tensor = self.feed_forward(self.multi_head_attention(states))
        return made


class _Layers(nn.Module):
    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList(_Layer(config) for _ in range(config.n_layers))

    def forward(self, states: Tensor) -> Tensor:
        for layer in self.layer:
            states = layer(states)
        return states


class SequenceEncoder(nn.Module, ABC):
    """Item vectors to sequence vectors; a subclass says what an item's vector is.

    Args:
        config: sizes; ``max_history`` is the size of the position table.

    Attributes:
        content: what is known of every item, shape ``(n_items + 1, ...)``, row 0 for padding; no
            parameter and no part of the weights.
    """

    content: Tensor

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.register_buffer("content", torch.zeros(1), persistent=False)
        self.position_embedding = nn.Embedding(config.max_history, config.hidden_size)
        self.trm_encoder = _Layers(config)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=_NORM_EPSILON)
        self.dropout = BitDropout(config.hidden_dropout_prob)
        for module in self.modules():
            initialise(module)

    @abstractmethod
    def item_vectors(self) -> Tensor:
        """Vectors of all items, float, shape ``(n_items, hidden_size)``; row i is item index i."""

    @abstractmethod
    def input_vectors(self, items: Tensor) -> Tensor:
        """Vectors of model ids (0 = padding), shape ``(...)`` -> ``(..., hidden_size)``."""

    def states(self, vectors: Tensor) -> Tensor:
        """States of every position.

        Args:
            vectors: float, shape ``(b, l, hidden_size)``, right-padded; l <= ``max_history``.

        Returns:
            Float, shape ``(b, l, hidden_size)``; those of padding positions mean nothing.
        """
        positions = self.position_embedding.weight[: vectors.shape[1]]
        made: Tensor = self.trm_encoder(self.dropout(self.LayerNorm(vectors + positions)))
        return made

    def encode(self, vectors: Tensor, lengths: Tensor) -> Tensor:
        """The state of the last real position, float, shape ``(b, hidden_size)``.

        Args:
            vectors: as in :meth:`states`.
            lengths: int64, shape ``(b,)``, >= 1.
        """
        rows = torch.arange(len(lengths), device=lengths.device)
        return self.states(vectors)[rows, lengths - 1]

    def freeze(self) -> None:
        """Let positions and Transformer layers stay as they are."""
        for name, parameter in self.named_parameters():
            if name.startswith(ENCODER_PARTS):
                parameter.requires_grad_(False)


def initialise(module: nn.Module) -> None:
    """RecBole's initial weights: N(0, 0.02), biases 0, LayerNorms 1."""
    if isinstance(module, (nn.Linear, nn.Embedding)):
        nn.init.normal_(module.weight, std=_INITIAL_STD)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)


def cosine_softmax(hidden: Tensor, items: Tensor, targets: Tensor, temperature: float) -> Tensor:
    """Mean cross-entropy over all items of ``cos(hidden, items) / temperature``.

    Args:
        hidden: float, shape ``(n, d)``.
        items: float, shape ``(n_items, d)``.
        targets: int64, shape ``(n,)``, rows of ``items``.
        temperature: > 0.
    """
    states = functional.normalize(hidden.float(), dim=-1) / temperature
    return full_softmax_loss(states, functional.normalize(items.float(), dim=-1), targets)


def predictions(
    model: SequenceEncoder, batch: Batch, device: torch.device
) -> tuple[Tensor, Tensor]:
    """The states of a batch that predict an item, and the item that each of them predicts.

    Args:
        model: the encoder.
        batch: of rows ``prefixes`` (one target per row) or ``all-positions``.
        device: its device.

    Returns:
        hidden, float, shape ``(n, hidden_size)``, and targets, int64, shape ``(n,)``, model ids, in
        the same order, which need not be that of the batch.
    """
    targets = torch.from_numpy(batch.targets).to(device)
    vectors = model.input_vectors(torch.from_numpy(batch.items).to(device))
    if targets.dim() == 2:
        real = targets > 0
        return model.states(vectors)[real], targets[real]
    hidden, order = encode_groups(model, vectors, batch.lengths)
    return hidden, targets[order]


def encode_groups(
    model: SequenceEncoder, vectors: Tensor, lengths: NDArray[np.int64]
) -> tuple[Tensor, Tensor]:
    """Encode the rows of a batch in groups of like length, which saves work on padding.

    Args:
        model: the encoder.
        vectors: float, shape ``(b, l, hidden_size)``, right-padded.
        lengths: int64, shape ``(b,)``, >= 1.

    Returns:
        the last states, shape ``(b, hidden_size)``, and the row of the batch of each of them.
    """
    groups = length_groups(lengths)
    ends = torch.from_numpy(lengths).to(vectors.device)
    hidden = [model.encode(vectors[g, : int(lengths[g].max())], ends[g]) for g in groups]
    return torch.cat(hidden), torch.from_numpy(np.concatenate(groups)).to(vectors.device)
