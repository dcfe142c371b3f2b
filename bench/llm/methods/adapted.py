"""Base of the merges with coefficients learnt on unlabelled requests, layer by layer."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field, model_validator

from bench.errors import MethodError
from bench.io import hash_arrays
from bench.llm.adamerging import AdaptationSpec, Question, adapt
from bench.llm.adapters import MergedSpec, StoredAdapter, adapters_of
from bench.llm.backbones import load_model, load_tokenizer, resolve_backbone
from bench.llm.config import AdapterMethodConfig
from bench.llm.merge import Merge
from bench.llm.methods.branches import AdapterMethod
from bench.llm.methods.planning import JobWriter
from bench.llm.mixtures import writer_for
from bench.llm.own_forward import recompute_layers
from bench.llm.prompts import PromptWriter
from bench.llm.sampling import user_keys
from bench.llm.scoring import answer_lengths, first_of_equals, request_prompts
from bench.llm.weighted_adapters import Mixture
from bench.merging import read_adapter, write_files
from bench.merging.registry import fold_weights
from bench.methods import (
    Capabilities,
    Context,
    Job,
    PlanSpec,
    Requests,
    TrainView,
)

__all__ = ["ADAMERGING_VERSION", "AdaptedConfig", "AdaptedMerge"]

# Part of a merged adapter's identity: raised whenever the same inputs give another adapter.
ADAMERGING_VERSION = 1

# What a request costs here, forwards and backwards, in units of what it costs to score it.
_OF_SCORING = 3.0


class AdaptedConfig(AdapterMethodConfig):
    """As every adapter, and how the merge is adapted.

    Attributes:
        adapt_on: the requests whose answers shall become sure. ``validation``; or ``test``: the target's
            test requests instead of its validation requests, as published (transductive; a source
            has no test requests here). Labels are never read.
        entropy: what is made small. ``candidate``: the entropy of the softmax over the likelihoods of
            a request's candidates, normalised as configured, without a share of the prior; ``token``:
            that of the next token over the vocabulary, at the first tokens of the greedy answer.
        first_tokens: how many tokens those are, >= 1; fewer if the title ends before.
        requests_per_domain: how many requests of each domain, >= 1, drawn by a keyed hash of the user.
        adapt: steps, batch, optimiser, and whether every layer has its own mix.
    """

    adapt_on: Literal["validation", "test"] = "validation"
    entropy: Literal["candidate", "token"] = "candidate"
    first_tokens: int = Field(default=1, ge=1)
    requests_per_domain: int = Field(default=50, ge=1)
    adapt: AdaptationSpec = AdaptationSpec()

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**values, "entropy": "token", "adapt_on": "test"}
        if name == "paper-as-run"
        else values
        for name, values in AdapterMethodConfig.profiles.items()
    }

    @model_validator(mode="after")
    def _entropy_fits_the_prompt(self) -> AdaptedConfig:
        if self.entropy == "token" and self.prompt == "pointwise":
            raise ValueError(
                "entropy=token looks at the tokens of a title, prompt 'pointwise' asks yes or no; use "
                "entropy=candidate or another prompt"
            )
        return self


class AdaptedMerge(AdapterMethod):
    """Adapters mixed layer by layer so that the entropy of the answers to some requests is least."""

    Config = AdaptedConfig
    uses_sources: ClassVar[bool] = True

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return replace(super().capabilities(config), transductive=config.adapt_on == "test")

    @abstractmethod
    def adapted_on(self, target: str, sources: Sequence[str]) -> tuple[str, ...]:
        """The domains whose requests are adapted on; the target is one of them."""

    def merges(self, n_branches: int) -> Mapping[str, Merge]:
        return {}  # the one merge is learnt, see plan_fit

    def plan_fit(self, writer: JobWriter, spec: PlanSpec) -> list[Job]:
        jobs = super().plan_fit(writer, spec)
        if not spec.sources:
            return jobs
        config = self.config
        n_adapters = len(self.branches(spec.target, spec.sources))
        n_requests = config.requests_per_domain * len(self.adapted_on(spec.target, spec.sources))
        n_read = config.adapt.steps * config.adapt.batch_requests
        label = (
            f"adapt the merge of {n_adapters} adapters on {n_requests} "
            f"{config.adapt_on} requests, {config.adapt.steps} steps of {config.adapt.batch_requests}"
        )
        read = writer.score("fit", label, n_read, spec.n_candidates)
        job = writer.differentiated(read, n_adapters, _OF_SCORING)
        places = [place for place, known in enumerate(jobs) if known.kind == "adapter"]
        return [*jobs[: places[-1] + 1], job, *jobs[places[-1] + 1 :]]

    def prepare(self, view: TrainView, context: Context) -> Path:
        adapters = self.adapters(view, context)
        if len(adapters) == 1:
            return adapters[0].folder
        served = self._adapted(view, adapters, context)
        self.tell(served, context)
        if self.config.adapt_on == "test":
            # Lets a table show the figure of the users whose requests were not seen.
            users = served.metadata["report"]["users"].get(view.target.name, [])
            self.note({"adapted_on_users": sorted(users)})
        return served.folder

    def _adapted(
        self, view: TrainView, adapters: Sequence[StoredAdapter], context: Context
    ) -> StoredAdapter:
        """The adapted merge, from the store or computed now."""
        config, store = self.config, adapters_of(context)
        # The order of adapters and domains decides nothing, so that every target of a study whose
        # requests are the same finds the same merge.
        adapters = sorted(adapters, key=lambda adapter: adapter.adapter_id)
        titles = {domain.name: list(domain.items.titles) for domain in (view.target, *view.sources)}
        drawn = [
            _draw(requests, config.requests_per_domain, context.seed)
            for requests in sorted(self._requests(view), key=lambda requests: requests.domain)
        ]
        tokenizer = load_tokenizer(resolve_backbone(config.backbone))
        questions = [
            question
            for requests in drawn
            for question in _questions(
                requests, writer_for(titles[requests.domain], config, tokenizer), config
            )
        ]
        if not questions:
            raise MethodError(
                f"{self.name}: no {config.adapt_on} request of {', '.join(titles)} has a history, so "
                "that there is nothing to adapt on. Use merge-average."
            )
        spec = MergedSpec(
            method=self.name,
            parents=tuple(adapter.adapter_id for adapter in adapters),
            parameters={
                **config.adapt.model_dump(mode="json"),
                "dtype": context.dtype,
                "questions": _hash(questions),
                "seed": context.seed,
            },
            merger_version=ADAMERGING_VERSION,
            name=f"{self.name} of {' + '.join(sorted(titles))}, {config.adapt.steps} steps on "
            f"{config.adapt_on} requests",
        )

        def make(out: Path, checkpoints: Path) -> Mapping[str, Any]:
            folders = [adapter.folder for adapter in adapters]
            mixture = Mixture(
                self._frozen(context),
                folders,
                layer_wise=config.adapt.layer_wise,
                temperature=config.adapt.temperature,
            )
            report = adapt(
                mixture,
                questions,
                config.adapt,
                seed=context.seed,
                checkpoints=checkpoints,
                progress=context.progress,
                log=context.log,
            )
            weights = mixture.weights_by_module()
            merged = fold_weights([read_adapter(folder) for folder in folders], weights)
            origin = {
                **merged.metadata,
                "method": self.name,
                "seed": context.seed,
                "config": {**spec.parameters, "adapt_on": config.adapt_on},
                "weights": weights,
            }
            write_files(replace(merged, metadata=origin), out)
            users = {requests.domain: requests.users.tolist() for requests in drawn}
            return {**origin, **report.as_dict(), "users": users}

        return store.obtain(spec, make, progress=context.progress)

    def _requests(self, view: TrainView) -> list[Requests]:
        """The unlabelled requests of every domain that is adapted on."""
        names = self.adapted_on(view.target.name, [source.name for source in view.sources])
        sources = [source.validation for source in view.sources if source.name in names]
        if self.config.adapt_on == "validation":
            return [view.target.validation, *sources]
        if view.test_requests is None:
            raise MethodError(
                f"{self.name}: adapt_on=test needs the unlabelled test requests, but the view has none."
            )
        return [view.test_requests, *sources]

    def _frozen(self, context: Context) -> Any:
        """The backbone as it is differentiated."""
        config = self.config
        # The fused kernel for processors is slow backwards; others take no mask.
        attention = "eager" if context.device == "cpu" else "sdpa"
        model: Any = load_model(
            resolve_backbone(config.backbone),
            device=context.device,
            dtype=context.dtype,
            attention=attention,
            quantisation=config.quantisation,
        )
        if config.training.gradient_checkpointing:
            recompute_layers(model)
        return model


def _draw(requests: Requests, n: int, seed: int) -> Requests:
    """A keyed sample of ``n`` requests that have a history, or all of them; nested in ``n``."""
    rows = np.flatnonzero(requests.history.lengths > 0)
    keys = user_keys("adaptation-requests", requests.domain, requests.users[rows], seed)
    return requests.take(rows[np.argsort(keys, kind="stable")[:n]])


def _questions(requests: Requests, writer: PromptWriter, config: AdaptedConfig) -> list[Question]:
    """What the model is asked about the requests of one domain."""
    prompts = request_prompts(writer, requests)
    if config.entropy == "token":
        return [
            Question(prompt, n_tokens=config.first_tokens, stop=writer.stop_ids)
            for prompt in prompts
        ]
    pointwise = config.prompt == "pointwise"
    answer = writer.suffix if pointwise else writer.answer
    lengths = answer_lengths(writer, requests, config.normalise)
    questions = []
    for row, prompt in enumerate(prompts):
        answers = [answer(int(item)) for item in requests.candidates[row]]
        # Titles that look alike once cut are one answer, not two that it cannot choose between.
        kept = np.flatnonzero(first_of_equals(answers))
        questions.append(
            Question(
                prompt,
                [answers[i] for i in kept],
                lengths[row, kept],
                writer.yes_no if pointwise else None,
            )
        )
    return questions


def _hash(questions: Sequence[Question]) -> str:
    """SHA-256 of all that is asked."""
    texts = [ids for q in questions for ids in (q.prompt, *q.answers)]
    return hash_arrays(
        {
            "answers": np.array([len(q.answers) for q in questions]),
            "choices": np.array([q.choices or (-1, -1) for q in questions]),
            "lengths": np.concatenate([q.lengths for q in questions]),
            "n_tokens": np.array([q.n_tokens for q in questions]),
            "offsets": np.cumsum([0, *map(len, texts)]),
            "stop": np.array(sorted({i for q in questions for i in q.stop}), dtype=np.int64),
            "tokens": np.concatenate(texts),
        }
    )
