"""Vectors of items and of histories, in batches of like length."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.baselines.recformer.config import RecFormerConfig
from bench.baselines.recformer.model import Recformer
from bench.baselines.recformer.texts import SequenceWriter
from bench.baselines.text.passes import pass_groups
from bench.baselines.text.title_tokens import TokenTable, n_tokens
from bench.data.domain import Sequences
from bench.errors import ConfigError

__all__ = ["encode_sequences", "item_vectors", "like_lengths", "make_writer"]


def encode_sequences(
    model: Recformer, writer: SequenceWriter, table: TokenTable, sequences: Sequences
) -> Tensor:
    """Vectors of item sequences, on the model's device: float32, shape ``(b, d)``, unit length.

    Rows are read in order of their length, so that batches hold little padding. Mode, gradients and
    number format are the caller's.

    Args:
        model: the encoder.
        writer: makes token batches.
        table: texts of the items.
        sequences: items of each row, newest first; rows may be empty.
    """
    device = model.item_vectors.device
    vectors = model.item_vectors.new_empty(len(sequences), model.item_vectors.shape[1])
    for rows in like_lengths(model, writer, table, sequences):
        batch = writer.write(table, sequences.take(rows)).to(device)
        vectors[torch.from_numpy(rows).to(device)] = model(batch)
    return vectors


def like_lengths(
    model: Recformer, writer: SequenceWriter, table: TokenTable, sequences: Sequences
) -> list[NDArray[np.int64]]:
    """Rows that one forward pass reads, by group: of like length, so that they hold little padding."""
    widths = 1 + n_tokens(table, sequences, most=writer.max_tokens - 1)
    return pass_groups(widths, model.item_vectors.device)


def item_vectors(model: Recformer, writer: SequenceWriter, table: TokenTable) -> Tensor:
    """Vectors of all items, each read as a sequence of one: ``(n_items, d)``; equal texts are equal."""
    first, place = table.distinct()
    vectors = encode_sequences(model, writer, table, Sequences.of_single_items(first))
    return vectors[torch.from_numpy(place).to(vectors.device)]


def make_writer(model: Recformer, tokenizer: Any, config: RecFormerConfig) -> SequenceWriter:
    """The writer for a model, and whether the settings fit it.

    Raises:
        ConfigError: the encoder cannot read so many tokens, or has no first special token.
    """
    # The width of a batch is rounded up, and every column needs a position.
    longest = model.longest // model.multiple * model.multiple
    if config.max_tokens > longest:
        raise ConfigError(
            f"max_tokens={config.max_tokens}: the encoder {config.encoder!r} reads at "
            f"most {longest} tokens. Lower max_tokens, or choose a longer encoder."
        )
    first = tokenizer.cls_token_id
    if first is None:
        raise ConfigError(
            f"encoder {config.encoder!r}: its tokenizer has no first special token ([CLS] or "
            "<s>), which RecFormer's sequences begin with. Choose an encoder of BERT's kind."
        )
    return SequenceWriter(
        first_id=int(first),
        pad_id=model.pad_id,
        max_tokens=config.max_tokens,
        padding_item=model.padding_item,
        multiple=model.multiple,
    )
