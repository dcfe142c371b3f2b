"""The one training loop of all baselines, their first stages included.

Epochs of steps that the method plans, Adam, early stopping on the validation figure that the context
hands out, best weights restored, and an epoch-level checkpoint from which a killed run resumes with
the same result: all randomness of an epoch is derived from (seed, epoch) alone.
"""

from __future__ import annotations

import io
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from bench.errors import MethodError
from bench.io import write_bytes
from bench.memory import kept_memory
from bench.methods import Context, MethodConfig

__all__ = [
    "LoopConfig",
    "TrainingReport",
    "autocast",
    "epoch_generator",
    "isolated_randomness",
    "train",
]

_CHECKPOINT = "checkpoint.pt"
_FORMAT = 1


class LoopConfig(MethodConfig):
    """Settings of the training loop shared by all trainable baselines.

    Attributes:
        epochs: most epochs to train, >= 1.
        patience: epochs without a better validation NDCG@5 before training stops, >= 1.
        batch_size: training targets per step, >= 1.
        learning_rate: Adam's step size, > 0.
        weight_decay: L2 penalty of Adam, >= 0.
        clip_norm: largest gradient norm, or None for no clipping.
        max_history: newest items of a history that the model reads, >= 1.
        validation_users: size of the nested user subset behind the validation figure.
    """

    epochs: int = Field(default=200, ge=1)
    patience: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    max_history: int = Field(default=50, ge=1)
    validation_users: int = Field(default=2000, ge=1)


@dataclass(slots=True)
class TrainingReport:
    """What happened in training; JSON-serialisable through :meth:`as_dict`.

    Attributes:
        history: one entry per epoch: ``epoch`` (1-based), ``loss`` (mean per step, nats),
            ``seconds`` and ``cpu_seconds`` (training alone) and, where there is validation,
            ``ndcg@5`` (or another figure, by its name) and ``validation_seconds``.
        best_epoch: 1-based epoch whose weights were kept; the last one without validation.
        stopped: ``patience`` or ``epochs``.
        stages: what happened before the main training, by name, for example ``pre-training``.
    """

    history: list[dict[str, float]]
    best_epoch: int
    stopped: str
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return {
            "best_epoch": self.best_epoch,
            "epochs": len(self.history),
            "history": self.history,
            "stopped": self.stopped,
            **({"stages": self.stages} if self.stages else {}),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> TrainingReport:
        """The report that :meth:`as_dict` wrote."""
        return cls(
            list(stored["history"]),
            stored["best_epoch"],
            stored["stopped"],
            dict(stored.get("stages", {})),
        )


def epoch_generator(seed: int, epoch: int) -> np.random.Generator:
    """NumPy generator of one epoch; ``epoch`` 0 is for initialisation."""
    return np.random.default_rng([seed, epoch])


@contextmanager
def isolated_randomness(seed: int, epoch: int = 0) -> Iterator[None]:
    """Seed torch's generators for the block and restore their state afterwards."""
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else []
    with torch.random.fork_rng(devices=list(devices)):
        torch.manual_seed(int(np.random.SeedSequence([seed, epoch]).generate_state(1)[0]))
        yield


def autocast(context: Context) -> torch.autocast:
    """Mixed precision as the context asks: weights stay float32, products run in its dtype."""
    return torch.autocast(
        torch.device(context.device).type,
        dtype=torch.bfloat16,
        enabled=context.dtype == "bfloat16",
    )


def train(
    model: nn.Module,
    steps: Callable[[np.random.Generator], Sequence[Callable[[], Tensor]]],
    *,
    config: LoopConfig,
    context: Context,
    validate: Callable[[], float] | None,
    folder: Path | None = None,
    seed: int | None = None,
    optimiser: torch.optim.Optimizer | None = None,
    figure_name: str = "ndcg@5",
) -> TrainingReport:
    """Train ``model`` until validation stops improving and leave the best weights in it.

    A method with several stages calls this once for each, with a folder and a seed of its own.

    Args:
        model: the module to train, on its device.
        steps: given the epoch's generator, returns one function per step; called in order, each
            returns the scalar loss of its batch.
        config: loop settings.
        context: gives seed, scratch folder, progress and log.
        validate: returns the validation figure (higher is better) of the model as it stands; None
            trains all epochs and keeps the last weights.
        folder: where the checkpoint is kept; None = the context's scratch folder.
        seed: seed of the stage; None = the context's.
        optimiser: its own optimiser of ``model``, for example with a schedule; None = Adam as
            configured. Its state is part of the checkpoint.
        figure_name: what the validation figure is called in the report.

    Returns:
        The report; the model holds the best epoch's weights and is in evaluation mode.

    Raises:
        MethodError: the loss became NaN or infinite, or there is nothing to train on.
    """
    if optimiser is None:
        optimiser = torch.optim.Adam(
            model.parameters(),
            lr=config.learning_rate,
            weight_decay=config.weight_decay,
            fused=True,
        )
    seed = context.seed if seed is None else seed
    checkpoint = (context.scratch if folder is None else folder) / _CHECKPOINT
    history, best, best_state = _resume(checkpoint, model, optimiser, context)
    best_epoch = max(history, key=lambda h: h.get(figure_name, h["epoch"]), default={"epoch": 0})[
        "epoch"
    ]

    stopped = "epochs"
    for epoch in range(len(history) + 1, config.epochs + 1):
        if history and len(history) - best_epoch >= config.patience:
            stopped = "patience"
            break
        began, cpu_began = time.perf_counter(), time.process_time()
        with isolated_randomness(seed, epoch), kept_memory(context.device) as after_step:
            batches = steps(epoch_generator(seed, epoch))
            loss = _run_epoch(model, optimiser, batches, config, context, history, after_step)
        trained, cpu = time.perf_counter(), time.process_time() - cpu_began
        model.eval()
        entry = {
            "epoch": epoch,
            "loss": loss,
            "seconds": round(trained - began, 3),
            "cpu_seconds": round(cpu, 3),
        }
        if validate is None:
            best_epoch = epoch
            context.log.info("epoch %d: loss %.4f, %.1f s", epoch, loss, trained - began)
        else:
            entry[figure_name] = figure = validate()
            entry["validation_seconds"] = round(time.perf_counter() - trained, 3)
            if figure > best:
                best, best_epoch = figure, epoch
                best_state = {k: v.detach().clone() for k, v in model.state_dict().items()}
            # The context shows every validation figure; the rest is for the log.
            context.log.info(
                "epoch %d: loss %.4f, best %s %.4f in epoch %d, %.1f s",
                epoch,
                loss,
                figure_name,
                best,
                best_epoch,
                trained - began,
            )
        history.append(entry)
        _save(checkpoint, model, optimiser, history, best, best_state)

    if best_state is not None:
        model.load_state_dict(best_state)
    model.eval()
    return TrainingReport(history, int(best_epoch), stopped)


def _run_epoch(
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    batches: Sequence[Callable[[], Tensor]],
    config: LoopConfig,
    context: Context,
    history: Sequence[Mapping[str, float]],
    after_step: Callable[[], None],
) -> float:
    """One pass over the steps; returns the mean loss."""
    model.train()
    epoch = len(history) + 1
    total, n_steps = 0.0, 0
    for step in context.progress.track(
        batches,
        total=len(batches),
        description=f"epoch {epoch}/{config.epochs}",
        more=_steps_to_come(history, len(batches), config.epochs - epoch),
    ):
        optimiser.zero_grad(set_to_none=True)
        with autocast(context):
            loss = step()
        value = float(loss.detach())
        if not math.isfinite(value):
            raise MethodError(
                f"the training loss became {value} in epoch {epoch}, step {n_steps + 1}. "
                f"Lower the learning rate (now {config.learning_rate}) or set clip_norm."
            )
        loss.backward()
        if config.clip_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), config.clip_norm)
        optimiser.step()
        total += value
        n_steps += 1
        after_step()
    if n_steps == 0:
        raise MethodError(
            "there is nothing to train on: no training sequence has two items or more. "
            "Check the domain with `bench data stats`."
        )
    return total / n_steps


