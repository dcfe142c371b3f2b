"""AdaMerging: merge coefficients that make a model sure of its answers to unlabelled requests.

M frozen adapters stand side by side in every adapted layer l,

    h = W x + sum_m w_m^l s_m B_m^l A_m^l x,    w^l = softmax(z^l / T),

and only z is trained, by Adam, on the entropy of the merged model's answers (Yang et al., ICLR 2024,
Eq. 6-8). The coefficients sum to one, as in the reference study's released code: they choose a mix and
leave the scale of the update alone; the original has free coefficients that start at 0.3.

One request at a time is read as one row, its candidates as a tree under a mask; several requests in
one row were not faster. Any causal language model of transformers with full attention will do.
"""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bench.errors import MethodError
from bench.io import write_bytes
from bench.llm.batching import n_steps, step_rows
from bench.llm.engines.base import TokenIds
from bench.llm.engines.tree import build_forest, build_tree, visible
from bench.llm.own_forward import additive_mask
from bench.llm.weighted_adapters import Mixture

if TYPE_CHECKING:
    from bench.methods import Progress

__all__ = [
    "AdaptationReport",
    "AdaptationSpec",
    "Question",
    "adapt",
    "entropy",
    "question_entropy",
]

_CHECKPOINT = "checkpoint.safetensors"
_CHECKPOINT_SECONDS = 30.0


class AdaptationSpec(BaseModel):
    """How the coefficients are found.

    Attributes:
        steps: optimiser steps, >= 0; none leaves the average.
        batch_requests: requests per step, >= 1.
        learning_rate: of Adam, > 0; z begins at 0, so that no z exceeds steps x learning_rate by much.
        temperature: T of the softmax, > 0.
        layer_wise: one mix for every adapted layer, or one for all of them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    steps: int = Field(default=50, ge=0)
    batch_requests: int = Field(default=8, ge=1)
    learning_rate: float = Field(default=1e-2, gt=0)
    temperature: float = Field(default=1.0, gt=0)
    layer_wise: bool = True


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """What is asked of the model about one unlabelled request.

    Attributes:
        prompt: the request's prompt.
        answers: int32 token ids of every distinct candidate, or () if the next tokens count.
        lengths: float64, shape ``(len(answers),)``: what each log-likelihood is divided by.
        choices: tokens for "yes" and "no" that are compared after every answer, or None for the
            likelihood of the answers themselves.
        n_tokens: without answers: how many tokens of the greedy continuation are looked at, >= 1.
        stop: tokens that end the continuation.
    """

    prompt: TokenIds
    answers: Sequence[TokenIds] = ()
    lengths: NDArray[np.float64] = field(default_factory=lambda: np.ones(0))
    choices: tuple[int, int] | None = None
    n_tokens: int = 1
    stop: tuple[int, ...] = ()


@dataclass(slots=True)
class AdaptationReport:
    """What an adaptation did.

    Attributes:
        steps: optimiser steps.
        tokens: tokens that the model read with gradients.
        seconds: wall time of the steps.
        cpu_seconds: processor time of the steps.
        entropies: mean entropy (nats) of every step's requests, before the step.
        resumed: how often it was resumed from a checkpoint.
    """

    steps: int = 0
    tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    entropies: list[float] = field(default_factory=list)
    resumed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON value."""
        return asdict(self)


def entropy(logits: Tensor) -> Tensor:
    """Entropy (nats) of softmax over the last dimension; finite logits."""
    log_p = torch.log_softmax(logits, dim=-1)
    return -(log_p.exp() * log_p).sum(dim=-1)


def question_entropy(mixture: Mixture, question: Question) -> tuple[Tensor, int]:
    """How unsure the merged model is of one request; call it while the mixture is attached.

    With answers: entropy of the softmax over the candidates' scores, which are the scores that the
    model ranks by. Without: mean entropy of the next token over the first tokens of the greedy answer.

    Returns:
        float32 scalar (nats), and how many tokens were read with gradients.

    Raises:
        MethodError: the request is longer than the model reads.
    """
    if not question.answers:
        return _token_entropy(mixture, question)
    tree = build_tree(question.prompt, question.answers, question.choices)
    forest = build_forest([tree])
    _check_length(mixture.model, int(forest.positions.max()) + 1)
    device = mixture.logits.device
    tokens, positions, read, rows, targets, owners = (
        torch.from_numpy(np.asarray(values, dtype=np.int64)).to(device)
        for values in (
            forest.tokens,
            forest.positions,
            forest.read,
            forest.rows,
            forest.targets,
            tree.owners,
        )
    )
    mask = additive_mask(visible(forest), mixture.model.dtype, device)
    logits = mixture.forward(tokens, positions, mask, read)
    asked = logits[rows, targets] - torch.logsumexp(logits, dim=-1)[rows]
    if question.choices is not None:
        odds = asked.view(-1, 2)
        return entropy(odds[:, 0] - odds[:, 1]), len(tokens)
    sums = asked.new_zeros(len(question.answers)).index_add(0, owners, asked)
    lengths = torch.from_numpy(question.lengths).to(sums)
    return entropy(sums / lengths), len(tokens)


