"""What UniSRec and VQ-Rec share: item texts, a first stage on the sources, tuning on the target."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from bench.baselines.batches import Batch, epoch_rows, make_batch, plan_batches
from bench.baselines.contrastive import EqualPositives
from bench.baselines.first_stage import require_sequences
from bench.baselines.neural import NeuralMethod
from bench.baselines.sequence_encoder import (
    EncoderConfig,
    SequenceEncoder,
    cosine_softmax,
    predictions,
)
from bench.baselines.starts import StartingMethod, one_start
from bench.baselines.text import DEFAULT_ENCODER, Encoder, Pooling, encode_texts
from bench.baselines.training import LoopConfig, TrainingReport, autocast, train
from bench.data.domain import Sequences
from bench.errors import MethodError
from bench.methods import Context, Requests, Scores, TrainView
from bench.protocol.types import DomainView

__all__ = ["TextConfig", "TransferableMethod"]

OFFICIAL_ENCODER = "google-bert/bert-base-uncased"
_CONTENT = "content.npy"


class TextConfig(EncoderConfig):
    """Item texts, the first stage, and what tuning leaves as it is.

    Attributes:
        text_encoder: ``all-minilm-l6-v2``, a folder or a Hugging Face id.
        text_pooling: how token vectors become one; None = what suits the encoder.
        text_tokens: tokens of a title that are read.
        pretrain: ``sources`` trains on the source domains first; ``none`` starts from random weights,
            or from ``checkpoint``.
        checkpoint: file with the authors' weights, instead of a first stage.
        freeze: whether positions and Transformer layers stay as pre-trained while the target is
            learnt, as published; random weights are never frozen (VQ-Rec's released trainer freezes
            them too). Profile ``cpu`` tunes them: its first stage is short.
        pretrain_epochs: epochs of the first stage; the last weights are kept.
        pretrain_rows: prefixes that an epoch of the first stage draws, None = all.
        pretrain_batch_size: rows per step of the first stage; the other rows are the negatives.
        pretrain_learning_rate: Adam's step size in the first stage.
        equal_positives: rows of a batch with the same next item: ``exclude`` takes them out of the
            denominator, ``as-published`` counts each as a logit of 0.
    """

    text_encoder: str = DEFAULT_ENCODER
    text_pooling: Pooling | None = None
    text_tokens: int = Field(default=64, ge=3)
    pretrain: Literal["none", "sources"] = "sources"
    checkpoint: str | None = None
    freeze: bool = False
    pretrain_epochs: int = Field(default=10, ge=1)
    pretrain_rows: int | None = Field(default=32_768, ge=1)
    pretrain_batch_size: int = Field(default=1024, ge=2)
    pretrain_learning_rate: float = Field(default=1e-3, gt=0)
    equal_positives: EqualPositives = "exclude"
    epochs: int = Field(default=300, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {},
        "paper": {
            "text_encoder": OFFICIAL_ENCODER,
            "text_pooling": "cls",
            "text_tokens": 512,
            "hidden_size": 300,
            "rows": "prefixes",
            "learning_rate": 1e-3,
            "pretrain_epochs": 300,
            "pretrain_rows": None,
            "pretrain_batch_size": 8192,
            "freeze": True,
        },
    }

    @model_validator(mode="before")
    @classmethod
    def _one_start(cls, values: Any) -> Any:
        return one_start(values)


class TransferableMethod(StartingMethod, NeuralMethod):
    """A sequence encoder over item texts: optionally pre-trained, then tuned with a full softmax.

    The model is a :class:`SequenceEncoder` with a buffer ``content``: what is known of every item,
    row 0 for padding. It is stored beside the weights, not in them.
    """

    config: TextConfig
    encoder_setting = "text_encoder"
    official_encoder = OFFICIAL_ENCODER
    tuning_only = frozenset(
        {
            *("epochs", "patience", "batch_size", "learning_rate", "rows", "validation_users"),
            *("pretrain", "checkpoint", "freeze", "text_encoder"),
        }
    )

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self._table: Tensor | None = None

    @abstractmethod
    def start(
        self, tensors: Mapping[str, Tensor] | None, view: TrainView, context: Context
    ) -> Mapping[str, dict[str, Any]]:
        """Give the model its items' content and its first weights.

        Args:
            tensors: of the first stage or of a checkpoint; None for random weights.
            view: the target.
            context: the run's.

        Returns:
            stages for the training report.
        """

    @property
    def encoder(self) -> SequenceEncoder:
        """The model.

        Raises:
            MethodError: there is none yet.
        """
        if not isinstance(self.model, SequenceEncoder):
            raise MethodError(f"{self.name} has no model: it was neither fitted nor loaded.")
        return self.model

    def text_vectors(
        self, domain: DomainView, context: Context, texts: Sequence[str] | None = None
    ) -> NDArray[np.float32]:
        """Vectors of a domain's titles, or of other texts for its items; ``(n_items, d)``."""
        config = self.config
        with context.progress.stage(f"encode the titles of {domain.name}"):
            return encode_texts(
                list(domain.items.titles) if texts is None else texts,
                encoder=config.text_encoder,
                pooling=config.text_pooling,
                max_tokens=config.text_tokens,
                device=context.device,
                progress=context.progress,
            )

    def set_content(self, model: SequenceEncoder, content: NDArray[Any]) -> None:
        """Give a model what is known of its items; shape ``(n_items + 1, ...)``."""
        device = next(model.parameters()).device
        model.content = torch.from_numpy(np.ascontiguousarray(content)).to(device)

    def prepare(self, view: TrainView, context: Context) -> Mapping[str, dict[str, Any]]:
        require_sequences(self.name, [view.target])
        tensors, stages = self.first_weights(view, context)
        stages |= self.start(tensors, view, context)
        if tensors is not None and self.config.freeze:
            self.encoder.freeze()
        return stages

    def stage_settings(self, encoder: Encoder | None) -> dict[str, Any]:
        settings = super().stage_settings(encoder)
        if encoder is not None:
            settings["text_pooling"] = self.config.text_pooling or encoder.pooling
        return settings

    def train_first_stage(
        self,
        model: SequenceEncoder,
        sequences: Sequences,
        loss: Callable[[Batch, np.random.Generator], Tensor],
        context: Context,
        folder: Path,
    ) -> TrainingReport:
        """Train on random prefixes of all sources; ``loss`` takes a batch with one target per row."""
        config = self.config
        length, wanted = config.max_history, config.pretrain_rows

        def epoch(rng: np.random.Generator) -> Sequence[Callable[[], Tensor]]:
            rows = epoch_rows(sequences, "prefixes", max_length=length, rng=rng)
            if wanted is not None and wanted < len(rows):
                rows = rows.take(rng.permutation(len(rows))[:wanted])
            batches = plan_batches(
                rows, batch_size=config.pretrain_batch_size, rng=rng, bucketed=False
            )

            def step(chosen: NDArray[np.int64]) -> Tensor:
                return loss(make_batch(sequences, rows, chosen, kind="prefixes"), rng)

            return [partial(step, chosen) for chosen in batches]

        loop = LoopConfig(
            epochs=config.pretrain_epochs,
            learning_rate=config.pretrain_learning_rate,
            weight_decay=config.weight_decay,
            clip_norm=config.clip_norm,
        )
        return train(
            model,
            epoch,
            config=loop,
            context=context,
            validate=None,
            folder=folder,
            seed=context.init_seed,
            # Of a batch whose vectors are all alike.
            chance_loss=math.log(config.pretrain_batch_size),
        )

    def chance_loss(self) -> float:
        return math.log(self._shape["n_items"])

    def epoch(
        self, view: TrainView, rng: np.random.Generator, device: torch.device
    ) -> Sequence[Callable[[], Tensor]]:
        sequences, kind = view.target.sequences, self.config.rows
        rows = epoch_rows(sequences, kind, max_length=self.config.max_history, rng=rng)

        def step(chosen: NDArray[np.int64]) -> Tensor:
            batch = make_batch(sequences, rows, chosen, kind=kind)
            hidden, targets = predictions(self.encoder, batch, device)
            return cosine_softmax(
                hidden, self.encoder.item_vectors(), targets - 1, self.config.temperature
            )

        batches = plan_batches(
            rows, batch_size=self.config.batch_size, rng=rng, bucketed=kind == "all-positions"
        )
        return [partial(step, chosen) for chosen in batches]

    def score(self, requests: Requests, context: Context) -> Scores:
        if self.model is not None:
            self.model.to(context.device).eval()
            # The items' vectors are the same for all chunks of requests.
            with torch.inference_mode(), autocast(context):
                self._table = functional.normalize(self.encoder.item_vectors().float(), dim=-1)
        try:
            return super().score(requests, context)
        finally:
            self._table = None

    def score_all(self, items: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        table = self._table
        if table is None:
            table = functional.normalize(self.encoder.item_vectors().float(), dim=-1)
        hidden = self.encoder.encode(self.encoder.input_vectors(items), lengths)
        with torch.autocast(hidden.device.type, enabled=False):
            cosines = functional.normalize(hidden.float(), dim=-1) @ table.T
        return functional.pad(cosines, (1, 0))

    def save(self, folder: Path) -> None:
        super().save(folder)
        np.save(folder / _CONTENT, self.encoder.content.cpu().numpy(), allow_pickle=False)

    def load(self, folder: Path) -> None:
        super().load(folder)
        self.set_content(self.encoder, np.load(folder / _CONTENT, allow_pickle=False))
