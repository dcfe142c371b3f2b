"""RecFormer's texts: items as attribute names and values, users as their items, newest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.baselines.text.title_tokens import TokenTable, join_tables, lay_out, tokenise
from bench.data.domain import Items, Sequences

__all__ = ["FIRST", "NAME", "PADDING", "VALUE", "SequenceWriter", "TextBatch", "item_table"]

FIRST, NAME, VALUE, PADDING = 0, 1, 2, 3
"""Token types: the first special token, an attribute's name, its value, padding."""


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Sequences as the encoder reads them; all int64, shape ``(b, l)``, right-padded.

    Attributes:
        ids: token ids; column 0 is the first special token.
        types: :data:`FIRST`, :data:`NAME`, :data:`VALUE` or :data:`PADDING`.
        items: 0 in column 0, k for tokens of the k-th newest item.
        mask: 1 for tokens, 0 for padding.
        starts: whether a word begins here; 0 in column 0 and for padding.
    """

    ids: Tensor
    types: Tensor
    items: Tensor
    mask: Tensor
    starts: Tensor

    def to(self, device: torch.device) -> TextBatch:
        """The batch on a device."""
        return TextBatch(
            *(
                getattr(self, name).to(device)
                for name in ("ids", "types", "items", "mask", "starts")
            )
        )


@dataclass(frozen=True, slots=True)
class SequenceWriter:
    """Writes item sequences as token batches.

    Attributes:
        first_id: id of the first special token (``<s>``, ``[CLS]``).
        pad_id: id of padding.
        max_tokens: longest row, the first token included.
        padding_item: item position of padding.
        multiple: rows are padded to a multiple of so many tokens.
    """

    first_id: int
    pad_id: int
    max_tokens: int
    padding_item: int
    multiple: int = 1

    def write(self, table: TokenTable, sequences: Sequences) -> TextBatch:
        """Write sequences (newest item first; rows may be empty) over the items of a table."""
        rows = lay_out(table, sequences, most=self.max_tokens - 1)
        longest = 1 + int(rows.lengths.max(initial=0))
        width = -(-longest // self.multiple) * self.multiple
        columns = np.arange(width) <= rows.lengths[:, None]

        def padded(values: NDArray[Any], fill: int, first: int) -> Tensor:
            return torch.from_numpy(rows.padded(values, fill=fill, first=first, width=width))

        return TextBatch(
            ids=padded(table.ids[rows.source], self.pad_id, self.first_id),
            types=padded(table.kinds[rows.source], PADDING, FIRST),
            items=padded(rows.item + 1, self.padding_item, 0),
            mask=torch.from_numpy(columns.astype(np.int64)),
            starts=padded(table.starts[rows.source], 0, 0),
        )


def item_table(
    items: Items, tokenizer: Any, *, attributes: Sequence[str], attribute_tokens: int
) -> TokenTable:
    """Tokens of every item: for each attribute its name, then its value.

    Args:
        items: vocabulary of a domain.
        tokenizer: a fast tokenizer.
        attributes: fields of the items, in the order in which they are written.
        attribute_tokens: tokens of one attribute, name included; more are cut.

    Returns:
        one text per item; ``kinds`` holds :data:`NAME` and :data:`VALUE`.
    """
    parts = []
    for attribute in attributes:
        values = items.titles if attribute == "title" else items.extra[attribute]
        name = tokenise([attribute], tokenizer, kind=NAME)
        n = len(items)
        names = name.take(np.tile(np.arange(len(name.ids)), n), np.full(n, len(name.ids)))
        value = tokenise(list(values), tokenizer, kind=VALUE)
        parts.append(join_tables([names, value]).cut(attribute_tokens))
    return join_tables(parts)
