"""LLM-Rec: trained once on the union of all domains, then asked about each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from bench.baselines.domains import UnionVocabulary, union_domains, union_sequences
from bench.baselines.encoder_method import EncoderMethod
from bench.baselines.first_stage import FirstStageMethod
from bench.baselines.llm_rec.config import OFFICIAL_ENCODER, LLMRecConfig, unread
from bench.baselines.llm_rec.estimates import training_seconds, training_tokens
from bench.baselines.llm_rec.model import TextEncoder, TextWriter, title_table
from bench.baselines.llm_rec.training import (
    Corpus,
    add_lora,
    merge_lora,
    train_shared,
    weights_of,
)
from bench.baselines.pretraining import FirstStage
from bench.baselines.scoring import score_in_chunks
from bench.baselines.text import Encoder, load_encoder_model, resolve_encoder
from bench.baselines.text.backbones import describe_backbone, empty_backbone
from bench.baselines.text.histories import HistoryVectors
from bench.baselines.text.passes import first_position
from bench.baselines.text.title_tokens import TokenTable, newest, stack_tables
from bench.baselines.training import TrainingReport, autocast, isolated_randomness
from bench.data.domain import Sequences
from bench.errors import ConfigError, MethodError
from bench.io import read_json, write_json
from bench.methods import (
    Capabilities,
    Context,
    Family,
    Job,
    PlanSpec,
    Requests,
    RunDefaults,
    Scores,
    TrainView,
)
from bench.protocol.types import DomainView

__all__ = ["LLMRec"]

# Histories of one pass of the encoder.
_SCORE_ROWS = 1024


class LLMRec(EncoderMethod, FirstStageMethod):
    """One text encoder for users and items of all domains; the best dot product is next."""

    name = "llm-rec"
    version = "1"
    family = Family.LLM
    Config = LLMRecConfig
    config: LLMRecConfig
    official_encoder = OFFICIAL_ENCODER
    reads_target = True
    stage_seed = "seed"

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.model: TextEncoder | None = None
        self.report: TrainingReport | None = None
        self._texts: TokenTable | None = None
        self._writer: TextWriter | None = None
        self._items: Tensor | None = None
        self._histories = HistoryVectors()

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return Capabilities(needs_sources=True, needs_text=True, trainable=True)

    @classmethod
    def run_defaults(cls, profile: str) -> RunDefaults:
        # The encoder runs about three times as fast in bfloat16, on CPUs that have it too.
        return RunDefaults(dtype="bfloat16", threads=None)

    def first_stage(self, encoder: Encoder | None) -> FirstStage:
        return FirstStage(
            self.name,
            self.version,
            "trained",
            self.config.model_dump(mode="json", exclude=unread(self.config)),
            encoder="" if encoder is None else encoder.content_hash,
        )

    def plan(self, spec: PlanSpec) -> list[Job]:
        training, *others = super().plan(spec)
        sizes = [spec.sizes.get(name) for name in (*spec.sources, spec.target)]
        known = [size for size in sizes if size is not None]
        if len(known) < len(sizes):
            return [training, *others]
        tokens = training_tokens(known, self.config)
        seconds = training_seconds(
            tokens, self.config, device=spec.device, dtype=spec.dtype, threads=spec.threads
        )
        return [replace(training, tokens=tokens, seconds=seconds), *others]

    def fit(self, view: TrainView, context: Context) -> None:
        encoder = resolve_encoder(self.config.encoder, progress=context.progress.status)
        backbone, tokenizer = load_encoder_model(encoder)
        domains = union_domains(view)
        found = self.shared(
            domains, context, lambda folder: self._train(view, domains, context, folder)
        )
        self.report = TrainingReport.from_dict(found.record["training"])
        backbone.load_state_dict(found.tensors)
        self.model = self._wrap(backbone).to(context.device).eval()
        self._writer = self._make_writer(backbone, tokenizer)
        self._texts = self._titles(view.target, tokenizer)
        self._items = self._encode_items(context)
        self._histories = HistoryVectors()
        # For the record only: the model was made without a look at any target.
        context.validate(self)

    def _wrap(self, backbone: Any) -> TextEncoder:
        config = self.config
        return TextEncoder(backbone, pooling=config.pooling, temperature=config.temperature)

    def _titles(self, domain: DomainView, tokenizer: Any) -> TokenTable:
        titles = list(domain.items.titles)
        return title_table(titles, tokenizer, title_tokens=self.config.title_tokens)

    def _make_writer(self, backbone: Any, tokenizer: Any) -> TextWriter:
        config = self.config
        wanted = config.max_history * config.title_tokens
        longest = int(backbone.config.max_position_embeddings) - first_position(backbone) - 1
        if wanted > longest:
            raise ConfigError(
                f"max_history={config.max_history} titles of title_tokens={config.title_tokens} are up "
                f"to {wanted} tokens; the encoder {config.encoder!r} reads {longest} behind its first "
                "one. Lower either."
            )
        if tokenizer.cls_token_id is None or tokenizer.pad_token_id is None:
            raise ConfigError(
                f"encoder {config.encoder!r}: its tokenizer has no [CLS] or no padding token, with which "
                "every text begins or ends. Choose an encoder of BERT's kind."
            )
        return TextWriter(int(tokenizer.cls_token_id), int(tokenizer.pad_token_id), wanted)

    def _train(
        self,
        view: TrainView,
        domains: Sequence[DomainView],
        context: Context,
        folder: Path,
    ) -> tuple[Mapping[str, Tensor], TrainingReport]:
        config, seed = self.config, context.seed
        backbone, tokenizer = load_encoder_model(resolve_encoder(config.encoder))
        writer = self._make_writer(backbone, tokenizer)
        model = self._wrap(backbone)
        if config.lora_rank:
            add_lora(model, config, seed)
        sequences, domain_of_row = union_sequences(view, include_target=True, include_sources=True)
        corpus = Corpus(
            sequences,
            domain_of_row,
            UnionVocabulary.of(domains).offsets,
            stack_tables([self._titles(domain, tokenizer) for domain in domains]),
            writer,
            config=config,
            seed=seed,
        )
        report = train_shared(model.to(context.device), corpus, context, folder=folder, seed=seed)
        merge_lora(model)
        return weights_of(model), report

    def _encode_items(self, context: Context) -> Tensor:
        texts, writer, model = self._fitted()
        first, place = texts.distinct()
        with (
            context.progress.stage(f"encode {len(texts)} items"),
            torch.inference_mode(),
            autocast(context),
        ):
            vectors = model.encode_items(writer, texts, first).cpu()
        return vectors[torch.from_numpy(place)].clone()

    def _fitted(self) -> tuple[TokenTable, TextWriter, TextEncoder]:
        if self._texts is None or self._writer is None or self.model is None:
            raise MethodError(f"{self.name} was asked for scores before it was fitted or loaded.")
        return self._texts, self._writer, self.model

    def score(self, requests: Requests, context: Context) -> Scores:
        texts, writer, model = self._fitted()
        if self._items is None:
            raise MethodError(f"{self.name} has no item vectors: it was neither fitted nor loaded.")
        model.to(context.device).eval()
        items = self._items.to(context.device)

        def encode(histories: Sequences) -> NDArray[np.float32]:
            vectors: NDArray[np.float32] = model.encode(writer, texts, histories).cpu().numpy()
            return vectors

        def score_rows(rows: NDArray[np.int64]) -> Tensor:
            history = newest(requests.history, rows, most=self.config.max_history)
            users = self._histories.get(history, f"{context.device} {context.dtype}", encode)
            return model.scores(torch.from_numpy(users).to(items.device), items)

        return score_in_chunks(
            requests,
            context,
            score_rows,
            owner=self.name,
            n_items=len(texts),
            most_rows=_SCORE_ROWS,
        )

    def save(self, folder: Path) -> None:
        texts, writer, model = self._fitted()
        save_file(dict(weights_of(model)), folder / "model.safetensors")
        arrays = {name: torch.from_numpy(value) for name, value in asdict(texts).items()}
        items = torch.zeros(0) if self._items is None else self._items
        save_file({**arrays, "vectors": items}, folder / "items.safetensors")
        described = {
            "backbone": describe_backbone(model.backbone),
            "writer": asdict(writer),
            "training": self.report.as_dict() if self.report else None,
        }
        write_json(folder / "model.json", described)

    def load(self, folder: Path) -> None:
        described = read_json(folder / "model.json")
        with isolated_randomness(0):
            backbone = empty_backbone(described["backbone"])
        backbone.load_state_dict(load_file(folder / "model.safetensors"))
        self.model = self._wrap(backbone).eval()
        arrays = load_file(folder / "items.safetensors")
        self._items = arrays.pop("vectors")
        self._texts = TokenTable(**{name: value.numpy() for name, value in arrays.items()})
        self._writer = TextWriter(**described["writer"])
        self._histories = HistoryVectors()
        training = described["training"]
        self.report = None if training is None else TrainingReport.from_dict(training)
