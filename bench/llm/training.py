"""Training of one adapter: a fixed budget, the last step is the result.

One process, or several (:mod:`bench.llm.processes`; data parallel: every process holds the frozen
base, takes its share of each step's sequences, and the adapter's gradients are summed once per step).
All trainable numbers lie in one flat float32 vector, so that clipping, the optimiser, the sum over
processes and the checkpoint each handle one tensor.

Everything random follows from the seeds and the step's number, so a checkpoint is the step, the
vector and the optimiser's two moments; a training that is killed and resumed writes the same bytes
as one that was not, on the same machine with the same number of threads.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

from bench.errors import MethodError
from bench.io import hash_arrays, hash_json
from bench.llm.batching import Packed, check_examples, micro_batches, pack, shard, step_rows
from bench.llm.checkpoint import read_checkpoint, write_checkpoint
from bench.llm.fused import variable_length_kernel
from bench.llm.llama import loss_function
from bench.llm.lora import LoraSpec, attach_lora, named_arrays, target_modules, write_adapter
from bench.llm.processes import Processes, processes
from bench.memory import kept_memory
from bench.merging import read_adapter
from bench.methods import QuietProgress

if TYPE_CHECKING:
    from bench.llm.backbones import Backbone
    from bench.llm.examples import Examples
    from bench.methods import Progress

__all__ = [
    "TRAINER_VERSION",
    "TrainingReport",
    "TrainingSpec",
    "learning_rate",
    "train_adapter",
]

# Part of an adapter's identity: raised whenever the same inputs give another adapter.
TRAINER_VERSION = 1

_CHECKPOINT = "checkpoint.safetensors"
_SILENT = logging.Logger("silent", logging.CRITICAL + 1)


class TrainingSpec(BaseModel):
    """Budget and optimiser of a training.

    Attributes:
        epochs: passes over the examples, >= 1.
        learning_rate: AdamW's largest step size, > 0.
        schedule: how the step size falls after the warm-up: half a cosine to 0, a line to 0, or not.
        warmup: share of the steps over which it rises from 0, in [0, 1).
        batch_sequences: examples per optimiser step, over all processes, >= 1.
        max_grad_norm: largest norm of the gradient, or None for no clipping.
        weight_decay: AdamW's decoupled decay, >= 0.
        gradient_checkpointing: compute every layer twice and keep only its input.
        micro_batch_tokens: most tokens computed at once in one process; a step's gradient is the same
            up to rounding. Smaller values need less memory.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    epochs: int = Field(default=1, ge=1)
    learning_rate: float = Field(default=5e-4, gt=0)
    schedule: Literal["cosine", "linear", "constant"] = "cosine"
    warmup: float = Field(default=0.0, ge=0, lt=1)
    batch_sequences: int = Field(default=8, ge=1)
    max_grad_norm: float | None = Field(default=1.0, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    gradient_checkpointing: bool = False
    micro_batch_tokens: int = Field(default=2048, ge=1)

    def decisive(self, lora: LoraSpec) -> dict[str, Any]:
        """The settings that decide the adapter: all but those that only trade time for memory.

        The others change a gradient by rounding at most. With dropout the masks are drawn per
        micro-batch, so that its size decides them.
        """
        memory_only = {"gradient_checkpointing"}
        if not lora.dropout:
            memory_only.add("micro_batch_tokens")
        return self.model_dump(mode="json", exclude=memory_only)


@dataclass(slots=True)
class TrainingReport:
    """What a training did; its parts before and after an interruption are added up.

    Attributes:
        steps: optimiser steps.
        tokens: tokens that went through the model, over all processes.
        labelled_tokens: tokens that the loss was taken at, over all processes.
        seconds: wall time of the steps.
        cpu_seconds: processor time of the steps, main process, all its threads.
        losses: mean loss per labelled token of every step, in nats.
        resumed: how often the training was resumed from a checkpoint.
    """

    steps: int = 0
    tokens: int = 0
    labelled_tokens: int = 0
    seconds: float = 0.0
    cpu_seconds: float = 0.0
    losses: list[float] = field(default_factory=list)
    resumed: int = 0

    def as_dict(self) -> dict[str, Any]:
        """The report as a JSON value."""
        return asdict(self)


def learning_rate(spec: TrainingSpec, step: int, steps: int) -> float:
    """Step size of step ``step`` (0-based) of ``steps``, as transformers' schedules define it.

    The warm-up takes ``ceil(warmup * steps)`` steps and begins at 0; cosine and linear end one step
    short of 0.
    """
    warm = math.ceil(spec.warmup * steps)
    if step < warm:
        return spec.learning_rate * step / warm
    share = (step - warm) / max(1, steps - warm)
    if spec.schedule == "cosine":
        return spec.learning_rate * 0.5 * (1.0 + math.cos(math.pi * share))
    return spec.learning_rate * (1.0 - share if spec.schedule == "linear" else 1.0)


def train_adapter(
    backbone: Backbone,
    examples: Examples,
    lora: LoraSpec,
    training: TrainingSpec,
    *,
    init: Path,
    order_seed: int,
    out: Path,
    checkpoints: Path,
    device: str,
    dtype: str,
    attention: str = "sdpa",
    quantisation: str | None = None,
    progress: Progress | None = None,
    log: logging.Logger = _SILENT,
    checkpoint_seconds: float = 120.0,
) -> TrainingReport:
    """Train one adapter and write it to ``out`` in PEFT's format.

    The loss of a step is the mean negative log-likelihood of its labelled tokens. The base is frozen
    in ``dtype``; the adapter is trained in float32.

    Args:
        backbone: the base.
        examples: what is learnt, as it is tokenised.
        lora: the adapter; must be what ``init`` was written with.
        training: budget and optimiser.
        init: folder of the initial adapter (:func:`bench.llm.lora.write_init`).
        order_seed: keys the order of the examples and the dropout.
        out: folder that receives the adapter; written by process 0 only.
        checkpoints: folder for the checkpoint; process 0 alone reads and writes it. A fitting one is
            continued, another is replaced.
        device: ``cpu``, ``cuda``, ``cuda:1``; of several processes each takes its own accelerator.
        dtype: ``float32`` or ``bfloat16``, of the base and of the products.
        attention: attention implementation of the base, if its own forward pass is trained; the
            fused layers have their own.
        quantisation: ``8bit``, ``4bit`` or None: how the frozen base is held (QLoRA; CUDA only). Such
            a base is trained by its own forward pass.
        progress: shows steps and the current loss; None shows nothing.
        log: receives one line at start, at a resumption and at the end.
        checkpoint_seconds: least time between two checkpoints; 0 writes one after every step.

    Returns:
        The report (equal in all processes, but for the times).

    Raises:
        MethodError: the examples cannot be trained on (:func:`~bench.llm.batching.check_examples`),
            the loss became NaN or infinite, or another process failed.
        ResultError: ``init`` does not fit the backbone or ``lora``.
        ConfigError, DataError: it is no plain LoRA adapter (:func:`bench.merging.read_adapter`).
    """
    group = processes()
    kind = torch.device(device)
    if kind.type == "cuda" and variable_length_kernel(kind, getattr(torch, dtype)) is None:
        # Told before gigabytes are loaded.
        log.info("no variable-length attention here: every sequence is a call of its own, slower")
    progress = progress or QuietProgress()
    report = TrainingReport()
    with group.jointly():
        device = group.device(device)
        model = _frozen(backbone, device, dtype, attention, quantisation)
        text_config = model.config.get_text_config()
        check_examples(
            examples,
            vocabulary=text_config.vocab_size,
            context=getattr(text_config, "max_position_embeddings", None),
        )
        modules = target_modules(model, lora)
        factors = named_arrays(read_adapter(init))
        vector = _Vector(attach_lora(model, lora, factors))
        loss_of = loss_function(model, gradient_checkpointing=training.gradient_checkpointing)
        optimiser = torch.optim.AdamW(
            [vector.values],
            lr=training.learning_rate,
            weight_decay=training.weight_decay,
            fused=vector.values.device.type in ("cpu", "cuda"),
        )
        path = checkpoints / _CHECKPOINT
        identity = _identity(
            backbone, examples, lora, training, factors, order_seed, dtype, quantisation
        )
        if group.leads:
            found = read_checkpoint(path, identity, vector.values, optimiser, log)
            if found is not None:
                report = TrainingReport(**found)
                report.resumed += 1
                log.info("resuming after step %d", report.steps)
    report = _as_leader(group, report, vector.values, optimiser)
    plan = list(step_rows(len(examples), training.batch_sequences, training.epochs, order_seed))
    log.info(
        "training %d numbers of %d layers: %d examples, %d steps, %s, %d process(es)",
        vector.values.numel(),
        len(modules),
        len(examples),
        len(plan),
        dtype,
        group.size,
    )
    saved = time.monotonic()
    with kept_memory(device) as after_step:
        for step in progress.track(range(report.steps, len(plan)), total=len(plan) - report.steps):
            began, cpu_began = time.perf_counter(), time.process_time()
            part = examples.take(plan[step])
            with group.jointly(), _randomness(order_seed, step, group.rank):
                total = _gradient(loss_of, part, training.micro_batch_tokens, vector, group)
            group.add_up(vector.gradient, total)
            with group.jointly():
                loss = float(total)
                if not math.isfinite(loss):
                    raise MethodError(
                        f"the training loss became {loss} in step {step + 1} of {len(plan)}. Lower "
                        f"learning_rate (now {training.learning_rate}) or set max_grad_norm "
                        f"(now {training.max_grad_norm})."
                    )
                _update(vector, optimiser, training, learning_rate(training, step, len(plan)))
                report.steps = step + 1
                report.tokens += part.n_tokens
                report.labelled_tokens += part.n_labelled
                report.losses.append(loss)
                report.seconds += time.perf_counter() - began
                report.cpu_seconds += time.process_time() - cpu_began
                progress.status(f"loss {loss:.4f}")
                after_step()
                due = time.monotonic() - saved >= checkpoint_seconds
                if group.leads and due and report.steps < len(plan):
                    write_checkpoint(path, identity, vector.values, optimiser, report.as_dict())
                    saved = time.monotonic()

    with group.jointly():
        if group.leads:
            write_adapter(out, vector.as_arrays(), lora, modules, base=backbone.name)
    log.info(
        "trained in %.0f s: %d tokens, loss %.4f in the last step",
        report.seconds,
        report.tokens,
        report.losses[-1],
    )
    return report


def _frozen(
    backbone: Backbone, device: str, dtype: str, attention: str, quantisation: str | None
) -> Any:
    """The base of an adapter."""
    from bench.llm.backbones import load_model

    model: Any = load_model(
        backbone, device=device, dtype=dtype, attention=attention, quantisation=quantisation
    )
    if quantisation:
        from peft import prepare_model_for_kbit_training

        # Norms, embeddings and the vocabulary projection in float32, as PEFT recommends.
        # Checkpointing is set up with the loss.
        model = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    return model


def _as_leader(
    group: Processes,
    report: TrainingReport,
    values: Tensor,
    optimiser: torch.optim.Optimizer,
) -> TrainingReport:
    """Put every process where process 0 goes on from; returns the report of what was done before."""
    if group.size == 1:
        return report
    known = {name: part.cpu() for name, part in optimiser.state[values].items()}
    report, numbers, known = group.from_leader((report, values.detach().cpu(), known))
    if not group.leads:
        with torch.no_grad():
            values.copy_(numbers)
        optimiser.state[values] = {name: part.to(values.device) for name, part in known.items()}
    return report


def _identity(
    backbone: Backbone,
    examples: Examples,
    lora: LoraSpec,
    training: TrainingSpec,
    factors: Mapping[str, np.ndarray],
    order_seed: int,
    dtype: str,
    quantisation: str | None,
) -> str:
    """SHA-256 of all that a checkpoint depends on."""
    arrays = {name: getattr(examples, name) for name in ("labelled", "offsets", "tokens")}
    return hash_json(
        {
            "backbone": backbone.content_hash,
            "dtype": dtype,
            "examples": hash_arrays(arrays),
            "init": hash_arrays(factors),
            "lora": lora.model_dump(mode="json"),
            "order_seed": order_seed,
            "trainer": TRAINER_VERSION,
            # What was begun can go on with less memory.
            "training": training.decisive(lora),
            **({"quantisation": quantisation} if quantisation else {}),
        }
    )


def _gradient(
    loss_of: Callable[[Packed], Tensor],
    examples: Examples,
    micro_batch_tokens: int,
    vector: _Vector,
    group: Processes,
) -> Tensor:
    """This process's part of the gradient of a step's mean loss, into ``vector.gradient``.

    Returns:
        Its part of the loss, a scalar.
    """
    lengths = np.diff(examples.offsets)
    rows = shard(lengths, np.arange(len(examples)), group.rank, group.size)
    scale = 1.0 / max(1, examples.n_labelled)
    vector.gradient.zero_()
    loss = torch.zeros((), device=vector.gradient.device)
    for part in micro_batches(lengths, rows, micro_batch_tokens):
        packed = pack(examples, part)
        if len(packed.labels):
            mean = loss_of(packed) * scale
            mean.backward()  # type: ignore[no-untyped-call]
            loss += mean.detach()
    return loss


class _Vector:
    """Named parameters as views of one flat vector, and their gradients of another."""

    def __init__(self, parameters: Mapping[str, torch.nn.Parameter]):
        self._parameters = dict(parameters)
        flat = torch.cat([p.detach().reshape(-1) for p in self._parameters.values()])
        self.values = torch.nn.Parameter(flat)
        self.gradient = torch.zeros_like(flat)
        self.values.grad = self.gradient
        start = 0
        for parameter in self._parameters.values():
            part = slice(start, start + parameter.numel())
            parameter.data = flat[part].view_as(parameter)
            parameter.grad = self.gradient[part].view_as(parameter)
            start = part.stop

    def as_arrays(self) -> dict[str, np.ndarray]:
        return {name: p.detach().cpu().numpy() for name, p in self._parameters.items()}


def _update(
    vector: _Vector, optimiser: torch.optim.Optimizer, training: TrainingSpec, rate: float
) -> None:
    """Clip the gradient and take one step."""
    if training.max_grad_norm is not None:
        torch.nn.utils.clip_grad_norm_([vector.values], training.max_grad_norm)
    for group in optimiser.param_groups:
        group["lr"] = rate
    optimiser.step()


@contextmanager
def _randomness(order_seed: int, step: int, process: int) -> Iterator[None]:
    """Dropout of one step, keyed by what it is for; torch's generators are restored afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=list(devices)):
        seed = np.random.SeedSequence([order_seed, step, process]).generate_state(1, np.uint64)[0]
        torch.manual_seed(int(seed))
        yield
