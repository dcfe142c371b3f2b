"""GRU4Rec, SASRec, BERT4Rec and further sequential models, on RecBole 1.2.1's model classes.

The settings are those of the reference paper (A.4: Adam, learning rate 1e-3, batch 256, dimension
64) if it states them and RecBole's defaults if it does not: up to 300 epochs, patience 10, every
prefix a row. Profile ``cpu`` trains the causal models on rows with the same targets at a fraction of
the cost.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from bench.baselines.batches import (
    Batch,
    RowKind,
    cloze_rows,
    epoch_rows,
    length_groups,
    make_batch,
    plan_batches,
)
from bench.baselines.losses import full_softmax_loss
from bench.baselines.negatives import NegativeSampler
from bench.baselines.neural import NeuralMethod
from bench.baselines.recbole.masking import draw_mask
from bench.baselines.recbole.models import ALLOWED, REFUSED
from bench.baselines.recbole.settings import (
    build_model,
    model_settings,
    quiet_recbole,
    require_recbole,
)
from bench.baselines.training import LoopConfig
from bench.errors import ConfigError, unknown_name
from bench.methods import Family, TrainView

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ALLOWED", "REFUSED", "BERT4Rec", "GRU4Rec", "SASRec", "method_for"]


class _RecBoleLoop(LoopConfig):
    """RecBole's own limit.

    Attributes:
        epochs: most epochs to train, >= 1.
    """

    epochs: int = Field(default=300, ge=1)


class _NextItemConfig(_RecBoleLoop):
    """Settings shared by the next-item models.

    Attributes:
        rows: which rows an epoch holds; ``all-positions`` trains on the same targets as
            ``prefixes`` with one pass per user.
        loss_type: ``CE`` = softmax over all items; ``BPR`` = one uniform negative.
    """

    rows: RowKind = "all-positions"
    loss_type: Literal["CE", "BPR"] = "CE"

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {},
        "paper": {"rows": "prefixes"},
    }


class GRU4RecConfig(_NextItemConfig):
    """GRU4Rec.

    Attributes:
        embedding_size: size of the item vectors.
        hidden_size: size of the GRU's state.
        num_layers: stacked GRU layers.
        dropout_prob: dropout on the input vectors.
    """

    embedding_size: int = Field(default=64, ge=1)
    hidden_size: int = Field(default=128, ge=1)
    num_layers: int = Field(default=1, ge=1)
    dropout_prob: float = Field(default=0.3, ge=0, lt=1)


class SASRecConfig(_NextItemConfig):
    """SASRec.

    Profile ``dense`` has its authors' dropout and length for MovieLens-1M, whose users have 165 events
    on average; the defaults are theirs for the sparse Amazon domains.

    Attributes:
        n_layers: Transformer layers.
        n_heads: attention heads per layer.
        hidden_size: size of the item vectors and of the states.
        inner_size: size of the feed-forward layers.
        hidden_dropout_prob: dropout on states.
        attn_dropout_prob: dropout on attention weights.
    """

    n_layers: int = Field(default=2, ge=1)
    n_heads: int = Field(default=2, ge=1)
    hidden_size: int = Field(default=64, ge=1)
    inner_size: int = Field(default=256, ge=1)
    hidden_dropout_prob: float = Field(default=0.5, ge=0, lt=1)
    attn_dropout_prob: float = Field(default=0.5, ge=0, lt=1)

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        **_NextItemConfig.profiles,
        "dense": {"hidden_dropout_prob": 0.2, "attn_dropout_prob": 0.2, "max_history": 200},
    }


class BERT4RecConfig(_RecBoleLoop):
    """BERT4Rec.

    Attributes:
        rows: ``prefixes`` = every prefix of every training sequence, as RecBole expands its data;
            ``all-positions`` = the full sequences alone. These do not have the same targets: of a full
            sequence the batches that hide the last item only learn one item per user, over and over.
        n_layers: Transformer layers.
        n_heads: attention heads per layer.
        hidden_size: size of the item vectors and of the states.
        inner_size: size of the feed-forward layers.
        hidden_dropout_prob: dropout on states.
        attn_dropout_prob: dropout on attention weights.
        mask_ratio: share of items hidden.
        ft_ratio: share of batches that hide the last item only.
        fresh_masks: how often an epoch goes over the rows, each time with other masks.
    """

    rows: Literal["prefixes", "all-positions"] = "prefixes"
    n_layers: int = Field(default=2, ge=1)
    n_heads: int = Field(default=2, ge=1)
    hidden_size: int = Field(default=64, ge=1)
    inner_size: int = Field(default=256, ge=1)
    hidden_dropout_prob: float = Field(default=0.2, ge=0, lt=1)
    attn_dropout_prob: float = Field(default=0.2, ge=0, lt=1)
    mask_ratio: float = Field(default=0.2, gt=0, le=1)
    ft_ratio: float = Field(default=0.5, ge=0, le=1)
    fresh_masks: int = Field(default=1, ge=1)


class _RecBoleMethod(NeuralMethod):
    """Construction and scoring shared by all RecBole classes."""

    recbole_class: ClassVar[str]

    @classmethod
    def require(cls, config: Any) -> None:
        require_recbole()

    def settings(self) -> Mapping[str, Any]:
        """Settings handed to the RecBole class."""
        loop = set(LoopConfig.model_fields) | {"rows", "fresh_masks", "ft_ratio"}
        own = {k: v for k, v in self.config.model_dump().items() if k not in loop}
        return model_settings(self.recbole_class, own, max_history=self.config.max_history)

    def chance_loss(self) -> float | None:
        # What a class does not tell is looked at by its validation figure alone.
        kind = {"CE": math.log(self._shape["n_items"]), "BPR": math.log(2)}
        return kind.get(self.settings()["loss_type"] or "")

    def build(self, n_users: int, n_items: int) -> nn.Module:
        return build_model(self.recbole_class, self.settings(), n_users=n_users, n_items=n_items)

    def score_all(self, items: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        model: Any = self.model
        with quiet_recbole():
            scores: Tensor = model.full_sort_predict(
                {"item_id_list": items, "item_length": lengths, "user_id": users}
            )
        return scores.view(len(items), -1)


def _tensors(batch: Batch, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.from_numpy(batch.items).to(device),
        torch.from_numpy(batch.lengths).to(device),
        torch.from_numpy(batch.targets).to(device),
    )


@contextmanager
def _every_position(model: Any) -> Iterator[None]:
    """Let ``forward`` return the states of all positions instead of the last one."""
    model.gather_indexes = lambda output, _: output
    try:
        yield
    finally:
        del model.gather_indexes


class _NextItem(_RecBoleMethod):
    """Next-item training of RecBole's causal models, CE over all items or BPR."""

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        if self.config.loss_type == "BPR" and self.config.rows == "all-positions":
            raise ConfigError(
                f"{self.name}: loss_type=BPR needs rows=prefixes or rows=random-prefix "
                "(RecBole's BPR loss scores one position per row)."
            )

    def epoch(
        self, view: TrainView, rng: np.random.Generator, device: torch.device
    ) -> Sequence[Callable[[], Tensor]]:
        sequences, kind = view.target.sequences, self.config.rows
        rows = epoch_rows(sequences, kind, max_length=self.config.max_history, rng=rng)
        sampler = (
            NegativeSampler(sequences, view.target.n_items)
            if self.config.loss_type == "BPR"
            else None
        )

        def step(chosen: NDArray[np.int64]) -> Tensor:
            batch = make_batch(sequences, rows, chosen, kind=kind)
            negatives = sampler.draw(batch.sequence, rng) + 1 if sampler else None
            return self._loss(batch, negatives, device)

        # One target per row: plain random batches, as RecBole's, read in groups of like length.
        batches = plan_batches(
            rows, batch_size=self.config.batch_size, rng=rng, bucketed=kind == "all-positions"
        )
        return [partial(step, chosen) for chosen in batches]

    def _loss(self, batch: Batch, negatives: Any, device: torch.device) -> Tensor:
        model: Any = self.model
        items, lengths, targets = _tensors(batch, device)
        if negatives is not None:
            loss: Tensor = model.calculate_loss(
                {
                    "item_id_list": items,
                    "item_length": lengths,
                    "item_id": targets,
                    "neg_item_id": torch.from_numpy(negatives).to(device),
                }
            )
            return loss
        if targets.dim() == 2:
            with _every_position(model):
                states = model(items, lengths)
            real = targets > 0
            hidden, targets = states[real], targets[real]
        else:
            groups = length_groups(batch.lengths)
            hidden = torch.cat(
                [model(items[g, : int(batch.lengths[g].max())], lengths[g]) for g in groups]
            )
            targets = targets[np.concatenate(groups)]
        # RecBole: CrossEntropyLoss over matmul(hidden, table.T); the same value, computed once.
        return full_softmax_loss(hidden, model.item_embedding.weight, targets)


