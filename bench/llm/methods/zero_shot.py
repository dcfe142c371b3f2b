"""The backbone as published, without training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from bench.llm.config import LLMConfig
from bench.llm.methods.base import LLMMethod
from bench.methods import Family

__all__ = ["ZeroShot", "ZeroShotConfig"]


class ZeroShotConfig(LLMConfig):
    """As every LLM method; the ``paper`` profile takes likelihoods per token.

    The usual remedy for untuned models, which underrate long titles, if no prior is subtracted.
    """

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**values, "normalise": "tokens"} if name == "paper" else values
        for name, values in LLMConfig.profiles.items()
    }


class ZeroShot(LLMMethod):
    """An instruct model ranks the candidates without any training on the data."""

    name = "llm-zero-shot"
    version = "1"
    family = Family.LLM
    Config = ZeroShotConfig
    known_below_popularity: ClassVar[Mapping[str, str]] = {
        "*": "an untrained backbone knows titles, but neither these users nor what is popular among them"
    }
