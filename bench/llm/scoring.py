"""Requests to scores: prompts, one call of an engine, and what is made of its answer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.data.domain import Sequences
from bench.io import hash_arrays, read_json
from bench.llm.answers import parse_answer
from bench.llm.backbones import load_tokenizer, resolve_backbone
from bench.llm.config import LIST_LENGTH, LLMConfig
from bench.llm.engines import Engine, Generation, make_engine
from bench.llm.estimates import batch_tokens
from bench.llm.machine import accelerator_memory
from bench.llm.mixtures import writer_for
from bench.llm.prompts import PromptWriter, candidate_order
from bench.llm.shapes import shape_from_config
from bench.memory import kept_memory
from bench.methods import Context, Requests, Scores

__all__ = ["RequestScorer", "answer_lengths", "first_of_equals", "request_prompts"]


@dataclass(frozen=True, slots=True)
class _Likelihood:
    """What the model says of one set of requests.

    Attributes:
        sums: log P(title, terminator | prompt) in nats, float64 ``(n, c)``.
        diagnostics: counters.
    """

    sums: NDArray[np.float64]
    diagnostics: Mapping[str, Any]


class RequestScorer:
    """Scores the requests of one domain with one backbone, with or without an adapter.

    Args:
        config: backbone, prompt and scorer.
        titles: titles of the domain's whole vocabulary, in order of item index.
        context: device and dtype.
    """

    def __init__(self, config: LLMConfig, titles: Sequence[str], context: Context) -> None:
        backbone = resolve_backbone(config.backbone)
        self._config = config
        self._priors: dict[Path | None, NDArray[np.float64]] = {}
        self._remembered: dict[str, _Likelihood] | None = None
        self._device = context.device
        self._writer = writer_for(titles, config, load_tokenizer(backbone))
        file = backbone.folder / "config.json"
        tokens = batch_tokens(
            config,
            shape_from_config(read_json(file)) if file.is_file() else None,
            dtype=context.dtype,
            memory=accelerator_memory(context.device),
        )
        context.log.info("scoring up to %d tokens at once", tokens)
        self._engine: Engine = make_engine(
            config.engine,
            backbone,
            device=context.device,
            dtype=context.dtype,
            attention=config.attention,
            quantisation=config.quantisation,
            batch_tokens=tokens,
        )

    def close(self) -> None:
        """Free the engine."""
        self._engine.close()

    @contextmanager
    def remembering(self) -> Iterator[None]:
        """Keep the likelihoods that are computed inside, so that several prior shares cost one pass."""
        self._remembered = {}
        try:
            yield
        finally:
            self._remembered = None

    def score(
        self, requests: Requests, adapter: Path | None, *, prior_share: float = 0.0
    ) -> Scores:
        """Score every candidate of every request.

        Args:
            requests: n requests of c candidates.
            adapter: PEFT folder, or None for the backbone as it is.
            prior_share: w in log P(title | history) - w log P(title | no history), in [0, 1]; for
                likelihoods of titles.

        Returns:
            ``likelihood``: log-probabilities (nats) minus the share of the prior, normalised as
            configured, or for ``pointwise`` the log-odds of yes; ``generate`` and ``choose``: slots,
            and minus the slot of each named candidate.
        """
        before = self._engine.tokens_processed
        # Passes of ever new sizes leave holes in the heap; it is trimmed after every call.
        with kept_memory(self._device):
            scores = (
                self._generated(requests, adapter)
                if self._config.writes_lists
                else self._log_odds(requests, adapter)
                if self._config.prompt == "pointwise"
                else self._log_likelihoods(requests, adapter, prior_share)
            )
        tokens = self._engine.tokens_processed - before
        return Scores(scores.values, scores.slots, {**scores.diagnostics, "tokens": tokens})

    def _log_odds(self, requests: Requests, adapter: Path | None) -> Scores:
        writer, prompts = self._writer, request_prompts(self._writer, requests)
        suffixes = [[writer.suffix(int(i)) for i in row] for row in requests.candidates]
        odds = self._engine.branch_choice(prompts, suffixes, writer.yes_no, adapter=adapter)
        values = np.stack([yes_no[:, 0] - yes_no[:, 1] for yes_no in odds])
        return Scores(values.astype(np.float32), None, {"n_prompts": len(prompts)})

    def _log_likelihoods(
        self, requests: Requests, adapter: Path | None, prior_share: float
    ) -> Scores:
        given = self._given_history(requests, adapter)
        values = given.sums
        if prior_share:
            values = values - prior_share * self._prior(requests, adapter)
        values = values / answer_lengths(self._writer, requests, self._config.normalise)
        return Scores(values.astype(np.float32), None, given.diagnostics)

    def _given_history(self, requests: Requests, adapter: Path | None) -> _Likelihood:
        """Log-likelihood of every candidate (nats) after its user's prompt."""
        key = hash_arrays(
            {
                "users": requests.users,
                "offsets": requests.history.offsets,
                "history": requests.history.items,
                "candidates": requests.candidates,
                "adapter": np.frombuffer(str(adapter).encode(), dtype=np.uint8),
            }
        )
        if self._remembered is not None and key in self._remembered:
            return self._remembered[key]
        writer, prompts = self._writer, request_prompts(self._writer, requests)
        answers = [[writer.answer(int(i)) for i in row] for row in requests.candidates]
        sums = np.stack(self._engine.branch_log_probs(prompts, answers, adapter=adapter))
        # Titles that look alike once cut share an answer; its probability is counted once.
        alone = np.stack([first_of_equals(row) for row in answers])
        diagnostics = {
            "n_prompts": len(prompts),
            "prompt_tokens": sum(len(prompt) for prompt in prompts),
            "candidate_mass_sum": float(np.where(alone, np.exp(sums), 0.0).sum()),
            "candidates_with_equal_text": int((~alone).sum()),
        }
        found = _Likelihood(sums, diagnostics)
        if self._remembered is not None:
            self._remembered[key] = found
        return found

    def _prior(self, requests: Requests, adapter: Path | None) -> NDArray[np.float64]:
        """Log-likelihood of every candidate (nats) after a prompt without history, ``(n, c)``."""
        writer = self._writer
        if self._config.prompt == "listwise":  # what else is listed belongs to the prompt
            alone = replace(requests, history=_nothing(len(requests)))
            answers = [[writer.answer(int(i)) for i in row] for row in requests.candidates]
            prompts = request_prompts(writer, alone)
            return np.stack(self._engine.branch_log_probs(prompts, answers, adapter=adapter))
        if adapter not in self._priors:
            # The whole vocabulary at once: what an item gets must not depend on who asks first.
            every = [writer.answer(item) for item in range(len(writer.titles))]
            (self._priors[adapter],) = self._engine.branch_log_probs(
                [writer.prompt([])], [every], adapter=adapter
            )
        return self._priors[adapter][requests.candidates]

    def _lists(self, requests: Requests, adapter: Path | None) -> list[Generation]:
        writer, prompts = self._writer, request_prompts(self._writer, requests)
        if self._config.scorer == "choose":
            choices = [[writer.choice(int(i)) for i in row] for row in requests.candidates]
            return self._engine.generate_list(
                prompts,
                choices,
                n_titles=writer.n_answers,
                separator=writer.template.separator,
                adapter=adapter,
            )
        budgets = [writer.max_new_tokens(row) for row in requests.candidates]
        return self._engine.generate(
            prompts, max_new_tokens=budgets, stop=writer.stop_ids, adapter=adapter
        )

    def _generated(self, requests: Requests, adapter: Path | None) -> Scores:
        writer, answers = self._writer, self._lists(requests, adapter)
        slots = np.empty((len(requests), LIST_LENGTH), dtype=np.int16)
        counters: dict[str, Any] = {"n_prompts": len(requests), "stopped_by_length": 0}
        for row, answer in enumerate(answers):
            parsed = parse_answer(
                writer.text(answer.tokens),
                [writer.titles[int(i)] for i in requests.candidates[row]],
                slots=LIST_LENGTH,
                match=self._config.match,
                separator=writer.template.separator,
                truncated=answer.finished == "length",
                lead_in=writer.template.lead_in,
            )
            slots[row] = parsed.slots
            counters["stopped_by_length"] += answer.finished == "length"
            for name, count in parsed.counters.items():
                counters[name] = counters.get(name, 0) + count
        return Scores(_values_of(slots, requests.candidates.shape), slots, counters)


