"""VQ-Rec as a method: codes of titles, contrastive pre-training on the sources, tuning on the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, model_validator
from torch import Tensor

from bench.baselines.batches import Batch
from bench.baselines.contrastive import equal_positives, info_nce
from bench.baselines.sequence_encoder import encode_groups
from bench.baselines.training import LoopConfig, TrainingReport, isolated_randomness, train
from bench.baselines.transferable import TextConfig, TransferableMethod
from bench.baselines.vq_rec.model import (
    Alignment,
    VQRecModel,
    apply_alignment,
    fake_codes,
    flat_ids,
    released_alignment,
)
from bench.baselines.vq_rec.quantiser import Quantiser, fit_quantiser
from bench.checkpoints import load_matching
from bench.data.domain import Sequences
from bench.methods import Context, Family, TrainView
from bench.protocol.types import DomainView

__all__ = ["VQRec", "VQRecConfig"]

_QUANTISER = "quantiser."
_CODES_STREAM = 1  # tells the generator of the codes from that of the first stage's epochs


class VQRecConfig(TextConfig):
    """VQ-Rec.

    Attributes:
        n_blocks: codes per item; divides the size of the text vectors.
        n_codes: codes per block.
        rotations: rounds of turning the text vectors after their centroids; 0 = a random rotation.
        quantiser_points: most titles from which the codes are learnt.
        alignment: how codes of the target get their pre-trained vectors. ``learned``: the target has
            codes of its own, and a permutation is learnt (corrected, see the documentation);
            ``released``: the random mapping that the released code ends with; ``shared``: the target
            is coded by the sources' index, nothing is to be aligned.
        alignment_epochs: epochs over the target that learn the permutation.
        alignment_learning_rate: Adam's step size for it.
        fake_share: share of codes replaced in a semi-synthetic negative.
    """

    n_blocks: int = Field(default=32, ge=1)
    n_codes: int = Field(default=256, ge=2)
    rotations: int = Field(default=5, ge=0)
    quantiser_points: int = Field(default=16_384, ge=1)
    alignment: Literal["learned", "released", "shared"] = "learned"
    alignment_epochs: int = Field(default=5, ge=1)
    alignment_learning_rate: float = Field(default=0.1, gt=0)
    fake_share: float = Field(default=0.75, ge=0, le=1)

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {},
        "paper": {**TextConfig.profiles["paper"], "rotations": 50, "quantiser_points": 65_536},
    }

    @model_validator(mode="after")
    def _own_codes_for_a_checkpoint(self) -> VQRecConfig:
        if self.checkpoint and self.alignment == "shared":
            raise ValueError(
                "alignment=shared needs the index of the pre-training, which a checkpoint does not "
                "hold; choose learned or released"
            )
        return self


class VQRec(TransferableMethod):
    """VQ-Rec: items are means of the vectors of their titles' discrete codes."""

    name = "vq-rec"
    version = "1"
    family = Family.CROSS_DOMAIN
    Config = VQRecConfig
    config: VQRecConfig
    tuning_only = TransferableMethod.tuning_only | {
        *("alignment", "alignment_epochs", "alignment_learning_rate")
    }

    @classmethod
    def row_note(cls, config: Any) -> str:
        words = {
            "learned": "corrected alignment",
            "released": "released alignment",
            "shared": "shared codebook",
        }
        starts = config.checkpoint or config.pretrain == "sources"
        parts = [super().row_note(config), words[config.alignment] if starts else ""]
        return ", ".join(part for part in parts if part)

    def build(self, n_users: int, n_items: int) -> VQRecModel:
        return self._model()

    def _model(self) -> VQRecModel:
        config = self.config
        return VQRecModel(config, n_blocks=config.n_blocks, n_codes=config.n_codes)

    def start(
        self, tensors: Mapping[str, Tensor] | None, view: TrainView, context: Context
    ) -> Mapping[str, dict[str, Any]]:
        vectors = self.text_vectors(view.target, context)
        if tensors is not None and self.config.alignment == "shared":
            arrays = {n: tensors[_QUANTISER + n].numpy() for n in ("mean", "rotation", "centroids")}
            quantiser = Quantiser(**arrays)
        else:
            quantiser = self._fitted_quantiser(
                vectors, np.unique(view.target.sequences.items), context
            )
        codes = quantiser.encode(vectors)
        self.set_content(self.encoder, flat_ids(codes, self.config.n_codes))
        stages: dict[str, dict[str, Any]] = {
            "codes": {"items": len(codes), "distinct": len(np.unique(codes, axis=0))}
        }
        if tensors is not None:
            load_matching(self.encoder, tensors, origin=self.origin)
            stages |= self._align(view, context)
        return stages

    def _fitted_quantiser(
        self, vectors: NDArray[np.float32], trained_on: NDArray[np.integer], context: Context
    ) -> Quantiser:
        """An index learnt from items of training sequences alone; one for all training seeds."""
        with context.progress.stage("learn the codes of the titles"):
            return fit_quantiser(
                vectors[trained_on],
                n_blocks=self.config.n_blocks,
                n_codes=self.config.n_codes,
                rotations=self.config.rotations,
                points=self.config.quantiser_points,
                rng=np.random.default_rng([context.init_seed, 0, _CODES_STREAM]),
            )

    def _align(self, view: TrainView, context: Context) -> Mapping[str, dict[str, Any]]:
        """Give the target's codes their pre-trained vectors; the model is unchanged otherwise."""
        config, model = self.config, self._vq_model()
        if config.alignment == "shared":
            return {}
        table = model.pq_code_embedding.weight
        if config.alignment == "released":
            with isolated_randomness(context.seed), torch.no_grad():
                matrices = released_alignment(config.n_blocks, config.n_codes)
                table.copy_(apply_alignment(matrices.to(table.device), table))
            return {}
        with isolated_randomness(context.seed):
            alignment = Alignment(config.n_blocks, config.n_codes).to(table.device)
        model.requires_grad_(False)
        folder = context.scratch / "alignment"
        folder.mkdir(exist_ok=True)
        try:
            with context.progress.stage("align the codes of the target"):
                report = train(
                    alignment,
                    lambda rng: self._aligned_steps(alignment, view, rng),
                    config=LoopConfig(
                        epochs=config.alignment_epochs,
                        learning_rate=config.alignment_learning_rate,
                    ),
                    context=context,
                    validate=None,
                    folder=folder,
                )
        finally:
            model.aligned = None
            model.requires_grad_(True)
        with torch.no_grad():
            table.copy_(apply_alignment(alignment.permutation(), table))
        return {"alignment": report.as_dict()}

    def _aligned_steps(
        self, alignment: Alignment, view: TrainView, rng: np.random.Generator
    ) -> Sequence[Callable[[], Tensor]]:
        """The steps of tuning, on a table that the alignment re-arranges anew in every step."""
        model = self._vq_model()
        table = model.pq_code_embedding.weight

        def aligned(step: Callable[[], Tensor]) -> Tensor:
            model.train()
            model.aligned = apply_alignment(alignment(), table)
            return step()

        return [partial(aligned, step) for step in self.epoch(view, rng, table.device)]

    def _vq_model(self) -> VQRecModel:
        model = self.encoder
        assert isinstance(model, VQRecModel)  # noqa: S101 - build makes nothing else
        return model

    def pretrain(
        self, domains: Sequence[DomainView], sequences: Sequences, context: Context, folder: Path
    ) -> tuple[Mapping[str, Tensor], TrainingReport]:
        device = torch.device(context.device)
        vectors = np.concatenate([self.text_vectors(domain, context) for domain in domains])
        quantiser = self._fitted_quantiser(vectors, np.unique(sequences.items), context)
        with isolated_randomness(context.init_seed):
            model = self._model().to(device)
        self.set_content(model, flat_ids(quantiser.encode(vectors), self.config.n_codes))

        def loss(batch: Batch, rng: np.random.Generator) -> Tensor:
            return self._contrast(model, batch, device)

        report = self.train_first_stage(model, sequences, loss, context, folder)
        arrays = {
            _QUANTISER + name: torch.from_numpy(np.ascontiguousarray(array))
            for name, array in quantiser.arrays().items()
        }
        return {**model.state_dict(), **arrays}, report

    def _contrast(self, model: VQRecModel, batch: Batch, device: torch.device) -> Tensor:
        """Equations 5 and 6 of the paper: other rows' items and one semi-synthetic item per row."""
        vectors = model.input_vectors(torch.from_numpy(batch.items).to(device))
        hidden, order = encode_groups(model, vectors, batch.lengths)
        targets = torch.from_numpy(batch.targets).to(device)[order]
        codes = model.content[targets]
        fakes = fake_codes(codes, self.config.n_codes, probability=self.config.fake_share)
        return info_nce(
            hidden,
            model.code_vectors(codes),
            temperature=self.config.temperature,
            same=equal_positives(targets),
            handling=self.config.equal_positives,
            further=model.code_vectors(fakes)[:, None],
        )
