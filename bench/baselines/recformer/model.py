"""RecFormer's encoder: a text encoder that also knows what a token is and which item it belongs to.

Li et al., "Text Is All You Need", KDD 2023, section 3.2. The authors' encoder is a Longformer; any
model of transformers with BERT's embedding layer is turned into one of the same kind: its table of
token types gets four rows, a table of item positions is added, and both are summed with words and
positions before the embedding's layer norm. Without a sliding window every token attends to all.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.recformer.masking import IGNORED
from bench.baselines.recformer.texts import TextBatch
from bench.baselines.text import Pooling
from bench.baselines.text.passes import first_position, pool
from bench.errors import ConfigError

__all__ = ["Recformer", "WordHead", "from_authors", "scored_rows"]

_TYPES = 4
_ITEMS = 51
_STD = 0.02


class Recformer(nn.Module):
    """Text encoder with token types, item positions and a matrix of item vectors.

    Args:
        backbone: a model of transformers with BERT's embedding layer, for example a Longformer.
        n_items: items of the target.
        max_history: most items of a sequence.
        pooling: how states become one vector.
        attention_window: span of a Longformer's local attention.

    Attributes:
        item_vectors: float32, shape ``(n_items, d)``, unit length; part of the model's state, no
            parameter.
    """

    item_vectors: Tensor

    def __init__(
        self,
        backbone: Any,
        *,
        n_items: int,
        max_history: int,
        pooling: Pooling,
        attention_window: int,
    ) -> None:
        super().__init__()
        embeddings = getattr(backbone, "embeddings", None)
        types = getattr(embeddings, "token_type_embeddings", None)
        if (
            embeddings is None
            or not isinstance(types, nn.Embedding)
            or not hasattr(embeddings, "position_embeddings")
        ):
            raise ConfigError(
                f"{type(backbone).__name__} has no embedding layer like BERT's (words, positions, "
                "token types). Choose a Longformer or a model of BERT's kind as the encoder."
            )
        hidden = int(backbone.config.hidden_size)
        if types.embedding_dim != hidden:
            raise ConfigError(
                f"{type(backbone).__name__} reads word vectors of {types.embedding_dim} dimensions into "
                f"states of {hidden}; the two must be equal here. Choose a Longformer or a model of "
                "BERT's kind as the encoder."
            )
        self.pooling = pooling
        self.is_longformer = backbone.config.model_type == "longformer"
        self.multiple = attention_window if self.is_longformer else 1
        self.pad_id = int(backbone.config.pad_token_id)
        self.first_position = first_position(backbone)
        if self.is_longformer:
            _set_window(backbone, attention_window)
        # Row 0 is what every token of a plain text had; the rest starts near it.
        fresh = nn.Embedding(_TYPES, hidden)
        nn.init.normal_(fresh.weight, std=_STD)
        with torch.no_grad():
            fresh.weight += types.weight[0]
        embeddings.token_type_embeddings = fresh.to(types.weight.device)
        backbone.config.type_vocab_size = _TYPES
        # The authors' table has 51 rows whatever is read of it; row 50 is padding and the 50th item.
        self.item_positions = nn.Embedding(max(_ITEMS, max_history + 1), hidden)
        nn.init.normal_(self.item_positions.weight, std=_STD)
        self.backbone = backbone
        self.register_buffer("item_vectors", torch.zeros(n_items, hidden))

    @property
    def padding_item(self) -> int:
        """Item position of padding."""
        return self.item_positions.num_embeddings - 1

    @property
    def longest(self) -> int:
        """Most tokens that the table of word positions has room for."""
        return int(self.backbone.config.max_position_embeddings) - self.first_position

    @property
    def words(self) -> nn.Embedding:
        """The table of word vectors."""
        table: nn.Embedding = self.backbone.embeddings.word_embeddings
        return table

    def states(self, batch: TextBatch, ids: Tensor | None = None) -> Tensor:
        """Last hidden states, shape ``(b, l, d)``; ``ids`` replaces the batch's token ids."""
        mask = batch.mask
        places = torch.arange(mask.shape[1], device=mask.device) + self.first_position
        further = {}
        if self.is_longformer:
            further["global_attention_mask"] = functional.one_hot(
                mask.new_zeros(len(mask)), mask.shape[1]
            )
        words = self.words(batch.ids if ids is None else ids)
        states: Tensor = self.backbone(
            inputs_embeds=words + self.item_positions(batch.items),
            attention_mask=mask,
            token_type_ids=batch.types,
            position_ids=torch.where(mask.bool(), places, self.pad_id),
            **further,
        ).last_hidden_state
        return states

    def forward(self, batch: TextBatch) -> Tensor:
        """Vectors of unit length, float32, shape ``(b, d)``."""
        return functional.normalize(pool(self.states(batch), batch.mask, self.pooling), dim=-1)


def _set_window(backbone: Any, window: int) -> None:
    """Give every layer of a Longformer the same span; positions in it have no weights."""
    backbone.config.attention_window = [window] * int(backbone.config.num_hidden_layers)
    for layer in backbone.encoder.layer:
        layer.attention.self.one_sided_attn_window_size = window // 2


class WordHead(nn.Module):
    """Predicts hidden words: dense, GELU, layer norm, then the table of word vectors itself."""

    def __init__(self, hidden: int, vocabulary: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)
        self.bias = nn.Parameter(torch.zeros(vocabulary))

    def loss(self, states: Tensor, labels: Tensor, words: nn.Embedding) -> Tensor:
        """Mean cross-entropy (nats) over the labelled tokens.

        Args:
            states: shape ``(b, l, d)``.
            labels: int64, shape ``(b, l)``, ``IGNORED`` where nothing is predicted; at least one is
                not.
            words: the table of word vectors.
        """
        hidden = labels != IGNORED
        projected = self.norm(functional.gelu(self.dense(states[hidden])))
        logits = functional.linear(projected, words.weight, self.bias)
        return functional.cross_entropy(logits.float(), labels[hidden])


def scored_rows(model: Recformer, users: Tensor, temperature: float) -> Tensor:
    """Cosines of users with all items, divided by the temperature: float32, ``(b, n_items)``."""
    with torch.autocast(users.device.type, enabled=False):
        return users.float() @ model.item_vectors.T / temperature


def from_authors(state: Mapping[str, Tensor], origin: str) -> dict[str, Tensor]:
    """Names of :class:`Recformer` for the weights of a checkpoint of the authors' code.

    Their encoder sits below ``longformer.`` or ``model.longformer.``, depending on which of their
    scripts wrote the file.

    Raises:
        ConfigError: the file holds no such encoder.
    """
    anchor = "embeddings.item_position_embeddings.weight"
    prefixes = [name.removesuffix(anchor) for name in state if name.endswith(anchor)]
    if len(prefixes) != 1:
        raise ConfigError(
            f"checkpoint {origin}: found {len(prefixes)} tensors named ...{anchor}, expected one. Give "
            "a checkpoint of RecFormer's own pre-training."
        )
    found = {}
    for name, value in state.items():
        if name.startswith(prefixes[0]):
            own = name.removeprefix(prefixes[0])
            found["item_positions.weight" if own == anchor else f"backbone.{own}"] = value
    return found
