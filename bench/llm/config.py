"""What every LLM method can be told: backbone, prompt, scorer, and how its adapters are trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, model_validator

from bench.llm.engines import ENGINES
from bench.llm.lora import LoraSpec
from bench.llm.training import TrainingSpec
from bench.methods import MethodConfig
from bench.registry import Named

__all__ = [
    "CPU_BATCH_TOKENS",
    "LIST_LENGTH",
    "PRIOR_SHARES",
    "AdapterMethodConfig",
    "LLMConfig",
    "PromptStyle",
]

CPU_BATCH_TOKENS = 4096
"""Tokens that a processor scores in one forward pass, unless told otherwise."""

LIST_LENGTH = 5
"""Titles of a generated list."""

PRIOR_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the prior that ``prior_share=validation`` tries; the first of equals is taken."""

PromptStyle = Literal["sequence", "listwise", "pointwise"]

# The reference study's model (Hou et al. 2025, sections 5.1 and A.3); the limits of text are ours.
_PAPER_TEXT: Mapping[str, Any] = {
    "backbone": "Qwen/Qwen2-7B-Instruct",
    "prompt": "listwise",
    "max_history": 50,
    "title_tokens": None,
    "title_chars": 120,
    # Room for the 30 longest titles of any shared domain; of amazon-food 1 % of the histories lose
    # titles.
    "max_prompt_tokens": 2048,
    "prior_share": 0.0,
}
# Nearer to its released code: histories of any length, whole titles, five generated titles.
_AS_RUN_TEXT: Mapping[str, Any] = {
    "backbone": "Qwen/Qwen2-7B-Instruct",
    "prompt": "listwise",
    "max_history": 100_000,
    "title_tokens": None,
    "title_chars": None,
    "scorer": "generate",
    "match": "strict",
    "prior_share": 0.0,
}


class LLMConfig(MethodConfig):
    """Backbone, prompt and scorer.

    Attributes:
        backbone: built-in name, local folder, GGUF file or Hugging Face id of a causal LM.
        prompt: how a user's history is put to the model. ``sequence``: a plain list of titles that
            the next title continues; ``listwise``: a chat that shows the 30 candidates;
            ``pointwise``: a yes/no question for each candidate.
        template: Jinja2 template file instead of the built-in one of that prompt.
        max_history: newest history items shown, >= 1.
        title_tokens: titles are cut at a word after so many tokens; None for no limit.
        title_chars: titles are cut at a word after so many characters; None for no limit.
        max_prompt_tokens: longest prompt with its answer; the oldest history items are dropped until it
            fits. None for no limit but the model's own, beyond which a prompt is an error.
        scorer: ``likelihood`` ranks all candidates by log P(title, terminator | prompt);
            ``generate`` reads a list of titles that the model writes (``listwise`` only);
            ``choose`` constrains that list to distinct candidates (``listwise`` only).
        prior_share: how much of the prior is subtracted from the log-likelihood of a title: w in
            log P(title | history) - w log P(title | no history). 0 ranks by likelihood, 1 by what the
            history adds to it; ``validation``: the one of 0, 1/4, 1/2, 3/4 and 1 that ranks the
            validation requests best (NDCG@5). Only a likelihood of titles has a prior.
        normalise: divide the result by the number of ``tokens`` or UTF-8 ``bytes`` of the title.
        match: how generated titles are compared with the candidates.
        engine: ``transformers``, or ``vllm`` (an extra).
        attention: attention implementation of the backbone's own forward pass; the fast paths of
            scoring and training have theirs.
        quantisation: hold the backbone in ``8bit`` or ``4bit`` (CUDA only), in training as in scoring:
            an adapter of a quantised backbone is another one.
        batch_tokens: tokens that are scored in one forward pass, >= 1; None: 4,096 on a processor, what
            its memory holds on an accelerator. It changes scores by rounding at most: in a run's
            identity None is 4,096, whatever the device.
        validation_users: users of ``validate``, >= 1.
    """

    backbone: str = "smollm2-135m"
    prompt: PromptStyle = "sequence"
    template: str | None = None
    max_history: int = Field(default=15, ge=1)
    title_tokens: int | None = Field(default=24, ge=1)
    title_chars: int | None = Field(default=None, ge=1)
    max_prompt_tokens: int | None = Field(default=None, ge=16)
    scorer: Literal["likelihood", "generate", "choose"] = "likelihood"
    prior_share: Annotated[float, Field(ge=0.0, le=1.0)] | Literal["validation"] = "validation"
    normalise: Literal["none", "tokens", "bytes"] = "none"
    match: Literal["normalised", "strict", "fuzzy"] = "normalised"
    engine: Annotated[str, Named(ENGINES)] = "transformers"
    attention: str = "sdpa"
    quantisation: Literal["8bit", "4bit"] | None = None
    batch_tokens: int | None = Field(default=None, ge=1)
    validation_users: int = Field(default=200, ge=1)

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {},
        "paper": _PAPER_TEXT,
        "paper-as-run": _AS_RUN_TEXT,
    }

    @model_validator(mode="after")
    def _scorer_fits_the_prompt(self) -> LLMConfig:
        if self.writes_lists and self.prompt != "listwise":
            raise ValueError(
                f"scorer {self.scorer!r} asks for a list of titles, prompt {self.prompt!r} does not; "
                "use prompt=listwise or scorer=likelihood"
            )
        if self.prompt == "pointwise" and self.normalise != "none":
            raise ValueError("the yes/no score of prompt 'pointwise' cannot be normalised")
        if not self.ranks_by_likelihood and self.prior_share not in (0.0, "validation"):
            raise ValueError(
                f"prior_share={self.prior_share} needs the likelihood of titles, which prompt "
                f"{self.prompt!r} with scorer {self.scorer!r} does not give; use prior_share=0"
            )
        return self

    def identity(self) -> dict[str, Any]:
        return {**super().identity(), "batch_tokens": self.batch_tokens or CPU_BATCH_TOKENS}

    @property
    def ranks_by_likelihood(self) -> bool:
        """Whether ranks come from the likelihood of the candidates' titles."""
        return not self.writes_lists and self.prompt != "pointwise"

    @property
    def prior_shares(self) -> tuple[float, ...]:
        """The shares of the prior that are tried: one, unless validation chooses."""
        if not self.ranks_by_likelihood:
            return (0.0,)
        return PRIOR_SHARES if self.prior_share == "validation" else (self.prior_share,)

    @property
    def writes_lists(self) -> bool:
        """Whether ranks come from a list of titles that the model writes."""
        return self.scorer != "likelihood"

    @property
    def n_answers(self) -> int:
        """Titles of an answer: the prompt asks for so many."""
        return LIST_LENGTH if self.writes_lists else 1


