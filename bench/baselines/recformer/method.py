"""RecFormer: pre-trained on the sources or by its authors, then fine-tuned on the target in two stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.baselines.recformer.config import OFFICIAL_ENCODER, RecFormerConfig
from bench.baselines.recformer.encoding import encode_sequences, item_vectors, make_writer
from bench.baselines.recformer.loop import Batch, train_stage
from bench.baselines.recformer.model import Recformer, from_authors, scored_rows
from bench.baselines.recformer.stages import (
    Pretraining,
    fine_tuning_losses,
    fine_tuning_rows,
    n_batches,
    planned,
    pretraining_rows,
)
from bench.baselines.recformer.texts import SequenceWriter, item_table
from bench.baselines.scoring import score_in_chunks
from bench.baselines.starts import StartingMethod
from bench.baselines.text import load_encoder_model, resolve_encoder
from bench.baselines.text.backbones import describe_backbone, empty_backbone
from bench.baselines.text.histories import HistoryVectors
from bench.baselines.text.title_tokens import TokenTable, newest, stack_tables
from bench.baselines.training import TrainingReport, autocast, isolated_randomness
from bench.checkpoints import load_matching
from bench.data.domain import Sequences
from bench.errors import ConfigError, MethodError
from bench.io import read_json, write_json
from bench.methods import (
    Capabilities,
    Context,
    Family,
    Requests,
    RunDefaults,
    Scores,
    TrainView,
)
from bench.protocol.types import DomainView

__all__ = ["RecFormer"]

# Histories of one pass of the encoder.
_SCORE_ROWS = 1024


class RecFormer(StartingMethod):
    """Items and users as text in one encoder; the nearest item to the user's history is next."""

    name = "recformer"
    version = "2"
    family = Family.CROSS_DOMAIN
    Config = RecFormerConfig
    config: RecFormerConfig
    official_encoder = OFFICIAL_ENCODER
    tuning_only = frozenset(
        {
            *("encoder", "checkpoint", "pretrain", "validation_users"),
            *("steps", "batch_size", "epochs", "patience", "learning_rate"),
            *("warmup", "stage2_epochs", "stage2_patience"),
        }
    )

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.model: Recformer | None = None
        self.report: TrainingReport | None = None
        self._texts: TokenTable | None = None
        self._writer: SequenceWriter | None = None
        # None while the model is still being trained.
        self._histories: HistoryVectors | None = None

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        further = tuple(name for name in config.attributes if name != "title")
        return replace(super().capabilities(config), item_columns=further)

    @classmethod
    def run_defaults(cls, profile: str) -> RunDefaults:
        # The encoder runs about three times as fast in bfloat16, on CPUs that have it too.
        return RunDefaults(dtype="bfloat16", threads=None)

    @property
    def recformer(self) -> Recformer:
        """The model.

        Raises:
            MethodError: there is none yet.
        """
        if self.model is None:
            raise MethodError(f"{self.name} has no model: it was neither fitted nor loaded.")
        return self.model

    def fit(self, view: TrainView, context: Context) -> None:
        config, target = self.config, view.target
        self._histories = None
        encoder = resolve_encoder(config.encoder, progress=context.progress.status)
        backbone, tokenizer = load_encoder_model(encoder)
        weights, stages = self.first_weights(view, context)
        # What is new in the model is part of the training if nothing replaces it.
        with isolated_randomness(context.seed):
            self.model = model = self._wrap(backbone, target.n_items)
        if weights is not None:
            load_matching(model, weights, optional=["item_vectors"], origin=self.origin)
        model.to(context.device)
        self._texts = self._item_texts(target, tokenizer)
        self._writer = make_writer(model, tokenizer, config)
        self.report = self._fine_tune(target.sequences, context, stages)
        self._histories = HistoryVectors()

    def _wrap(self, backbone: Any, n_items: int) -> Recformer:
        return Recformer(
            backbone,
            n_items=n_items,
            max_history=self.config.max_history,
            pooling=self.config.pooling,
            attention_window=self.config.attention_window,
        )

    def _item_texts(self, domain: DomainView, tokenizer: Any) -> TokenTable:
        return item_table(
            domain.items,
            tokenizer,
            attributes=self.config.attributes,
            attribute_tokens=self.config.attribute_tokens,
        )

    def authors_weights(self, path: str) -> Mapping[str, Tensor]:
        return from_authors(super().authors_weights(path), path)

    def pretrain(
        self, domains: Sequence[DomainView], sequences: Sequences, context: Context, folder: Path
    ) -> tuple[Mapping[str, Tensor], TrainingReport]:
        config, seed = self.config, context.init_seed
        backbone, tokenizer = load_encoder_model(resolve_encoder(config.encoder))
        if tokenizer.mask_token_id is None and config.mlm_weight > 0:
            raise ConfigError(
                f"encoder {config.encoder!r}: its tokenizer has no mask token, which masked language "
                "modelling needs. Set mlm_weight=0, or choose an encoder of BERT's kind."
            )
        table = stack_tables([self._item_texts(domain, tokenizer) for domain in domains])
        with isolated_randomness(seed):
            model = self._wrap(backbone, 0)
            model.words.weight.requires_grad_(not config.freeze_words)
            module = Pretraining(
                model,
                vocabulary=model.words.num_embeddings,
                mask_id=int(tokenizer.mask_token_id or 0),
                temperature=config.temperature,
                mlm_weight=config.mlm_weight,
                mlm_share=config.mlm_share,
            ).to(context.device)
        writer = make_writer(model, tokenizer, config)
        size, most = config.pretrain_batch_size, config.pretrain_steps

        def batches(rng: np.random.Generator) -> list[Batch]:
            rows = pretraining_rows(sequences, max_history=config.max_history, rng=rng)
            return [
                partial(module.losses, writer, table, sequences, rows, chosen, rng)
                for chosen in planned(rows, batch_size=size, most=most, rng=rng)
                if len(chosen) > 1
            ]

        report = train_stage(
            module,
            batches=batches,
            config=config,
            context=context,
            n_batches=n_batches(int((sequences.lengths >= 2).sum()), batch_size=size, most=most),
            epochs=config.pretrain_epochs,
            learning_rate=config.pretrain_learning_rate,
            warmup=0,
            validate=None,
            folder=folder,
            seed=seed,
        )
        return {k: v for k, v in model.state_dict().items() if k != "item_vectors"}, report

    def _fine_tune(
        self, sequences: Sequences, context: Context, stages: dict[str, dict[str, Any]]
    ) -> TrainingReport:
        config, model = self.config, self.recformer
        batches = partial(self._batches, sequences)

        def with_new_items(rng: np.random.Generator) -> list[Batch]:
            self._encode_items(context)
            return batches(rng)

        n_rows = int((sequences.lengths >= 1).sum())
        tune = partial(
            train_stage,
            model,
            config=config,
            context=context,
            n_batches=n_batches(n_rows, batch_size=config.batch_size, most=config.steps),
            learning_rate=config.learning_rate,
            warmup=config.warmup,
            validate=lambda: context.validate(self),
        )
        first = tune(
            batches=with_new_items,
            epochs=config.epochs,
            patience=config.patience,
            folder=context.scratch / "stage-1",
            seed=_stage_seed(context.seed, 1),
        )
        if config.stage2_epochs == 0:
            first.stages = stages
            return first
        best = {name: value.detach().clone() for name, value in model.state_dict().items()}
        second = tune(
            batches=batches,
            epochs=config.stage2_epochs,
            patience=config.stage2_patience,
            folder=context.scratch / "stage-2",
            seed=_stage_seed(context.seed, 2),
        )
        # Stage 2 replaces the best model of stage 1 only if it is better.
        improved = _best(second) > _best(first)
        if not improved:
            model.load_state_dict(best)
        second.stages = {**stages, "stage 1": {**first.as_dict(), "kept": not improved}}
        return second

    def _batches(self, sequences: Sequences, rng: np.random.Generator) -> list[Batch]:
        """The batches of an epoch of fine-tuning."""
        config = self.config
        texts, writer = self._fitted()
        rows = fine_tuning_rows(sequences, max_history=config.max_history, rng=rng)
        losses = partial(fine_tuning_losses, self.recformer, writer, texts, sequences, rows)
        return [
            partial(losses, chosen, temperature=config.temperature)
            for chosen in planned(rows, batch_size=config.batch_size, most=config.steps, rng=rng)
        ]

    def _encode_items(self, context: Context) -> None:
        texts, writer = self._fitted()
        model = self.recformer.eval()
        with (
            context.progress.stage(f"encode {len(texts)} items"),
            torch.no_grad(),
            autocast(context),
        ):
            model.item_vectors.copy_(item_vectors(model, writer, texts))

    def _fitted(self) -> tuple[TokenTable, SequenceWriter]:
        if self._texts is None or self._writer is None:
            raise MethodError(f"{self.name} was asked for scores before it was fitted or loaded.")
        return self._texts, self._writer

    def score(self, requests: Requests, context: Context) -> Scores:
        texts, writer = self._fitted()
        model = self.recformer.to(context.device).eval()
        known = self._histories or HistoryVectors()

        def encode(histories: Sequences) -> NDArray[np.float32]:
            vectors: NDArray[np.float32] = (
                encode_sequences(model, writer, texts, histories).cpu().numpy()
            )
            return vectors

        def score_rows(rows: NDArray[np.int64]) -> Tensor:
            history = newest(
                requests.history, rows, most=self.config.max_history, newest_first=True
            )
            users = known.get(history, f"{context.device} {context.dtype}", encode)
            vectors = torch.from_numpy(users).to(context.device)
            return scored_rows(model, vectors, self.config.temperature)

        return score_in_chunks(
            requests,
            context,
            score_rows,
            owner=self.name,
            n_items=len(texts),
            most_rows=_SCORE_ROWS,
        )

    def save(self, folder: Path) -> None:
        texts, writer = self._fitted()
        model = self.recformer
        state = {k: v.detach().cpu().contiguous().clone() for k, v in model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        save_arrays(asdict(texts), folder / "texts.safetensors")
        described = {
            "backbone": describe_backbone(model.backbone),
            "writer": asdict(writer),
            "training": self.report.as_dict() if self.report else None,
        }
        write_json(folder / "model.json", described)

    def load(self, folder: Path) -> None:
        described = read_json(folder / "model.json")
        self._texts = TokenTable(**load_arrays(folder / "texts.safetensors"))
        with isolated_randomness(0):
            self.model = self._wrap(empty_backbone(described["backbone"]), len(self._texts))
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.model.eval()
        self._writer = SequenceWriter(**described["writer"])
        self._histories = HistoryVectors()
        training = described["training"]
        self.report = None if training is None else TrainingReport.from_dict(training)


def _stage_seed(seed: int, stage: int) -> int:
    """A seed for one stage of a run."""
    return int(np.random.SeedSequence([seed, stage]).generate_state(1)[0])


def _best(report: TrainingReport) -> float:
    return max(entry["ndcg@5"] for entry in report.history)
