"""TALLRec (Bao et al., RecSys 2023): one adapter tuned on yes/no questions, here of all domains.

The second stage of the paper only, without disliked titles; ``docs/llm-methods.md`` lists what differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Literal

from pydantic import Field, model_validator

from bench.llm.config import AdapterMethodConfig, PromptStyle
from bench.llm.lora import LoraSpec
from bench.llm.methods.branches import AdapterMethod, Branch
from bench.methods import Family

__all__ = ["TALLRec", "TALLRecConfig"]

_PROMPTS: Mapping[str, PromptStyle] = {"pointwise": "pointwise", "listwise": "listwise"}

_BACKBONE = "meta-llama/Llama-2-7b-chat-hf"
# What is published for the method itself stands in the class; the prompt follows the variant.
_OWN = ("prompt", "max_history", "lora.dropout")


def _without(names: Sequence[str], values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


class TALLRecLora(LoraSpec):
    """Published shape: rank 8, alpha 16, dropout .05, query and value projections."""

    r: int = Field(default=8, ge=1)
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.05, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = ("q_proj", "v_proj")


class TALLRecConfig(AdapterMethodConfig):
    """As every adapter, with the published shape of the adapter and the published history length.

    Attributes:
        variant: ``pointwise`` asks yes or no for every candidate, as the paper; ``listwise`` shows
            all candidates, which the figures of the reference study imply (Hou et al. 2025 do not
            say it); so does profile ``paper-as-run``.
    """

    variant: Literal["pointwise", "listwise"] = "pointwise"
    prompt: PromptStyle = "pointwise"
    max_history: int = 10
    lora: TALLRecLora = TALLRecLora()

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {},
        "paper": {
            **_without(_OWN, AdapterMethodConfig.profiles["paper"]),
            "backbone": _BACKBONE,
            "training.learning_rate": 1e-4,
        },
        # The row of the reference study: its lists and its adapter under another backbone, which
        # reads 4,096 tokens with the answer.
        "paper-as-run": {
            **_without(("prompt",), AdapterMethodConfig.profiles["paper-as-run"]),
            "backbone": _BACKBONE,
            "variant": "listwise",
            "title_chars": 120,
            "max_prompt_tokens": 3072,
            "lora.r": 16,
            "lora.alpha": 32.0,
            "lora.targets": "all-linear",
        },
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