class AdapterMethodConfig(LLMConfig):
    """The same, and how a LoRA adapter is trained.

    Attributes:
        train_examples: training examples per domain, >= 1: sequences (``sequence``), prompts
            (``listwise``) or questions (``pointwise``); a domain with fewer gives all it has. The 400 of
            profile ``cpu`` are 0.5 % of the 80,000 prompts of the reference study.
        label: answer of a ``listwise`` example: the next ``title`` alone, or it and four of the
            negatives (``top5``, as the reference study).
        train_negatives: sampled non-interacted items per positive of a ``pointwise`` example, >= 1.
        lora: shape of the adapter.
        training: optimiser and budget.
        choose_by_validation: whether the fitted method is scored on the validation requests once, so
            that configurations can be chosen by it.
    """

    train_examples: int = Field(default=400, ge=1)
    label: Literal["title", "top5"] = "title"
    train_negatives: int = Field(default=1, ge=1)
    lora: LoraSpec = LoraSpec()
    training: TrainingSpec = TrainingSpec()
    choose_by_validation: bool = False

    @property
    def n_answers(self) -> int:
        """Titles of an answer, as many as it was trained on."""
        return LIST_LENGTH if self.prompt == "listwise" and self.label == "top5" else 1

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cpu": {},
        "paper": {
            **_PAPER_TEXT,
            "train_examples": 40_000,
            "lora.dropout": 0.05,
            "training.epochs": 2,
            "training.learning_rate": 2e-4,
            "training.warmup": 0.05,
            "training.batch_sequences": 128,
            "training.gradient_checkpointing": True,
        },
        "paper-as-run": {
            **_AS_RUN_TEXT,
            "label": "top5",
            "train_examples": 40_000,
            "lora.dropout": 0.05,
            "training.epochs": 2,
            "training.learning_rate": 2e-4,
            "training.warmup": 0.05,
            "training.batch_sequences": 128,
            "training.gradient_checkpointing": True,
        },
    }
