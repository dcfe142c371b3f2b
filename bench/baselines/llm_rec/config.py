"""Options of LLM-Rec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from pydantic import Field

from bench.baselines.domains import Mixing
from bench.baselines.text import DEFAULT_ENCODER, Pooling
from bench.baselines.training import LoopConfig, ValidationUsers

__all__ = ["OFFICIAL_ENCODER", "LLMRecConfig", "unread"]

OFFICIAL_ENCODER = "google-bert/bert-base-uncased"


class LLMRecConfig(LoopConfig):
    """Settings of LLM-Rec.

    Attributes:
        encoder: text encoder that is trained: all-minilm-l6-v2, a folder, or a Hugging Face id (paper:
            google-bert/bert-base-uncased).
        pooling: how the states of a text become its vector: ``cls`` = the first token's (paper),
            ``mean`` = of all tokens, which MiniLM was trained for.
        temperature: scores and logits are cosines divided by it; null = plain dot products (paper).
        title_tokens: tokens of one title, the separator behind it included; more are cut.
        max_history: newest items of a history that are read.
        negatives: random items of the target's domain that a target is compared with.
        mixing: ``proportional`` = every training row once per epoch, so that a large domain has more;
            ``balanced`` = equal shares of all domains.
        lora_rank: rank of LoRA factors that are trained instead of the encoder; 0 = all its weights are.
        lora_alpha: scale of the factors, times 1 / rank.
        lora_dropout: dropout before the factors.
        steps: optimiser steps, or null for ``epochs`` passes over all rows.
        epochs: passes over all rows if ``steps`` is null.
        check_steps: steps between two checkpoints; if users are held out, also between two looks at
            their loss.
        holdout_share: share of all users whose last training item is not trained on, but gives a loss
            that stops training early and chooses the weights; 0 = all steps are taken.
        patience: looks without a lower loss before training stops.
        batch_size: training targets per step.
        warmup_share: share of the steps until the learning rate is reached; then it falls to 0.
        epsilon: AdamW's epsilon.
        validation_users: size of the user subset behind the validation figure that the run records; it
            decides nothing, for the model must not depend on the target.
    """

    encoder: str = DEFAULT_ENCODER
    pooling: Pooling = "mean"
    temperature: float | None = Field(default=0.05, gt=0)
    title_tokens: int = Field(default=24, ge=2)
    max_history: int = Field(default=10, ge=1)
    negatives: int = Field(default=4, ge=1)
    mixing: Mixing = "proportional"
    lora_rank: int = Field(default=0, ge=0)
    lora_alpha: float = Field(default=16.0, gt=0)
    lora_dropout: float = Field(default=0.1, ge=0, lt=1)
    steps: int | None = Field(default=None, ge=1)
    epochs: int = Field(default=1, ge=1)
    check_steps: int = Field(default=100, ge=1)
    holdout_share: float = Field(default=0.0, ge=0, lt=1)
    patience: int = Field(default=10, ge=1)
    batch_size: int = Field(default=32, ge=1)
    warmup_share: float = Field(default=0.05, ge=0, lt=1)
    epsilon: float = Field(default=1e-8, gt=0)
    learning_rate: float = Field(default=1e-4, gt=0)
    weight_decay: float = Field(default=1e-3, ge=0)
    clip_norm: float | None = Field(default=1.0, gt=0)
    validation_users: ValidationUsers = 1000

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {},
        "paper": {
            "encoder": OFFICIAL_ENCODER,
            "pooling": "cls",
            "temperature": None,
            "title_tokens": 40,
            "negatives": 10,
            "epochs": 50,
            "check_steps": 3000,
            "holdout_share": 0.1,
            "batch_size": 96,
            "warmup_share": 1e-3,
            "epsilon": 1e-4,
            "learning_rate": 5e-5,
            "validation_users": 2000,
        },
    }


def unread(config: LLMRecConfig) -> set[str]:
    """Settings that training does not read, or that its identity holds in another form."""
    unread = {"encoder", "validation_users"}
    if config.steps is not None:
        unread.add("epochs")
    if config.holdout_share == 0:
        unread.add("patience")
    if config.lora_rank == 0:
        unread |= {"lora_alpha", "lora_dropout"}
    return unread
