"""How LLM-Rec's shared encoder is trained: on the rows of all domains, knowing nothing of a target."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.baselines.batches import Rows
from bench.baselines.llm_rec.config import LLMRecConfig
from bench.baselines.llm_rec.model import TextEncoder, TextWriter
from bench.baselines.llm_rec.rows import (
    BatchStream,
    Choices,
    choices,
    split_rows,
)
from bench.baselines.negatives import InDomainNegatives
from bench.baselines.schedules import adamw, scheduled, steps_taken
from bench.baselines.text.title_tokens import TokenTable, windows
from bench.baselines.training import TrainingReport, autocast, isolated_randomness, train
from bench.data.domain import Sequences
from bench.errors import MethodError
from bench.methods import Context

__all__ = ["Corpus", "add_lora", "merge_lora", "train_shared", "weights_of"]

_HELD_OUT_BATCH = 256


class Corpus:
    """The rows of all domains and their texts.

    Args:
        sequences: training sequences over the union vocabulary.
        domain_of_row: domain of every sequence.
        offsets: where the items of each domain begin.
        table: titles of the union's items.
        writer: makes token batches.
        config: settings.
        seed: of the run.
    """

    def __init__(
        self,
        sequences: Sequences,
        domain_of_row: NDArray[np.integer],
        offsets: NDArray[np.int64],
        table: TokenTable,
        writer: TextWriter,
        *,
        config: LLMRecConfig,
        seed: int,
    ) -> None:
        self.sequences = sequences
        self.table = table
        self.writer = writer
        self.config = config
        first, place = table.distinct()
        self._same_text = first[place]
        self._sampler = InDomainNegatives(sequences, domain_of_row, offsets)
        self.rows, self.held_out = split_rows(
            sequences,
            max_history=config.max_history,
            holdout_share=config.holdout_share,
            seed=seed,
        )
        if not len(self.rows):
            raise MethodError(
                "there is nothing to train on: no training sequence has two items or more. "
                "Check the domains with `bench data stats`."
            )
        self.stream = BatchStream(
            domain_of_row[self.rows.sequence],
            batch_size=config.batch_size,
            mixing=config.mixing,
            seed=seed,
        )

    def choices(self, rows: Rows, chosen: NDArray[np.int64], rng: np.random.Generator) -> Choices:
        """What a batch chooses among, with fresh negatives."""
        return choices(self.sequences, rows, chosen, self._sampler, self.config.negatives, rng)

    def loss(
        self, model: TextEncoder, rows: Rows, chosen: NDArray[np.int64], among: Choices
    ) -> Tensor:
        """Loss of a batch."""
        history = windows(self.sequences, rows.start[chosen], rows.end[chosen])
        return model.loss(
            self.writer, self.table, self._same_text, history, among.items, among.label
        )


def train_shared(
    model: TextEncoder, corpus: Corpus, context: Context, *, folder: Path, seed: int
) -> TrainingReport:
    """Train ``model``; the rounds of the report are ``check_steps`` steps each.

    With held-out rows the weights of their lowest loss are kept, otherwise the last ones.

    Args:
        model: on its device.
        corpus: rows and texts.
        context: the run's; only device, dtype and reporting are used.
        folder: for checkpoints.
        seed: of order, negatives and dropout.
    """
    config = corpus.config
    total = config.steps or config.epochs * corpus.stream.per_pass
    optimiser = adamw(
        model,
        learning_rate=config.learning_rate,
        weight_decay=config.weight_decay,
        epsilon=config.epsilon,
    )

    def step(chosen: NDArray[np.int64], rng: np.random.Generator) -> Tensor:
        return corpus.loss(model, corpus.rows, chosen, corpus.choices(corpus.rows, chosen, rng))

    def round_of_steps(rng: np.random.Generator) -> Sequence[Callable[[], Tensor]]:
        done = steps_taken(optimiser)
        batches = corpus.stream.take(done, min(config.check_steps, total - done))
        return scheduled(
            [partial(step, chosen, rng) for chosen in batches],
            optimiser,
            learning_rate=config.learning_rate,
            warmup=int(np.ceil(config.warmup_share * total)),
            total=total,
        )

    def validate() -> float:
        return -_held_out_loss(model, corpus, context, seed)

    return train(
        model,
        round_of_steps,
        config=config.model_copy(update={"epochs": -(-total // config.check_steps)}),
        context=context,
        validate=validate if len(corpus.held_out) else None,
        folder=folder,
        seed=seed,
        optimiser=optimiser,
        figure_name="minus held-out loss",
        chance_loss=math.log(1 + config.negatives),
    )


def _held_out_loss(model: TextEncoder, corpus: Corpus, context: Context, seed: int) -> float:
    """Mean loss of the held-out rows, against the same negatives each time."""
    rng = np.random.default_rng([seed, 0x10C])
    rows, total = corpus.held_out, 0.0
    with torch.no_grad(), autocast(context):
        for start in range(0, len(rows), _HELD_OUT_BATCH):
            chosen = np.arange(start, min(start + _HELD_OUT_BATCH, len(rows)))
            among = corpus.choices(rows, chosen, rng)
            total += float(corpus.loss(model, rows, chosen, among)) * len(chosen)
    return total / len(rows)


def add_lora(model: TextEncoder, config: LLMRecConfig, seed: int) -> None:
    """Freeze the encoder and add trainable low-rank factors to the layers that peft has as default."""
    from peft import LoraConfig, get_peft_model

    lora = LoraConfig(
        r=config.lora_rank, lora_alpha=config.lora_alpha, lora_dropout=config.lora_dropout
    )
    with isolated_randomness(seed), warnings.catch_warnings():
        # peft asks transformers 5 by the name that transformers 4 had for it.
        warnings.filterwarnings("ignore", ".*is_gradient_checkpointing", FutureWarning)
        adapted: nn.Module = get_peft_model(model.backbone, lora)
    model.backbone = adapted


def merge_lora(model: TextEncoder) -> None:
    """Add the factors to the weights, so that a plain encoder remains; nothing without factors."""
    merge: Any = getattr(model.backbone, "merge_and_unload", None)
    if merge is not None:
        model.backbone = merge()


def weights_of(model: TextEncoder) -> Mapping[str, Tensor]:
    """Weights of the encoder by name, on the CPU."""
    return {
        name: value.detach().cpu().contiguous().clone()
        for name, value in model.backbone.state_dict().items()
    }
