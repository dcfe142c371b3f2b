"""TALLRec (Bao et al., RecSys 2023): instruction tuning of one adapter on all domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from bench.llm.config import AdapterConfig, PromptStyle
from bench.llm.lora import LoraSpec
from bench.llm.methods.branches import AdapterMethod, Branch
from bench.methods import Family

__all__ = ["TALLRec", "TALLRecConfig"]

_PROMPTS: Mapping[str, PromptStyle] = {"pointwise": "pointwise", "listwise": "listwise"}


class TALLRecLora(LoraSpec):
    """Published shape: rank 8, alpha 16, dropout .05, query and value projections."""

    r: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = ("q_proj", "v_proj")


class TALLRecConfig(AdapterConfig):
    """As every adapter, with the published shape of the adapter and the published history length.

    Attributes:
        variant: ``pointwise`` asks yes or no for every candidate, as published; ``listwise`` shows
            all candidates, which the figures of the reference study imply (Hou et al. 2025 do not
            say it).
    """

    variant: Literal["pointwise", "listwise"] = "pointwise"
    prompt: PromptStyle = "pointwise"
    max_history: int = 10
    lora: TALLRecLora = TALLRecLora()

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {
            key: value
            for key, value in {**values, "backbone": "meta-llama/Llama-2-7b-chat-hf"}.items()
            if name != "cpu" and key not in ("prompt", "max_history", "lora.dropout", "scorer")
        }
        for name, values in AdapterConfig.profiles.items()
    }

    @model_validator(mode="before")
    @classmethod
    def _prompt_follows_the_variant(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        prompt = _PROMPTS.get(values.get("variant", "pointwise"), "pointwise")
        if values.get("prompt", prompt) != prompt:
            raise ValueError(f"prompt {values['prompt']!r} does not fit variant {prompt!r}")
        return {**values, "prompt": prompt}


class TALLRec(AdapterMethod):
    """One adapter on the yes/no questions of all domains, shared by all targets of a group."""

    name = "tallrec"
    version = "1"
    family = Family.LLM
    Config = TALLRecConfig
    uses_sources: ClassVar[bool] = True

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        return (Branch((target, *sources)),)