def _steps_to_come(history: Sequence[Mapping[str, float]], n_steps: int, n_epochs: int) -> int:
    """Steps of further epochs at most; a validation counts as the steps that would take its time."""
    trained = sum(entry["seconds"] for entry in history)
    validated = sum(entry.get("validation_seconds", 0.0) for entry in history)
    share = validated / trained if trained else 0.0
    return round(n_epochs * n_steps * (1 + share))


def _save(
    path: Path,
    model: nn.Module,
    optimiser: torch.optim.Optimizer,
    history: list[dict[str, float]],
    best: float,
    best_state: dict[str, Tensor] | None,
) -> None:
    """Write the epoch's checkpoint atomically."""
    buffer = io.BytesIO()
    torch.save(
        {
            "format": _FORMAT,
            "model": model.state_dict(),
            "optimiser": optimiser.state_dict(),
            "history": history,
            "best": best,
            "best_state": best_state,
        },
        buffer,
    )
    write_bytes(path, buffer.getbuffer())


def _resume(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, context: Context
) -> tuple[list[dict[str, float]], float, dict[str, Tensor] | None]:
    """Continue from the checkpoint ``path``, if it is there."""
    if not path.exists():
        return [], -math.inf, None
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state.get("format") != _FORMAT:
        context.log.warning("ignoring %s: written by another version", path.name)
        return [], -math.inf, None
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    context.log.info("resuming after epoch %d", len(state["history"]))
    return list(state["history"]), float(state["best"]), state["best_state"]