class GRU4Rec(_NextItem):
    """GRU4Rec: a GRU reads the history, and the state after the last item scores the items."""

    name = "gru4rec"
    version = "1"
    family = Family.SINGLE_DOMAIN
    Config = GRU4RecConfig
    recbole_class = "GRU4Rec"


class SASRec(_NextItem):
    """SASRec: a causal Transformer reads the history, and its last state scores the items."""

    name = "sasrec"
    version = "1"
    family = Family.SINGLE_DOMAIN
    Config = SASRecConfig
    recbole_class = "SASRec"


class BERT4Rec(_RecBoleMethod):
    """BERT4Rec: a bidirectional Transformer fills in hidden items; a mask after the history ranks.

    Differs from RecBole as shipped where that loses data: rows end with the last training item
    (there the target of a prefix row is never learnt), position 0 counts in the loss, and at test
    time the oldest item is kept (there it is always dropped).
    """

    name = "bert4rec"
    version = "1"
    family = Family.SINGLE_DOMAIN
    Config = BERT4RecConfig
    recbole_class = "BERT4Rec"

    @property
    def max_input(self) -> int:
        # The appended mask needs a position of its own.
        return int(self.config.max_history) - 1

    def epoch(
        self, view: TrainView, rng: np.random.Generator, device: torch.device
    ) -> Sequence[Callable[[], Tensor]]:
        sequences, config = view.target.sequences, self.config
        rows = cloze_rows(sequences, prefixes=config.rows == "prefixes", max_length=self.max_input)

        def step(chosen: NDArray[np.int64]) -> Tensor:
            batch = make_batch(sequences, rows, chosen, kind="all-positions")
            hidden, predicted = draw_mask(
                batch.lengths,
                batch.items.shape[1],
                mask_ratio=config.mask_ratio,
                last_only=rng.random() < config.ft_ratio,
                max_masked=max(1, int(config.mask_ratio * config.max_history)),
                rng=rng,
            )
            return self._loss(batch.items, hidden, predicted, device)

        return [
            partial(step, chosen)
            for _ in range(config.fresh_masks)
            for chosen in plan_batches(rows, batch_size=config.batch_size, rng=rng)
        ]

    def _loss(self, items: Any, hidden: Any, predicted: Any, device: torch.device) -> Tensor:
        model: Any = self.model
        original = torch.from_numpy(items).to(device)
        masked = original.masked_fill(torch.from_numpy(hidden).to(device), model.mask_token)
        at = torch.from_numpy(predicted).to(device)
        # Only hidden positions are projected; RecBole projects 10 slots per row, mostly padding.
        return full_softmax_loss(
            model(masked)[at],
            model.item_embedding.weight[: model.n_items],
            original[at],
            model.output_bias,
        )

    def score_all(self, items: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        # RecBole writes the mask after the history and then drops the first column, which would
        # lose the oldest item: a dummy column in front is what gets dropped.
        dummy = items.new_zeros(len(items), 1)
        return super().score_all(torch.cat((dummy, items), dim=1), lengths + 1, users)


class RecBoleConfig(_RecBoleLoop):
    """Settings of a further RecBole model.

    Attributes:
        rows: RecBole's losses read one position per row, so every prefix or one random prefix per user.
            An epoch of random prefixes is a small part of a pass: give it a patience in proportion.
        settings: values of the model's own RecBole YAML file to change, by name.
    """

    rows: Literal["prefixes", "random-prefix"] = "prefixes"
    settings: dict[str, bool | int | float | str | list[int] | list[float]] = Field(
        default_factory=dict
    )


class _FurtherModel(_RecBoleMethod):
    """A RecBole class trained through its own ``calculate_loss``."""

    version = "1"
    family = Family.SINGLE_DOMAIN
    Config = RecBoleConfig

    def settings(self) -> Mapping[str, Any]:
        return model_settings(
            self.recbole_class, self.config.settings, max_history=self.config.max_history
        )

    def epoch(
        self, view: TrainView, rng: np.random.Generator, device: torch.device
    ) -> Sequence[Callable[[], Tensor]]:
        sequences, kind = view.target.sequences, self.config.rows
        users = view.target.users.astype(np.int64) + 1
        rows = epoch_rows(sequences, kind, max_length=self.config.max_history, rng=rng)
        sampler = NegativeSampler(sequences, view.target.n_items)

        def step(chosen: NDArray[np.int64]) -> Tensor:
            batch = make_batch(sequences, rows, chosen, kind=kind, width=self.width)
            items, lengths, targets = _tensors(batch, device)
            negatives = sampler.draw(batch.sequence, rng) + 1
            model: Any = self.model
            with quiet_recbole():
                loss: Tensor = model.calculate_loss(
                    {
                        "item_id_list": items,
                        "item_length": lengths,
                        "item_id": targets,
                        "neg_item_id": torch.from_numpy(negatives).to(device),
                        "user_id": torch.from_numpy(users[batch.sequence]).to(device),
                    }
                )
            return loss

        batches = plan_batches(
            rows, batch_size=self.config.batch_size, rng=rng, bucketed=not self.fixed_width
        )
        return [partial(step, chosen) for chosen in batches]


def method_for(name: str) -> type[_FurtherModel]:
    """The method class of ``recbole:NAME``.

    Raises:
        ConfigError: the model is refused (with the reason) or unknown.
    """
    if name in REFUSED:
        raise ConfigError(f"recbole:{name} is not offered: {REFUSED[name]}")
    if name not in ALLOWED:
        raise unknown_name("RecBole model", name, ALLOWED)
    return type(
        f"RecBole{name}",
        (_FurtherModel,),
        {
            "__doc__": f"RecBole's {name}: {ALLOWED[name].note}",
            "__module__": __name__,
            "name": f"recbole:{name}",
            "recbole_class": name,
            "fixed_width": ALLOWED[name].fixed_width,
        },
    )
