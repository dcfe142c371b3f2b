"""Options of RecFormer, and what they exclude."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from bench.baselines.starts import one_start
from bench.baselines.text import DEFAULT_ENCODER, Pooling
from bench.baselines.training import LoopConfig

__all__ = ["OFFICIAL_ENCODER", "Attribute", "RecFormerConfig"]

OFFICIAL_ENCODER = "allenai/longformer-base-4096"

Attribute = Literal["title", "brand", "category"]


class RecFormerConfig(LoopConfig):
    """Settings of RecFormer.

    Attributes:
        encoder: text encoder that training starts from: all-minilm-l6-v2, a folder, or a Hugging Face
            id of a Longformer or a BERT-like model (paper: allenai/longformer-base-4096).
        pooling: how the states of a text become its vector: ``cls`` = the first token's (paper),
            ``mean`` = of all tokens, which MiniLM was trained for.
        checkpoint: file with the authors' pre-trained weights, which replace the encoder's; their
            sizes have to be those of ``encoder``. Then nothing is pre-trained here.
        pretrain: ``sources`` = train on the source domains' training sequences first; ``none`` = start
            from the encoder or the checkpoint as it is.
        attributes: fields of an item that are written, each as its name and its value.
        attribute_tokens: tokens of one attribute, name included; more are cut.
        max_tokens: tokens of one sequence, the first special one included; the oldest are cut.
        attention_window: tokens that a Longformer's local attention spans; other models attend to all.
        temperature: scores and logits are cosines divided by it.
        freeze_words: whether the table of word vectors stays as it is in pre-training (the authors'
            setting); fine-tuning trains it.
        warmup: optimiser steps of each fine-tuning stage until the learning rate is reached; then it
            falls to 0. Pre-training has none.
        accumulate: batches whose gradients make one optimiser step.
        steps: batches of an epoch of the two fine-tuning stages, or null for one sequence per user.
        batch_size: sequences per batch in fine-tuning.
        epochs: most epochs of stage 1, which encodes all items anew before each of them.
        patience: epochs of stage 1 without a better validation NDCG@5 before it ends.
        stage2_epochs: most epochs of stage 2, which keeps the item vectors of the best epoch of
            stage 1; 0 leaves it out.
        stage2_patience: the same as ``patience`` for stage 2.
        pretrain_epochs: epochs of pre-training.
        pretrain_steps: batches of an epoch of pre-training, or null for one sequence per user.
        pretrain_batch_size: sequences per batch in pre-training; the others are negatives.
        pretrain_learning_rate: peak learning rate of pre-training.
        mlm_weight: weight of masked language modelling in pre-training, on user and on item texts.
        mlm_share: share of the tokens that are masked.
    """

    encoder: str = DEFAULT_ENCODER
    pooling: Pooling = "mean"
    checkpoint: str | None = None
    pretrain: Literal["none", "sources"] = "sources"
    attributes: tuple[Attribute, ...] = Field(default=("title",), min_length=1, max_length=3)
    attribute_tokens: int = Field(default=24, ge=2)
    max_tokens: int = Field(default=256, ge=8)
    attention_window: int = Field(default=64, ge=2, multiple_of=2)
    temperature: float = Field(default=0.05, gt=0)
    freeze_words: bool = True
    warmup: int = Field(default=20, ge=0)
    accumulate: int = Field(default=1, ge=1)
    steps: int | None = Field(default=150, ge=1)
    batch_size: int = Field(default=64, ge=1)
    epochs: int = Field(default=16, ge=1)
    patience: int = Field(default=5, ge=1)
    stage2_epochs: int = Field(default=16, ge=0)
    stage2_patience: int = Field(default=3, ge=1)
    pretrain_epochs: int = Field(default=2, ge=1)
    pretrain_steps: int | None = Field(default=100, ge=1)
    pretrain_batch_size: int = Field(default=64, ge=2)
    pretrain_learning_rate: float = Field(default=1e-4, gt=0)
    mlm_weight: float = Field(default=0.1, ge=0)
    mlm_share: float = Field(default=0.15, gt=0, lt=1)
    learning_rate: float = Field(default=1e-4, gt=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    max_history: int = Field(default=10, ge=1)

    # The authors' code has 16 epochs where its script has 128, on a random fifth of the users, so that 150
    # batches of 64 are as many rows on 48,000 users. It checks every third epoch with patience 5 and 3; here
    # every epoch is checked.
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {},
        "paper": {
            "encoder": OFFICIAL_ENCODER,
            "pooling": "cls",
            "attribute_tokens": 32,
            "max_tokens": 1024,
            "max_history": 50,
            "warmup": 100,
            "accumulate": 8,
            "steps": None,
            "batch_size": 16,
            "learning_rate": 5e-5,
            "epochs": 128,
            "patience": 15,
            "stage2_epochs": 128,
            "stage2_patience": 9,
            "pretrain_epochs": 32,
            "pretrain_steps": None,
            "pretrain_learning_rate": 5e-5,
        },
    }

    @model_validator(mode="before")
    @classmethod
    def _one_start(cls, values: Any) -> Any:
        return one_start(values)

    @model_validator(mode="after")
    def _distinct(self) -> RecFormerConfig:
        if len(set(self.attributes)) < len(self.attributes):
            raise ValueError(f"attributes={list(self.attributes)}: name each attribute once")
        return self
