"""MCRPL (Liu et al., ACM TOIS 42(4), 2024, arXiv 2401.08228) as a method of the harness.

Stage 1 trains one model on the training sequences of target and sources together, with a softmax over
the items of all domains. It does not depend on which domain is the target, so it is made once for all
targets of a study group and kept in the cache. Stage 2 goes on from it on the target alone, with the
loss that keeps the two groups of prompts apart. Candidates are scored by their columns of the softmax.

Departures from the authors' code, which cannot be run as it stands: stage 2 keeps the weights of the
best validation NDCG@5 (theirs: the last), and every prefix of a history can be a row (theirs: one row
per user, ``rows=last``).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor
from torch.nn import functional

from bench.baselines.batches import Rows, epoch_rows, make_batch, plan_batches, rows_before
from bench.baselines.domains import UnionVocabulary, union_domains, union_sequences
from bench.baselines.first_stage import FirstStageMethod, require_sequences
from bench.baselines.losses import full_softmax_loss
from bench.baselines.mcrpl.network import DiffKind, MCRPLNetwork, Mixing, diff_loss
from bench.baselines.neural import NeuralMethod
from bench.baselines.padding import shift_right
from bench.baselines.pretraining import FirstStage
from bench.baselines.text import Encoder
from bench.baselines.training import LoopConfig, TrainingReport, isolated_randomness, train
from bench.data.domain import Sequences
from bench.errors import MethodError
from bench.methods import Capabilities, Context, Family, TrainView

__all__ = ["MCRPL", "MCRPLConfig", "training_rows"]

_BETAS = (0.9, 0.98)

RowChoice = Literal["prefixes", "random-prefix", "last"]


class MCRPLConfig(LoopConfig):
    """MCRPL; the defaults are the authors' if the reference study (A.4) states nothing else.

    Attributes:
        epochs: most epochs of stage 2.
        pretrain_epochs: epochs of stage 1; its last weights are kept, as the authors do.
        rows: what an epoch holds, in both stages: every prefix of every sequence, one random prefix
            per user, or (the authors' code) the whole sequence before the last item.
        hidden_size: size of item vectors and states (authors: 100).
        inner_size: width of the perceptrons.
        n_layers: Transformer layers of one head.
        dropout_prob: dropout on item vectors and in the mixing network.
        n_prompts: prompts in each of the two groups; 0 = none.
        mixing: how prompts enter an item vector, the authors' ``Strategy``: ``default`` = a mean
            weighted by a small network; ``a`` and ``b`` = self-attention over prompts and item, then
            the item's row or the mean.
        diff: loss of stage 2 between the groups of prompts: ``code`` = as the authors' code has it
            (it hardly acts), ``cross`` = squared cosines between the groups, as the paper describes.
        diff_weight: weight of that loss.
        freeze: what stays fixed in stage 2: ``none`` (code), or all ``but-prompts-and-head`` of the
            target (paper).
    """

    rows: RowChoice = "prefixes"
    epochs: int = Field(default=30, ge=1)
    patience: int = Field(default=30, ge=1)
    pretrain_epochs: int = Field(default=50, ge=1)
    hidden_size: int = Field(default=64, ge=1)
    inner_size: int = Field(default=2048, ge=1)
    n_layers: int = Field(default=1, ge=1)
    dropout_prob: float = Field(default=0.25, ge=0, lt=1)
    n_prompts: int = Field(default=2, ge=0)
    mixing: Mixing = "default"
    diff: DiffKind = "code"
    diff_weight: float = Field(default=0.002, ge=0)
    freeze: Literal["none", "but-prompts-and-head"] = "none"

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {"patience": 10},
        "paper": {},
        "code": {"rows": "last", "hidden_size": 100, "max_history": 15, "batch_size": 128},
    }


# Settings that stage 1 does not read: they are no part of its identity.
_STAGE_2 = frozenset(
    {"epochs", "patience", "validation_users", "diff", "diff_weight", "freeze"}
)  # fmt: skip


def training_rows(
    sequences: Sequences, kind: RowChoice, *, max_length: int, rng: np.random.Generator
) -> Rows:
    """Rows of one epoch; ``last`` predicts the last item of every sequence from those before it."""
    if kind != "last":
        return epoch_rows(sequences, kind, max_length=max_length, rng=rng)
    row = np.flatnonzero(sequences.lengths >= 2)
    return rows_before(sequences, row, sequences.lengths[row] - 1, max_length=max_length)


class MCRPL(FirstStageMethod, NeuralMethod):
    """MCRPL: a Transformer over the items of all domains, with prompts, then tuned on the target."""

    name = "mcrpl"
    version = "1"
    family = Family.CROSS_DOMAIN
    Config = MCRPLConfig
    reads_target = True

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return Capabilities(needs_sources=True, trainable=True)

    def first_stage(self, encoder: Encoder | None) -> FirstStage:
        settings = self.config.model_dump(mode="json", exclude=set(_STAGE_2))
        return FirstStage(self.name, self.version, "stage 1", settings)

    def further_sizes(self, view: TrainView, context: Context) -> Mapping[str, int]:
        vocabulary = UnionVocabulary.of(union_domains(view))
        return {
            "n_union": vocabulary.n_items,
            "first_item": vocabulary.span(view.target.name).start,
        }

    def build(
        self, n_users: int, n_items: int, *, n_union: int = 0, first_item: int = 0
    ) -> MCRPLNetwork:
        config = self.config
        return MCRPLNetwork(
            n_union or n_items,
            length=config.max_history,
            size=config.hidden_size,
            n_layers=config.n_layers,
            inner_size=config.inner_size,
            dropout=config.dropout_prob,
            n_prompts=config.n_prompts,
            mixing=config.mixing,
        )

    @property
    def network(self) -> MCRPLNetwork:
        """The model.

        Raises:
            MethodError: there is none yet.
        """
        if not isinstance(self.model, MCRPLNetwork):
            raise MethodError(f"{self.name} has no model: it was neither fitted nor loaded.")
        return self.model

    def prepare(self, view: TrainView, context: Context) -> Mapping[str, dict[str, Any]]:
        """Stage 1, from the cache or trained now; the model holds its weights afterwards."""
        require_sequences(self.name, [view.target])
        found = self.shared(
            union_domains(view), context, lambda folder: self._pretrain(view, context, folder)
        )
        self.network.load_state_dict(found.tensors)
        if self.config.freeze == "but-prompts-and-head":
            self.network.freeze_for_prompt_tuning()
        return {"stage-1": dict(found.record["training"])}

    def _pretrain(
        self, view: TrainView, context: Context, folder: Path
    ) -> tuple[Mapping[str, Tensor], TrainingReport]:
        """Train a model of its own, so that nothing of it depends on the target."""
        device = torch.device(context.device)
        sequences, _ = union_sequences(view, include_target=True, include_sources=True)
        with isolated_randomness(context.init_seed):
            network = self.build(**self._shape).to(device)
        report = train(
            network,
            lambda rng: self._steps(
                sequences, rng, lambda items, targets: self._loss(network, items, targets), device
            ),
            config=self.config.model_copy(update={"epochs": self.config.pretrain_epochs}),
            context=context,
            validate=None,
            folder=folder,
            seed=context.init_seed,
            optimiser=self._adam(network),
            chance_loss=self.chance_loss(),
        )
        return network.state_dict(), report

    def epoch(
        self, view: TrainView, rng: np.random.Generator, device: torch.device
    ) -> Sequence[Callable[[], Tensor]]:
        network, config = self.network, self.config
        first = self._shape["first_item"]
        target = view.target.sequences
        union = Sequences(target.offsets, target.items + np.int32(first))

        def loss(items: Tensor, targets: Tensor) -> Tensor:
            apart = diff_loss(network.shared_prompts, network.domain_prompts, config.diff)
            total: Tensor = self._loss(network, items, targets) + config.diff_weight * apart
            return total

        return self._steps(union, rng, loss, device)

    def chance_loss(self) -> float:
        return math.log(self._shape["n_union"])

    def optimiser(self) -> torch.optim.Optimizer:
        return self._adam(self.network)

    def _adam(self, network: MCRPLNetwork) -> torch.optim.Optimizer:
        config = self.config
        return torch.optim.Adam(
            network.parameters(),
            lr=config.learning_rate,
            betas=_BETAS,
            weight_decay=config.weight_decay,
            fused=True,
        )

    def _steps(
        self,
        sequences: Sequences,
        rng: np.random.Generator,
        loss: Callable[[Tensor, Tensor], Tensor],
        device: torch.device,
    ) -> Sequence[Callable[[], Tensor]]:
        """Steps of an epoch over sequences of union ids; ``loss`` takes inputs and targets (ids + 1)."""
        config = self.config
        rows = training_rows(sequences, config.rows, max_length=config.max_history, rng=rng)

        def step(chosen: NDArray[np.int64]) -> Tensor:
            batch = make_batch(sequences, rows, chosen, kind="prefixes")
            items, lengths, targets = (
                torch.from_numpy(part).to(device)
                for part in (batch.items, batch.lengths, batch.targets)
            )
            return loss(shift_right(items, lengths), targets)

        batches = plan_batches(rows, batch_size=config.batch_size, rng=rng, bucketed=False)
        return [partial(step, chosen) for chosen in batches]

    def _loss(self, network: MCRPLNetwork, items: Tensor, targets: Tensor) -> Tensor:
        """Cross-entropy over the items of all domains, nats."""
        # The column of item id i (padding is 0 and has none) is i - 1.
        return full_softmax_loss(
            network(items), network.head.weight, targets - 1, network.head.bias
        )

    def score_all(self, items: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        network = self.network
        first, n_items = self._shape["first_item"], self._shape["n_items"]
        union = torch.where(items > 0, items + first, items)
        state = network(shift_right(union, lengths)).float()
        own = slice(first, first + n_items)
        with torch.autocast(state.device.type, enabled=False):
            scores: Tensor = state @ network.head.weight[own].t() + network.head.bias[own]
        padded: Tensor = functional.pad(scores, (1, 0))
        return padded
