"""What one epoch of each of RecFormer's training stages does, as steps for the shared loop."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.batches import Rows, plan_batches, rows_before
from bench.baselines.contrastive import info_nce
from bench.baselines.recformer.encoding import encode_sequences, like_lengths
from bench.baselines.recformer.masking import IGNORED, mask_words
from bench.baselines.recformer.model import Recformer, WordHead, scored_rows
from bench.baselines.recformer.texts import SequenceWriter, TextBatch
from bench.baselines.text.title_tokens import TokenTable, windows
from bench.data.domain import Sequences

__all__ = [
    "Loss",
    "Pretraining",
    "fine_tuning_losses",
    "fine_tuning_rows",
    "n_batches",
    "planned",
    "pretraining_rows",
]

Loss = Callable[[], Tensor]
"""A part of a batch's loss, computed when called; the parts are added."""


def fine_tuning_rows(sequences: Sequences, *, max_history: int, rng: np.random.Generator) -> Rows:
    """One target per user, uniform over the whole sequence; the history before it may be empty."""
    row = np.flatnonzero(sequences.lengths >= 1)
    target = rng.integers(0, sequences.lengths[row])
    return rows_before(sequences, row, target, max_length=max_history)


def pretraining_rows(sequences: Sequences, *, max_history: int, rng: np.random.Generator) -> Rows:
    """One target per user, uniform over the later half of the sequence, with a history before it.

    Positions are 0-based and run from ``(n - 1) // 2`` to ``n - 1``, as in the authors' code, but never
    0: an empty history would be pulled towards any item.
    """
    row = np.flatnonzero(sequences.lengths >= 2)
    lengths = sequences.lengths[row]
    target = rng.integers(np.maximum(1, (lengths - 1) // 2), lengths)
    return rows_before(sequences, row, target, max_length=max_history)


def planned(
    rows: Rows, *, batch_size: int, most: int | None, rng: np.random.Generator
) -> list[NDArray[np.int64]]:
    """Batches of an epoch: of all rows, or of as many random ones as ``most`` batches hold."""
    chosen = np.arange(len(rows))
    if most is not None and most * batch_size < len(rows):
        chosen = np.sort(rng.choice(len(rows), size=most * batch_size, replace=False))
    return [chosen[b] for b in plan_batches(rows.take(chosen), batch_size=batch_size, rng=rng)]


def n_batches(n_rows: int, *, batch_size: int, most: int | None) -> int:
    """About how many batches :func:`planned` makes: what a schedule of learning rates counts on."""
    every = max(1, -(-n_rows // batch_size))
    return every if most is None else min(most, every)


def fine_tuning_losses(
    model: Recformer,
    writer: SequenceWriter,
    table: TokenTable,
    sequences: Sequences,
    rows: Rows,
    chosen: NDArray[np.int64],
    *,
    temperature: float,
) -> list[Loss]:
    """Softmax cross-entropy of the next item over the matrix of item vectors, which gets no gradient.

    Returns:
        One loss per group of like length; their sum is the mean over the batch.
    """
    histories = windows(sequences, rows.start[chosen], rows.end[chosen], newest_first=True)
    targets = torch.from_numpy(sequences.items[rows.end[chosen]].astype(np.int64))

    def loss(group: NDArray[np.int64]) -> Tensor:
        device = model.item_vectors.device
        users = model(writer.write(table, histories.take(group)).to(device))
        logits = scored_rows(model, users, temperature)
        wanted = targets[torch.from_numpy(group)].to(device)
        return functional.cross_entropy(logits, wanted, reduction="sum") / len(chosen)

    return [partial(loss, group) for group in like_lengths(model, writer, table, histories)]


class Pretraining(nn.Module):
    """RecFormer and a head for words: contrast of user and next item, and masked words in both.

    Args:
        model: the encoder.
        vocabulary: number of token ids.
        mask_id: id of the mask token.
        temperature: of the contrast.
        mlm_weight: weight of either masked-word loss.
        mlm_share: share of the tokens that are masked.
    """

    def __init__(
        self,
        model: Recformer,
        *,
        vocabulary: int,
        mask_id: int,
        temperature: float,
        mlm_weight: float,
        mlm_share: float,
    ) -> None:
        super().__init__()
        self.model = model
        self.head = WordHead(model.words.embedding_dim, vocabulary)
        self.mask_id = mask_id
        self.temperature = temperature
        self.mlm_weight = mlm_weight
        self.mlm_share = mlm_share

    def losses(
        self,
        writer: SequenceWriter,
        table: TokenTable,
        sequences: Sequences,
        rows: Rows,
        chosen: NDArray[np.int64],
        rng: np.random.Generator,
    ) -> list[Loss]:
        """Losses of a batch: in-batch contrast, ``mlm_weight`` x (words of users + words of items).

        Returns:
            The contrast, and a loss per group of like length and text; to be added.
        """
        start, end = rows.start[chosen], rows.end[chosen]
        users = windows(sequences, start, end, newest_first=True)
        items = windows(sequences, end, end + 1)

        def contrast() -> Tensor:
            vectors = [encode_sequences(self.model, writer, table, s) for s in (users, items)]
            # As published, equal positives of a batch are negatives of each other.
            return info_nce(*vectors, temperature=self.temperature)

        if self.mlm_weight == 0:
            return [contrast]
        words = [self.word_losses(writer, table, texts, rng) for texts in (users, items)]
        return [contrast, *words[0], *words[1]]

    def word_losses(
        self,
        writer: SequenceWriter,
        table: TokenTable,
        sequences: Sequences,
        rng: np.random.Generator,
    ) -> list[Loss]:
        """Cross-entropy of hidden words, in forward passes of their own.

        Returns:
            One loss per group of like length that has hidden words; their sum is ``mlm_weight`` times
            the mean over all hidden words.
        """
        groups = []
        for rows in like_lengths(self.model, writer, table, sequences):
            batch = writer.write(table, sequences.take(rows))
            real = batch.mask.bool().numpy()
            real[:, 0] = False
            masked, labels = mask_words(
                batch.ids.numpy(),
                batch.starts.bool().numpy(),
                real,
                share=self.mlm_share,
                mask_id=self.mask_id,
                vocabulary=len(self.head.bias),
                rng=rng,
            )
            count = int((labels != IGNORED).sum())
            groups.append((batch, torch.from_numpy(masked), torch.from_numpy(labels), count))
        total = sum(count for *_, count in groups)

        def loss(batch: TextBatch, masked: Tensor, labels: Tensor, count: int) -> Tensor:
            device = self.model.item_vectors.device
            states = self.model.states(batch.to(device), masked.to(device))
            mean = self.head.loss(states, labels.to(device), self.model.words)
            return self.mlm_weight * count / total * mean

        return [partial(loss, *group) for group in groups if group[-1]]