def request_prompts(writer: PromptWriter, requests: Requests) -> list[NDArray[np.int32]]:
    """The prompt of every request, with its candidates if the template lists them."""
    history = requests.history
    if writer.template.kind != "listwise":
        return [writer.prompt(history[row]) for row in range(len(requests))]
    order = candidate_order(requests.domain, requests.users, requests.candidates)
    shown = np.take_along_axis(requests.candidates, order, axis=1)
    return [writer.prompt(history[row], shown[row]) for row in range(len(requests))]


def answer_lengths(
    writer: PromptWriter, requests: Requests, normalise: Literal["none", "tokens", "bytes"]
) -> NDArray[np.float64]:
    """What the log-likelihood of every candidate is divided by, float64 ``(n, c)``."""
    if normalise == "none":
        return np.ones(requests.candidates.shape)
    length = writer.title_bytes if normalise == "bytes" else _answer_tokens(writer)
    sizes = [[length(int(item)) for item in row] for row in requests.candidates]
    return np.maximum(np.array(sizes, dtype=np.float64), 1.0)


def _answer_tokens(writer: PromptWriter) -> Callable[[int], int]:
    return lambda item: len(writer.answer(item))


def _nothing(n: int) -> Sequences:
    return Sequences(np.zeros(n + 1, dtype=np.int64), np.empty(0, dtype=np.int32))


def first_of_equals(answers: Sequence[NDArray[np.int32]]) -> NDArray[np.bool_]:
    """True if no earlier answer of the row has the same tokens."""
    seen: set[bytes] = set()
    first = []
    for ids in answers:
        key = ids.tobytes()
        first.append(key not in seen)
        seen.add(key)
    return np.array(first)


def _values_of(slots: NDArray[np.int16], shape: tuple[int, ...]) -> NDArray[np.float32]:
    """Minus the slot (0-based) of every named candidate; NaN for the others."""
    values = np.full(shape, np.nan, dtype=np.float32)
    rows, columns = np.nonzero(slots >= 0)
    values[rows, slots[rows, columns]] = -columns
    return values
