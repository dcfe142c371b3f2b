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
from typing import Annotated, Any

import numpy as np
import torch
from pydantic import BeforeValidator, Field
from torch import Tensor, nn

from bench.errors import MethodError
from bench.io import write_bytes
from bench.memory import kept_memory
from bench.methods import Context, MethodConfig, ValidationFigures

__all__ = [
    "LoopConfig",
    "TrainingReport",
    "ValidationUsers",
    "autocast",
    "epoch_generator",
    "isolated_randomness",
    "train",
]

_CHECKPOINT = "checkpoint.pt"
_FORMAT = 1
# A loss above this share of that of equal scores has hardly left it. The popularity of the items alone
# brings a softmax over them to 0.91 to 0.95 of it on the domains that are known here.
_NEAR_CHANCE = 0.95
_STANDARD_ERRORS = 3

ValidationUsers = Annotated[
    int | None,
    Field(ge=1),
    BeforeValidator(lambda value: None if value == "all" else value),
]
"""Number of validation users: None, also written ``all``, = every one."""


class LoopConfig(MethodConfig):
    """Settings of the training loop shared by all trainable baselines.

    Attributes:
        epochs: most epochs to train, >= 1.
        patience: epochs without a better validation NDCG@5 before training stops, >= 1. An epoch has to
            be a pass over the training rows, or nearly one, for the usual 10 to mean what it does.
        batch_size: training targets per step, >= 1.
        learning_rate: Adam's step size, > 0.
        weight_decay: L2 penalty of Adam, >= 0.
        clip_norm: largest gradient norm, or None for no clipping.
        max_history: newest items of a history that the model reads, >= 1.
        validation_users: size of the nested user subset behind the validation figure; ``all`` or null =
            all users. The figure of 2,000 has a standard error near 0.01 and moves by 0.002 to 0.004
            from one epoch to the next by chance, more than a late epoch gains.
    """

    epochs: int = Field(default=200, ge=1)
    patience: int = Field(default=10, ge=1)
    batch_size: int = Field(default=256, ge=1)
    learning_rate: float = Field(default=1e-3, gt=0)
    weight_decay: float = Field(default=0.0, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    max_history: int = Field(default=50, ge=1)
    validation_users: ValidationUsers = None


@dataclass(slots=True)
class TrainingReport:
    """What happened in training; JSON-serialisable through :meth:`as_dict`.

    Attributes:
        history: one entry per epoch: ``epoch`` (1-based), ``steps``, ``loss`` (mean per step, nats),
            ``seconds`` and ``cpu_seconds`` (training alone) and, if there is validation,
            ``ndcg@5`` (or another figure, by its name) and ``validation_seconds``.
        best_epoch: 1-based epoch whose weights were kept; the last one without validation.
        stopped: ``patience`` or ``epochs``.
        stages: what happened before the main training, by name, for example ``pre-training``.
        warnings: why the result is no fair one of the method: sentences.
    """

    history: list[dict[str, float]]
    best_epoch: int
    stopped: str
    stages: dict[str, dict[str, Any]] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)

    def as_dict(self) -> dict[str, Any]:
        """Plain values; ``warnings``, if there are any, with those of the stages."""
        warnings = [
            *(
                f"{name}: {text}"
                for name, s in self.stages.items()
                for text in s.get("warnings", ())
            ),
            *self.warnings,
        ]
        return {
            **({"warnings": warnings} if warnings else {}),
            "best_epoch": self.best_epoch,
            "epochs": len(self.history),
            "history": self.history,
            "stopped": self.stopped,
            **({"stages": self.stages} if self.stages else {}),
        }

    @classmethod
    def from_dict(cls, stored: Mapping[str, Any]) -> TrainingReport:
        """The report that :meth:`as_dict` wrote."""
        stages = dict(stored.get("stages", {}))
        theirs = sum(len(stage.get("warnings", ())) for stage in stages.values())
        return cls(
            list(stored["history"]),
            stored["best_epoch"],
            stored["stopped"],
            stages,
            list(stored.get("warnings", ()))[theirs:],
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
    validate: Callable[[], ValidationFigures | float] | None,
    folder: Path | None = None,
    seed: int | None = None,
    optimiser: torch.optim.Optimizer | None = None,
    figure_name: str = "ndcg@5",
    chance_loss: float | None = None,
) -> TrainingReport:
    """Train ``model`` until validation stops improving and leave the best weights in it.

    A method with several stages calls this once for each, with a folder and a seed of its own. A training
    that ends where equal scores for all items would be is logged and noted in the report's ``warnings``.

    Args:
        model: the module to train, on its device.
        steps: given the epoch's generator, returns one function per step; called in order, each
            returns the scalar loss of its batch.
        config: loop settings.
        context: gives seed, scratch folder, progress and log.
        validate: returns the validation figures of the model as it stands, of which NDCG@5 counts, or
            another figure (higher is better); None trains all epochs and keeps the last weights.
        folder: where the checkpoint is kept; None = the context's scratch folder.
        seed: seed of the stage; None = the context's.
        optimiser: its own optimiser of ``model``, for example with a schedule; None = Adam as
            configured. Its state is part of the checkpoint.
        figure_name: what the validation figure is called in the report.
        chance_loss: the loss, in nats, that equal scores give, for example ``log(n_items)`` of a softmax
            over all items; None = not known, so that only the validation figure is looked at.

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
    history, best, best_state, by_chance = _resume(checkpoint, model, optimiser, context)
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
            n_steps = len(batches)
        trained, cpu = time.perf_counter(), time.process_time() - cpu_began
        model.eval()
        entry = {
            "epoch": epoch,
            "steps": n_steps,
            "loss": loss,
            "seconds": round(trained - began, 3),
            "cpu_seconds": round(cpu, 3),
        }
        if validate is None:
            best_epoch = epoch
            context.log.info("epoch %d: loss %.4f, %.1f s", epoch, loss, trained - began)
        else:
            figures = validate()
            if isinstance(figures, ValidationFigures):
                figure, by_chance = figures.ndcg[5], _by_chance(figures)
            else:
                figure = figures
            entry[figure_name] = figure
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
        _save(checkpoint, model, optimiser, history, best, best_state, by_chance)

    if best_state is not None:
        model.load_state_dict(best_state)
    model.eval()
    report = TrainingReport(history, int(best_epoch), stopped)
    report.warnings = _at_chance(report, figure_name, chance_loss, by_chance)
    for text in report.warnings:
        context.log.warning("%s", text)
    return report


def _by_chance(figures: ValidationFigures) -> float | None:
    """The NDCG@5 up to which a figure may be that of equal scores; None = not known."""
    if 5 not in figures.chance:
        return None
    chance = figures.chance[5]
    # A gain lies in [0, 1], so that no variance is above that of a coin with its mean.
    error = math.sqrt(chance * (1 - chance) / figures.n_users)
    return chance + _STANDARD_ERRORS * error


def _at_chance(
    report: TrainingReport, figure_name: str, chance_loss: float | None, by_chance: float | None
) -> list[str]:
    """What says that training has hardly left equal scores; nothing if it has."""
    kept = report.history[report.best_epoch - 1]
    n_steps = sum(int(entry.get("steps", 0)) for entry in report.history)
    found = []
    if chance_loss is not None and kept["loss"] > _NEAR_CHANCE * chance_loss:
        found.append(
            f"the loss of the kept epoch is {kept['loss']:.3f}, that of equal scores {chance_loss:.3f} nats"
        )
    if by_chance is not None and kept[figure_name] <= by_chance:
        found.append(
            f"the best validation {figure_name} is {kept[figure_name]:.4f}, "
            f"and up to {by_chance:.4f} may be chance"
        )
    if not found:
        return []
    return [
        f"at chance after {n_steps} steps ({report.stopped} ended training): {'; '.join(found)}. Raise "
        "epochs or patience, or the learning rate."
    ]


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
    by_chance: float | None,
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
            "by_chance": by_chance,
        },
        buffer,
    )
    write_bytes(path, buffer.getbuffer())


def _resume(
    path: Path, model: nn.Module, optimiser: torch.optim.Optimizer, context: Context
) -> tuple[list[dict[str, float]], float, dict[str, Tensor] | None, float | None]:
    """Continue from the checkpoint ``path``, if it is there."""
    if not path.exists():
        return [], -math.inf, None, None
    state = torch.load(path, weights_only=True, map_location="cpu")
    if state.get("format") != _FORMAT:
        context.log.warning("ignoring %s: written by another version", path.name)
        return [], -math.inf, None, None
    model.load_state_dict(state["model"])
    optimiser.load_state_dict(state["optimiser"])
    context.log.info("resuming after epoch %d", len(state["history"]))
    return (
        list(state["history"]),
        float(state["best"]),
        state["best_state"],
        state.get("by_chance"),
    )
