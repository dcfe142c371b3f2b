"""UniSRec's model: a mixture of whitening experts over text vectors, then SASRec's encoder.

Source: Hou, Mu, Zhao, Li, Ding, Wen, "Towards Universal Sequence Representation Learning for
Recommender Systems", KDD 2022, sections 2.1 and 2.2, and its released model class, whose names of
parameters are kept.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.dropout import BitDropout
from bench.baselines.sequence_encoder import EncoderConfig, SequenceEncoder, initialise

__all__ = ["Adaptor", "UniSRecModel"]

_LEAST_NOISE = 1e-2


class Whitening(nn.Module):
    """One expert: ``(dropout(x) - b) W``, equation 1 of the paper."""

    def __init__(self, text_size: int, hidden_size: int, dropout: float) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(text_size))
        self.lin = nn.Linear(text_size, hidden_size, bias=False)
        self.dropout = BitDropout(dropout)

    def forward(self, texts: Tensor) -> Tensor:
        # W is applied to b once instead of to every row of x - b.
        weight = self.lin.weight
        made: Tensor = functional.linear(self.dropout(texts), weight) - weight @ self.bias
        return made


class Adaptor(nn.Module):
    """A mixture of all experts with gates that depend on the text, equations 2 to 4.

    In training the gates' logits carry normal noise of a learnt size.

    Args:
        text_size: size of the text vectors.
        hidden_size: size of the item vectors.
        n_experts: how many experts.
        dropout: on the text vectors, drawn for each expert apart.
    """

    def __init__(self, text_size: int, hidden_size: int, *, n_experts: int, dropout: float) -> None:
        super().__init__()
        self.experts = nn.ModuleList(
            Whitening(text_size, hidden_size, dropout) for _ in range(n_experts)
        )
        self.w_gate = nn.Parameter(torch.zeros(text_size, n_experts))
        self.w_noise = nn.Parameter(torch.zeros(text_size, n_experts))

    def gates(self, texts: Tensor) -> Tensor:
        """Weights of the experts, ``(..., n_experts)``, positive, with sum 1."""
        logits = texts @ self.w_gate
        if self.training:
            spread = functional.softplus(texts @ self.w_noise) + _LEAST_NOISE
            logits = logits + torch.randn_like(logits) * spread
        return logits.softmax(dim=-1)

    def forward(self, texts: Tensor) -> Tensor:
        """Text vectors ``(..., text_size)`` to item vectors ``(..., hidden_size)``."""
        gates = self.gates(texts).unbind(dim=-1)
        mixed = [
            gate[..., None] * expert(texts)
            for gate, expert in zip(gates, self.experts, strict=True)
        ]
        return torch.stack(mixed).sum(dim=0)


class UniSRecModel(SequenceEncoder):
    """Items by their text (``content``), optionally with a table of item ids on top.

    Args:
        config: sizes.
        n_items: items without padding.
        text_size: size of the text vectors.
        n_experts: experts of the adaptor.
        adaptor_dropout: dropout of the adaptor.
        ids: whether items also have a vector of their own (the released code's transductive mode).
    """

    def __init__(
        self,
        config: EncoderConfig,
        n_items: int,
        text_size: int,
        *,
        n_experts: int,
        adaptor_dropout: float,
        ids: bool,
    ) -> None:
        super().__init__(config)
        self.moe_adaptor = Adaptor(
            text_size, config.hidden_size, n_experts=n_experts, dropout=adaptor_dropout
        )
        self.item_embedding = nn.Embedding(n_items + 1, config.hidden_size) if ids else None
        for module in (*self.moe_adaptor.modules(), self.item_embedding):
            if module is not None:
                initialise(module)

    def item_vectors(self) -> Tensor:
        vectors: Tensor = self.moe_adaptor(self.content[1:])
        if self.item_embedding is not None:
            vectors = vectors + self.item_embedding.weight[1:]
        return vectors

    def input_vectors(self, items: Tensor) -> Tensor:
        # The adaptor reads each distinct item once: in training, places that hold the same item
        # share its noise.
        distinct, place = torch.unique(items, return_inverse=True)
        vectors: Tensor = self.moe_adaptor(self.content[distinct])
        if self.item_embedding is not None:
            vectors = vectors + self.item_embedding(distinct)
        return functional.embedding(place, vectors)
