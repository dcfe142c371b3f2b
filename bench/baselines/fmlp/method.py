"""FMLP-Rec (Zhou, Yu, Zhao, Wen, WWW 2022, arXiv 2202.13556) as a method of the harness.

Rows, loss and settings are those of the authors' code. It differs in two places, as every method here
does: weights are selected by NDCG@5 on the harness's validation candidates (theirs: MRR on 99
negatives), and a training negative is never any of the user's training items (theirs: never an item of
the row, so it can be the user's next one). ``loss="ce"`` is no part of their code: with it the network
can be compared with others that are trained with a softmax over all items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from bench.baselines.batches import Rows, make_batch, plan_batches
from bench.baselines.fmlp.model import FMLPNetwork
from bench.baselines.losses import full_softmax_loss
from bench.baselines.negatives import NegativeSampler
from bench.baselines.neural import NeuralMethod
from bench.baselines.padding import shift_right
from bench.baselines.training import LoopConfig
from bench.data.domain import Sequences
from bench.methods import Family, TrainView

__all__ = ["FMLPRec", "FMLPRecConfig", "bce_loss", "prefix_rows"]

# Keeps the logarithms of the loss finite; the authors' value.
_GUARD = 1e-24


class FMLPRecConfig(LoopConfig):
    """FMLP-Rec; the defaults are the authors'.

    Attributes:
        max_history: newest items of a history that the model reads. Every input is padded to it,
            for the filters are made for one length.
        hidden_size: size of the item vectors and of the states.
        n_layers: filter blocks.
        inner_size: size of the feed-forward layers.
        dropout_prob: dropout on inputs, filters and feed-forward layers.
        loss: ``bce`` = binary cross-entropy with one random negative per row (authors); ``ce`` =
            softmax cross-entropy over all items.
    """

    hidden_size: int = Field(default=64, ge=1)
    n_layers: int = Field(default=2, ge=1)
    inner_size: int = Field(default=256, ge=1)
    dropout_prob: float = Field(default=0.5, ge=0, lt=1)
    loss: Literal["bce", "ce"] = "bce"

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **LoopConfig.profiles,
        # A row of its own in tables, beside the authors' loss.
        "ce": {"loss": "ce"},
    }

    def identity(self) -> dict[str, Any]:
        values = super().identity()
        # Runs with the authors' loss are known by the settings that there were before the other one.
        if self.loss == "bce":
            del values["loss"]
        return values


def prefix_rows(sequences: Sequences, *, max_length: int) -> Rows:
    """Rows of one epoch: each of the newest ``max_length`` items is predicted from those before it.

    The first row of a sequence has an empty input (all padding) and predicts its oldest item of the
    window, as in the authors' code; a sequence of n items makes ``min(n, max_length)`` rows.
    """
    sequence = sequences.rows
    event = np.arange(len(sequences.items), dtype=np.int64)
    begin, end = sequences.offsets[:-1][sequence], sequences.offsets[1:][sequence]
    start = np.maximum(begin, end - max_length)
    inside = event >= start
    ones = np.ones(int(inside.sum()), dtype=np.int64)
    return Rows(sequence[inside], start[inside], event[inside], ones)


def bce_loss(positive: Tensor, negative: Tensor) -> Tensor:
    """Mean binary cross-entropy of one positive and one negative score per row, both ``(b,)``."""
    return (
        -torch.log(torch.sigmoid(positive) + _GUARD)
        - torch.log(1 - torch.sigmoid(negative) + _GUARD)
    ).mean()


class FMLPRec(NeuralMethod):
    """FMLP-Rec: learnable filters in the frequency domain mix the history, an MLP per position."""

    name = "fmlp-rec"
    version = "1"
    family = Family.SINGLE_DOMAIN
    Config = FMLPRecConfig
    fixed_width = True

    def build(self, n_users: int, n_items: int) -> nn.Module:
        config = self.config
        return FMLPNetwork(
            n_items,
            length=config.max_history,
            size=config.hidden_size,
            n_layers=config.n_layers,
            inner_size=config.inner_size,
            dropout=config.dropout_prob,
        )

    def epoch(
        self, view: TrainView, rng: np.random.Generator, device: torch.device
    ) -> Sequence[Callable[[], Tensor]]:
        sequences = view.target.sequences
        rows = prefix_rows(sequences, max_length=self.config.max_history)
        sampler = NegativeSampler(sequences, view.target.n_items)

        def step(chosen: NDArray[np.int64]) -> Tensor:
            batch = make_batch(sequences, rows, chosen, kind="prefixes", width=self.width)
            items, lengths, positives = (
                torch.from_numpy(part).to(device)
                for part in (batch.items, batch.lengths, batch.targets)
            )
            inputs = shift_right(items, lengths)
            if self.config.loss == "ce":
                return self._softmax_loss(inputs, positives)
            negatives = sampler.draw(batch.sequence, rng) + 1
            return self._loss(inputs, positives, torch.from_numpy(negatives).to(device))

        # Every input has the full width, so batches are plain random samples.
        batches = plan_batches(rows, batch_size=self.config.batch_size, rng=rng, bucketed=False)
        return [partial(step, chosen) for chosen in batches]

    def _loss(self, items: Tensor, positives: Tensor, negatives: Tensor) -> Tensor:
        model: Any = self.model
        user = model(items).float()
        scores = (model.items(torch.stack((positives, negatives))) * user).sum(dim=-1)
        return bce_loss(scores[0], scores[1])

    def _softmax_loss(self, items: Tensor, positives: Tensor) -> Tensor:
        """Cross-entropy over all items, nats; padding (row 0) is none of them."""
        model: Any = self.model
        return full_softmax_loss(model(items), model.items.weight[1:], positives - 1)

    def chance_loss(self) -> float:
        return math.log(self._shape["n_items"]) if self.config.loss == "ce" else 2 * math.log(2)

    def score_all(self, items: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        model: Any = self.model
        states = model(shift_right(items, lengths)).float()
        with torch.autocast(states.device.type, enabled=False):
            return torch.matmul(states, model.items.weight.t())
