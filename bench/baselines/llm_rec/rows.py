"""Training rows of LLM-Rec: every prefix of every domain's sequences, with in-domain negatives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bench.baselines.batches import Rows, epoch_rows
from bench.baselines.domains import Mixing, domain_batches
from bench.baselines.negatives import InDomainNegatives
from bench.data.domain import Sequences

__all__ = ["BatchStream", "Choices", "choices", "split_rows"]


@dataclass(frozen=True, slots=True, eq=False)
class Choices:
    """What a batch chooses among.

    Attributes:
        items: int64, shape ``(b, 1 + negatives)``, union ids.
        label: int64, shape ``(b,)``, column of the target.
    """

    items: NDArray[np.int64]
    label: NDArray[np.int64]


def choices(
    sequences: Sequences,
    rows: Rows,
    chosen: NDArray[np.int64],
    sampler: InDomainNegatives,
    count: int,
    rng: np.random.Generator,
) -> Choices:
    """The targets of some rows among ``count`` negatives each, at uniformly random places."""
    negatives = sampler.draw(rows.sequence[chosen], count, rng)
    target = sequences.items[rows.end[chosen]].astype(np.int64)
    label = rng.integers(0, count + 1, size=len(chosen))
    every = np.arange(len(chosen))
    items = np.concatenate((negatives, target[:, None]), axis=1)
    # The negative of the target's place moves to the end, where the target was.
    items[every, count] = items[every, label]
    items[every, label] = target
    return Choices(items, label)


def split_rows(
    sequences: Sequences, *, max_history: int, holdout_share: float, seed: int
) -> tuple[Rows, Rows]:
    """Every prefix of every sequence that predicts its next item: those to train on, those held out.

    Args:
        sequences: training sequences.
        max_history: longest history.
        holdout_share: share of the sequences whose last item is held out.
        seed: chooses them.
    """
    rng = np.random.default_rng([seed, 0x401])
    rows = epoch_rows(sequences, "prefixes", max_length=max_history, rng=rng)
    held = rng.random(len(sequences)) < holdout_share
    last = rows.end == sequences.offsets[1:][rows.sequence] - 1
    out = last & held[rows.sequence]
    return rows.take(np.flatnonzero(~out)), rows.take(np.flatnonzero(out))


class BatchStream:
    """Batches of one pass after the other, by their number, whatever was asked for before.

    Args:
        domain_of_row: shape ``(n,)``, domain of each training row.
        batch_size: rows per batch.
        mixing: how domains share a pass.
        seed: of the order; a pass depends on it and on its own number alone.
    """

    def __init__(
        self, domain_of_row: NDArray[np.integer], *, batch_size: int, mixing: Mixing, seed: int
    ) -> None:
        self.per_pass = -(-len(domain_of_row) // batch_size)
        self._domain_of_row = domain_of_row
        self._batch_size = batch_size
        self._mixing = mixing
        self._seed = seed
        self._pass = -1
        self._batches: list[NDArray[np.int64]] = []

    def take(self, first: int, count: int) -> list[NDArray[np.int64]]:
        """Row numbers of the batches ``first``, ..., ``first + count - 1``, numbered from 0."""
        found = []
        for number in range(first, first + count):
            current, place = divmod(number, self.per_pass)
            if current != self._pass:
                self._pass = current
                self._batches = domain_batches(
                    self._domain_of_row,
                    self._batch_size,
                    mixing=self._mixing,
                    rng=np.random.default_rng([self._seed, 0xBA7, current]),
                )
            found.append(self._batches[place])
        return found
