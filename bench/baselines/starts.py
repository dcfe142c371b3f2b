"""Where the training of a transferable model starts: weights of its authors, the sources, or nothing.

Settings that these functions read: ``pretrain`` (``sources`` or ``none``) and ``checkpoint``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

from bench.baselines.first_stage import FirstStageMethod
from bench.baselines.text import encoder_content, require_encoder
from bench.baselines.text.names import substitute_note
from bench.data.cache import content_sha256
from bench.errors import ConfigError
from bench.methods import Capabilities, DomainView

__all__ = ["StartingMethod", "one_start", "require_sources"]


class StartingMethod(FirstStageMethod):
    """A method that starts from its authors' weights, from the sources, or from its text encoder alone.

    Attributes:
        encoder_setting: the setting that names the text encoder.
        official_encoder: the authors' encoder.
    """

    encoder_setting: ClassVar[str] = "encoder"
    official_encoder: ClassVar[str]
    alone = {"pretrain": "none"}  # noqa: RUF012  (declared by the base class)

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return Capabilities(
            needs_sources=config.pretrain == "sources", needs_text=True, trainable=True
        )

    @classmethod
    def require(cls, config: Any) -> None:
        require_encoder(cls.encoder_name(config))
        if config.checkpoint and not Path(config.checkpoint).is_file():
            raise ConfigError(
                f"checkpoint {config.checkpoint}: no such file. Give the path of the authors' weights, "
                "or pre-train on the sources (without checkpoint)."
            )

    @classmethod
    def content_hashes(cls, config: Any) -> Mapping[str, str]:
        found = encoder_content(cls.encoder_setting, cls.encoder_name(config))
        if config.checkpoint and Path(config.checkpoint).is_file():
            found["checkpoint"] = content_sha256(Path(config.checkpoint))
        return found

    @classmethod
    def row_note(cls, config: Any) -> str:
        start = "source pre-trained" if config.pretrain == "sources" else "no pre-training"
        parts = ["" if config.checkpoint else start]
        parts.append(substitute_note(cls.encoder_name(config), cls.official_encoder))
        return ", ".join(part for part in parts if part)

    @classmethod
    def encoder_name(cls, config: Any) -> str:
        name: str = getattr(config, cls.encoder_setting)
        return name


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


def require_sources(name: str, target: DomainView, sources: Sequence[DomainView]) -> None:
    """Check that there is something to pre-train on.

    Raises:
        ConfigError: there is no source domain.
    """
    if not sources:
        raise ConfigError(
            f"{name} pre-trains on source domains, and {target.name} was given none. Name some with "
            "--sources, or leave pre-training out: --set pretrain=none."
        )
