"""Methods that read item titles with a text encoder: which one, and what a run must know of it."""

from __future__ import annotations

from collections.abc import Mapping
from operator import attrgetter
from typing import Any, ClassVar

from bench.baselines.text import encoder_content, require_encoder
from bench.baselines.text.names import substitute_note
from bench.methods import Capabilities, Method

__all__ = ["EncoderMethod"]


class EncoderMethod(Method):
    """A method whose configuration names a text encoder.

    Attributes:
        encoder_setting: the setting that names it; a dot leads into a part of the configuration.
        official_encoder: the encoder of the method's authors; None if a row needs no word about it.
    """

    encoder_setting: ClassVar[str] = "encoder"
    official_encoder: ClassVar[str | None] = None

    @classmethod
    def encoder_name(cls, config: Any) -> str:
        """The encoder, as configured."""
        name: str = attrgetter(cls.encoder_setting)(config)
        return name

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return Capabilities(needs_text=True)

    @classmethod
    def require(cls, config: Any) -> None:
        require_encoder(cls.encoder_name(config))

    @classmethod
    def content_hashes(cls, config: Any) -> Mapping[str, str]:
        return encoder_content(cls.encoder_setting, cls.encoder_name(config))

    @classmethod
    def row_note(cls, config: Any) -> str:
        official = cls.official_encoder
        return "" if official is None else substitute_note(cls.encoder_name(config), official)
