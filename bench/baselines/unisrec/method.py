"""UniSRec as a method: contrastive pre-training on the sources, then tuning on the target."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor

from bench.baselines.batches import Batch
from bench.baselines.contrastive import equal_positives, info_nce
from bench.baselines.sequence_encoder import encode_groups
from bench.baselines.training import TrainingReport, isolated_randomness
from bench.baselines.transferable import TextConfig, TransferableMethod
from bench.baselines.unisrec.augment import drop_items, drop_words, pick_dropped_texts
from bench.baselines.unisrec.model import UniSRecModel
from bench.checkpoints import load_matching
from bench.data.domain import Sequences
from bench.methods import Context, Family, TrainView
from bench.protocol.types import DomainView

__all__ = ["UniSRec", "UniSRecConfig"]

# Of the released preprocessing (words) and transform (items): keep 80 % of the items, 85 % of the words.
_ITEM_DROP = 0.2
_WORD_DROP = 0.15


class UniSRecConfig(TextConfig):
    """UniSRec.

    Attributes:
        mode: ``transductive`` adds a vector per item id of the target to its text, ``inductive``
            knows items by their text alone (the words of paper and code; neither sees test requests).
        n_experts: experts of the adaptor.
        adaptor_dropout_prob: dropout on the text vectors, for each expert apart.
        sequence_loss_weight: weight of the loss between sequences in pre-training.
        item_drop_share: share of pre-training batches whose second view leaves items out; in the
            others, items are read by titles with words left out. With 1, no titles are encoded twice.
    """

    mode: Literal["transductive", "inductive"] = "transductive"
    n_experts: int = Field(default=8, ge=1)
    adaptor_dropout_prob: float = Field(default=0.2, ge=0, lt=1)
    sequence_loss_weight: float = Field(default=1e-3, ge=0)
    item_drop_share: float = Field(default=0.9, ge=0, le=1)


class UniSRec(TransferableMethod):
    """UniSRec: a mixture of whitening experts over item texts feeds SASRec's encoder."""

    name = "unisrec"
    version = "1"
    family = Family.CROSS_DOMAIN
    Config = UniSRecConfig
    config: UniSRecConfig
    tuning_only = TransferableMethod.tuning_only | {"mode"}

    def further_sizes(self, view: TrainView, context: Context) -> Mapping[str, int]:
        return {"text_size": self.text_vectors(view.target, context).shape[1]}

    def build(self, n_users: int, n_items: int, text_size: int = 0) -> UniSRecModel:
        return self._model(n_items, text_size, ids=self.config.mode == "transductive")

    def _model(self, n_items: int, text_size: int, *, ids: bool) -> UniSRecModel:
        return UniSRecModel(
            self.config,
            n_items,
            text_size,
            n_experts=self.config.n_experts,
            adaptor_dropout=self.config.adaptor_dropout_prob,
            ids=ids,
        )

    def start(
        self, tensors: Mapping[str, Tensor] | None, view: TrainView, context: Context
    ) -> Mapping[str, dict[str, Any]]:
        self.set_content(self.encoder, _with_padding([self.text_vectors(view.target, context)]))
        if tensors is not None:
            # Vectors of item ids belong to the items of one data set.
            load_matching(
                self.encoder,
                tensors,
                optional=["item_embedding."],
                origin=self.origin,
            )
        return {}

    def pretrain(
        self, domains: Sequence[DomainView], sequences: Sequences, context: Context, folder: Path
    ) -> tuple[Mapping[str, Tensor], TrainingReport]:
        device = torch.device(context.device)
        titles = [self.text_vectors(domain, context) for domain in domains]
        n_ids = 1 + sum(map(len, titles))
        with isolated_randomness(context.init_seed):
            model = self._model(n_ids - 1, titles[0].shape[1], ids=False).to(device)
        content = [_with_padding(titles)]
        if self.config.item_drop_share < 1:
            content.append(_with_padding([self._shortened(d, context) for d in domains]))
        self.set_content(model, np.concatenate(content))

        def loss(batch: Batch, rng: np.random.Generator) -> Tensor:
            return self._contrast(model, batch, n_ids, rng, device)

        report = self.train_first_stage(model, sequences, loss, context, folder)
        return model.state_dict(), report

    def _shortened(self, domain: DomainView, context: Context) -> NDArray[np.float32]:
        """Vectors of a domain's titles with words left out: drawn once, whichever study it is in."""
        rng = np.random.default_rng([len(domain.name), *domain.name.encode()])
        texts = drop_words(list(domain.items.titles), probability=_WORD_DROP, rng=rng)
        return self.text_vectors(domain, context, texts)

    def _contrast(
        self,
        model: UniSRecModel,
        batch: Batch,
        n_ids: int,
        rng: np.random.Generator,
        device: torch.device,
    ) -> Tensor:
        """The two losses of a batch, equations 7 to 9 of the paper."""
        lengths, items = batch.lengths, batch.items
        if rng.random() < self.config.item_drop_share:
            other, other_lengths = drop_items(items, lengths, probability=_ITEM_DROP, rng=rng)
        else:
            other = pick_dropped_texts(items, n_ids, probability=_ITEM_DROP, rng=rng)
            other_lengths = lengths

        def encoded(rows: NDArray[np.int64], ends: NDArray[np.int64]) -> Tensor:
            vectors = model.input_vectors(torch.from_numpy(rows).to(device))
            hidden, order = encode_groups(model, vectors, ends)
            return torch.empty_like(hidden).index_copy(0, order, hidden)

        targets = torch.from_numpy(batch.targets).to(device)
        same = equal_positives(targets)
        settings: dict[str, Any] = {
            "temperature": self.config.temperature,
            "same": same,
            "handling": self.config.equal_positives,
        }
        hidden = encoded(items, lengths)
        loss = info_nce(hidden, model.input_vectors(targets), **settings)
        if self.config.sequence_loss_weight:
            between = info_nce(hidden, encoded(other, other_lengths), **settings)
            loss = loss + self.config.sequence_loss_weight * between
        return loss


def _with_padding(parts: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Text vectors of all items below a row of zeros for padding."""
    return np.concatenate([np.zeros((1, parts[0].shape[1]), dtype=np.float32), *parts])