def _token_entropy(mixture: Mixture, question: Question) -> tuple[Tensor, int]:
    device = mixture.logits.device
    tokens = torch.from_numpy(question.prompt.astype(np.int64)).to(device)
    _check_length(mixture.model, len(tokens) + question.n_tokens)
    first = len(tokens) - 1
    with torch.no_grad():
        for _ in range(question.n_tokens - 1):
            last = torch.tensor([len(tokens) - 1], device=device)
            chosen = mixture.forward(tokens, None, None, last).argmax(dim=-1)
            if int(chosen) in question.stop:
                break
            tokens = torch.cat((tokens, chosen))
    read = torch.arange(first, len(tokens), device=device)
    return entropy(mixture.forward(tokens, None, None, read)).mean(), len(tokens)


def _check_length(model: Any, n: int) -> None:
    """Refuse what the model does not read, or reads only in part."""
    config = model.config.get_text_config()
    limits = [getattr(config, "max_position_embeddings", None)]
    if set(getattr(config, "layer_types", None) or ()) - {"full_attention"} or (
        config.model_type == "mistral"
    ):
        limits.append(getattr(config, "sliding_window", None))
    longest = min((limit for limit in limits if limit is not None), default=None)
    if longest is not None and n > longest:
        raise MethodError(
            f"a request has {n} tokens with its answer; the model reads at most {longest} of them at "
            "once. Lower max_history or max_prompt_tokens."
        )


def adapt(
    mixture: Mixture,
    questions: Sequence[Question],
    spec: AdaptationSpec,
    *,
    seed: int,
    checkpoints: Path,
    progress: Progress,
    log: logging.Logger,
    checkpoint_seconds: float = _CHECKPOINT_SECONDS,
) -> AdaptationReport:
    """Train the coefficients of a mixture; changes ``mixture.logits`` alone.

    Passes over the questions in an order keyed by (seed, pass), until the steps are done. A killed
    adaptation goes on from its checkpoint and ends with the same bits.

    Args:
        mixture: model and adapters.
        questions: unlabelled requests, at least one.
        spec: budget and optimiser.
        seed: of the order.
        checkpoints: folder for the checkpoint; belongs to this very adaptation.
        progress: shows steps and the current entropy.
        log: receives one line at a resumption and at the end.
        checkpoint_seconds: least time between two checkpoints.

    Returns:
        The report.

    Raises:
        MethodError: a question is too long, or an entropy became NaN or infinite.
    """
    optimiser = torch.optim.Adam([mixture.logits], lr=spec.learning_rate)
    path = checkpoints / _CHECKPOINT
    report = _resume(path, mixture, optimiser, log)
    per_pass = n_steps(len(questions), spec.batch_requests, 1)
    passes = math.ceil(spec.steps / per_pass)
    plan = list(step_rows(len(questions), spec.batch_requests, passes, seed))[: spec.steps]
    saved = time.monotonic()
    with mixture.attached():
        for step in progress.track(
            range(report.steps, spec.steps), total=spec.steps - report.steps
        ):
            began, cpu_began = time.perf_counter(), time.process_time()
            optimiser.zero_grad()
            total = 0.0
            for row in plan[step]:
                found, tokens = question_entropy(mixture, questions[row])
                (found / len(plan[step])).backward()  # type: ignore[no-untyped-call]
                total += float(found.detach())
                report.tokens += tokens
            value = total / len(plan[step])
            if not math.isfinite(value):
                raise MethodError(
                    f"the entropy became {value} in step {step + 1} of {spec.steps}. Lower "
                    f"adapt.learning_rate (now {spec.learning_rate}), or use dtype float32."
                )
            optimiser.step()
            report.steps = step + 1
            report.entropies.append(value)
            report.seconds += time.perf_counter() - began
            report.cpu_seconds += time.process_time() - cpu_began
            progress.status(f"entropy {value:.4f}")
            if time.monotonic() - saved >= checkpoint_seconds and report.steps < spec.steps:
                _save(path, mixture, optimiser, report)
                saved = time.monotonic()
    log.info("adapted the merge in %d steps and %.0f s", report.steps, report.seconds)
    return report


def _save(
    path: Path, mixture: Mixture, optimiser: torch.optim.Optimizer, report: AdaptationReport
) -> None:
    """Write the checkpoint atomically, as one safetensors file."""
    from safetensors.torch import save

    tensors = {"logits": mixture.logits.detach(), **optimiser.state[mixture.logits]}
    metadata = {"report": json.dumps(report.as_dict())}
    write_bytes(path, save({n: t.cpu().contiguous() for n, t in tensors.items()}, metadata))


def _resume(
    path: Path, mixture: Mixture, optimiser: torch.optim.Optimizer, log: logging.Logger
) -> AdaptationReport:
    """Continue from the checkpoint, if there is one."""
    from safetensors import safe_open

    if not path.exists():
        return AdaptationReport()
    with safe_open(path, framework="pt", device=str(mixture.logits.device)) as stream:
        report = AdaptationReport(**json.loads(stream.metadata()["report"]))
        state: dict[str, Tensor] = {n: stream.get_tensor(n) for n in stream.keys()}  # noqa: SIM118
    with torch.no_grad():
        mixture.logits.copy_(state.pop("logits"))
    optimiser.state[mixture.logits] = state
    report.resumed += 1
    log.info("resuming the adaptation after step %d", report.steps)
    return report
