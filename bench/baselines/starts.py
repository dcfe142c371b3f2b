"""Where the training of a transferable model starts: weights of its authors, the sources, or nothing.

Settings that are read here: ``pretrain`` (``sources`` or ``none``) and ``checkpoint``.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from torch import Tensor

from bench.baselines.domains import union_domains, union_sequences
from bench.baselines.encoder_method import EncoderMethod
from bench.baselines.first_stage import FirstStageMethod
from bench.baselines.pretraining import FirstStage
from bench.baselines.text import Encoder
from bench.baselines.training import TrainingReport
from bench.checkpoints import read_state_dict
from bench.data.cache import content_sha256
from bench.data.domain import Sequences
from bench.errors import ConfigError
from bench.methods import Capabilities, Context, DomainView, TrainView

__all__ = ["StartingMethod", "one_start"]


class StartingMethod(EncoderMethod, FirstStageMethod):
    """A method that starts from its authors' weights, from the sources, or from its text encoder alone.

    Attributes:
        tuning_only: settings that pre-training does not read, or that its identity holds in another
            form.
    """

    tuning_only: ClassVar[frozenset[str]]
    alone = {"pretrain": "none"}  # noqa: RUF012  (declared by the base class)

    @abstractmethod
    def pretrain(
        self, domains: Sequence[DomainView], sequences: Sequences, context: Context, folder: Path
    ) -> tuple[Mapping[str, Tensor], TrainingReport]:
        """The first stage.

        Args:
            domains: the sources, ascending by name.
            sequences: their training sequences over their union vocabulary.
            context: the run's; only device, dtype, ``init_seed`` and reporting may be used.
            folder: for checkpoints.

        Returns:
            The weights that tuning starts from, by name, and the report.
        """

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return replace(
            super().capabilities(config), needs_sources=config.pretrain == "sources", trainable=True
        )

    @classmethod
    def require(cls, config: Any) -> None:
        super().require(config)
        if config.checkpoint and not Path(config.checkpoint).is_file():
            raise ConfigError(
                f"checkpoint {config.checkpoint}: no such file. Give the path of the authors' weights, "
                "or pre-train on the sources (without checkpoint)."
            )

    @classmethod
    def content_hashes(cls, config: Any) -> Mapping[str, str]:
        found = dict(super().content_hashes(config))
        if config.checkpoint and Path(config.checkpoint).is_file():
            found["checkpoint"] = content_sha256(Path(config.checkpoint))
        return found

    @classmethod
    def row_note(cls, config: Any) -> str:
        start = "source pre-trained" if config.pretrain == "sources" else "no pre-training"
        parts = ["" if config.checkpoint else start, super().row_note(config)]
        return ", ".join(part for part in parts if part)

    @property
    def origin(self) -> str:
        """Where the first weights come from, for messages."""
        return str(self.config.checkpoint or "of the first stage")

    def first_stage(self, encoder: Encoder | None) -> FirstStage | None:
        if self.config.pretrain == "none":
            return None
        return FirstStage(
            self.name,
            self.version,
            "pre-trained",
            self.stage_settings(encoder),
            encoder="" if encoder is None else encoder.content_hash,
        )

    def stage_settings(self, encoder: Encoder | None) -> dict[str, Any]:
        """The settings that the first stage reads, as JSON values."""
        return dict(self.config.model_dump(mode="json", exclude=set(self.tuning_only)))

    def first_weights(
        self, view: TrainView, context: Context
    ) -> tuple[Mapping[str, Tensor] | None, dict[str, dict[str, Any]]]:
        """The weights that tuning starts from, None for none; and what the training report says.

        Raises:
            ConfigError: there is no source to pre-train on, or no such checkpoint.
            DataError: the checkpoint is damaged or none.
            MethodError: the sources hold too few sequences.
        """
        if self.config.checkpoint:
            return self.authors_weights(self.config.checkpoint), {}
        if self.config.pretrain == "none":
            return None, {}
        if not view.sources:
            raise ConfigError(
                f"{self.name} pre-trains on source domains, and {view.target.name} was given none. Name "
                "some with --sources, or leave pre-training out: --set pretrain=none."
            )
        domains = union_domains(view, include_target=False)
        sequences, _ = union_sequences(view, include_target=False, include_sources=True)
        found = self.shared(
            domains, context, lambda folder: self.pretrain(domains, sequences, context, folder)
        )
        return found.tensors, {"pre-training": dict(found.record["training"])}

    def authors_weights(self, path: str) -> Mapping[str, Tensor]:
        """The weights in a checkpoint of the method's authors, by the names of the model's.

        Raises:
            ConfigError, DataError: as :func:`bench.checkpoints.read_state_dict`.
        """
        return read_state_dict(Path(path))


def one_start(values: Any) -> Any:
    """For a configuration's validator: a checkpoint replaces pre-training.

    Raises:
        ValueError: both are given.
    """
    if isinstance(values, dict) and values.get("checkpoint"):
        if values.get("pretrain") == "sources":
            raise ValueError("checkpoint and pretrain=sources are two starts; give one of them")
        return {**values, "pretrain": "none"}
    return values
