"""LLM-Rec's encoder: a title, or titles one after the other, become one vector.

Tang et al., "One Model for All", TOIS 2025, section 3: users and items share all weights, and a user is
the concatenation of the titles of the newest items.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.text import Pooling
from bench.baselines.text.passes import pass_groups, pool
from bench.baselines.text.title_tokens import TokenTable, lay_out, n_tokens, tokenise
from bench.data.domain import Sequences

__all__ = ["TextEncoder", "TextWriter", "title_table"]

_SEPARATOR = "; "


def title_table(titles: Sequence[str], tokenizer: Any, *, title_tokens: int) -> TokenTable:
    """Tokens of every title and of the separator behind it, cut after ``title_tokens``."""
    return tokenise([title + _SEPARATOR for title in titles], tokenizer).cut(title_tokens)


@dataclass(frozen=True, slots=True)
class TextWriter:
    """Writes item sequences as token batches: the first special token, then all titles in order.

    Attributes:
        first_id: id of the first special token (``[CLS]``); there is no last one.
        pad_id: id of padding.
        max_tokens: most tokens behind the first one.
    """

    first_id: int
    pad_id: int
    max_tokens: int

    def write(self, table: TokenTable, sequences: Sequences) -> tuple[Tensor, Tensor]:
        """Token ids and mask (1 = token), int64, shape ``(b, l)``; rows may be empty."""
        rows = lay_out(table, sequences, most=self.max_tokens)
        width = 1 + int(rows.lengths.max(initial=0))
        ids = rows.padded(
            table.ids[rows.source], fill=self.pad_id, first=self.first_id, width=width
        )
        mask = (np.arange(width) <= rows.lengths[:, None]).astype(np.int64)
        return torch.from_numpy(ids), torch.from_numpy(mask)


class TextEncoder(nn.Module):
    """A text encoder of transformers with pooling.

    Args:
        backbone: the model.
        pooling: how states become one vector.
        temperature: see :meth:`scores`.
    """

    def __init__(self, backbone: Any, *, pooling: Pooling, temperature: float | None) -> None:
        super().__init__()
        self.backbone = backbone
        self.pooling = pooling
        self.temperature = temperature

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        """Vectors, float32, shape ``(b, d)``; of unit length if there is a temperature."""
        states = self.backbone(input_ids=ids, attention_mask=mask).last_hidden_state
        pooled = pool(states, mask, self.pooling)
        return pooled if self.temperature is None else functional.normalize(pooled, dim=-1)

    def encode(self, writer: TextWriter, table: TokenTable, sequences: Sequences) -> Tensor:
        """Vectors of item sequences, in groups of like length: float32, shape ``(b, d)``."""
        device = next(self.parameters()).device
        widths = 1 + n_tokens(table, sequences, most=writer.max_tokens)
        groups = pass_groups(widths, device)
        parts = []
        for rows in groups:
            ids, mask = writer.write(table, sequences.take(rows))
            parts.append(self(ids.to(device), mask.to(device)))
        if not parts:
            return torch.zeros(0, int(self.backbone.config.hidden_size), device=device)
        back = np.argsort(np.concatenate(groups), kind="stable")
        return torch.cat(parts)[torch.from_numpy(back).to(device)]

    def encode_items(
        self, writer: TextWriter, table: TokenTable, items: NDArray[np.integer]
    ) -> Tensor:
        """Vectors of items, each by itself: float32, shape ``(len(items), d)``."""
        return self.encode(writer, table, Sequences.of_single_items(items))

    def scale(self) -> float:
        """Factor of the dot products in the training loss."""
        return 1.0 if self.temperature is None else 1.0 / self.temperature

    def scores(self, users: Tensor, items: Tensor) -> Tensor:
        """Scores of all items, float32, shape ``(b, n)``.

        Dot products are divided by the root of their dimension, as in the authors' evaluation, which
        changes no order; cosines by the temperature.
        """
        factor = self.scale() if self.temperature else 1.0 / math.sqrt(users.shape[1])
        with torch.autocast(users.device.type, enabled=False):
            return users.float() @ items.float().T * factor

    def loss(
        self,
        writer: TextWriter,
        table: TokenTable,
        place: NDArray[np.int64],
        histories: Sequences,
        items: NDArray[np.int64],
        label: NDArray[np.int64],
    ) -> Tensor:
        """Mean cross-entropy (nats) of the target among the items of its row.

        Args:
            writer: makes token batches.
            table: titles of the union's items.
            place: int64, shape ``(n_items,)``: for every item, the first one with the same tokens.
            histories: b rows of items, oldest first.
            items: union ids, shape ``(b, c)``.
            label: shape ``(b,)``, column of the target.
        """
        # Every text of a batch is encoded once, however often it occurs.
        texts, inverse = np.unique(place[items], return_inverse=True)
        vectors = self.encode_items(writer, table, texts)
        users = self.encode(writer, table, histories)
        device = users.device
        with torch.autocast(device.type, enabled=False):
            picked = vectors[torch.from_numpy(inverse.reshape(items.shape)).to(device)]
            logits = torch.einsum("bd,bcd->bc", users, picked) * self.scale()
            return functional.cross_entropy(logits, torch.from_numpy(label).to(device))
