"""Base of methods whose scores come from a torch model over item sequences."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from bench.baselines.batches import pad_histories
from bench.baselines.scoring import score_in_chunks
from bench.baselines.training import (
    LoopConfig,
    TrainingReport,
    isolated_randomness,
    train,
)
from bench.errors import MethodError
from bench.io import read_json, write_json
from bench.methods import Capabilities, Context, Method, Requests, Scores, TrainView

__all__ = ["NeuralMethod"]

_SCORE_ROWS = 512


class NeuralMethod(Method):
    """Fit with the shared loop, score in length-sorted chunks, save as safetensors.

    A subclass builds the model, turns an epoch into steps, and scores a batch of histories over the
    whole vocabulary. Model ids are item indices + 1; column 0 is padding.
    """

    Config: ClassVar[type[LoopConfig]] = LoopConfig
    # Models that read a fixed number of columns get every batch padded to `max_history`.
    fixed_width: ClassVar[bool] = False
    config: Any

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.model: nn.Module | None = None
        self.report: TrainingReport | None = None
        self._shape: dict[str, int] = {}

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return Capabilities(trainable=True)

    @abstractmethod
    def build(self, n_users: int, n_items: int) -> nn.Module:
        """Make the untrained model for ``n_items`` items and ``n_users`` users (without padding)."""

    @abstractmethod
    def epoch(
        self, view: TrainView, rng: np.random.Generator, device: torch.device
    ) -> Sequence[Callable[[], Tensor]]:
        """Steps of one epoch, run in order; each builds its batch and returns the scalar loss."""

    @abstractmethod
    def score_all(self, items: Tensor, lengths: Tensor, users: Tensor) -> Tensor:
        """Scores of the whole vocabulary.

        Args:
            items: int64, shape ``(b, l)``, model ids, right-padded with 0.
            lengths: int64, shape ``(b,)``.
            users: int64, shape ``(b,)``, canonical user index + 1.

        Returns:
            Float tensor, shape ``(b, n_items + 1)``; column 0 (padding) is ignored.
        """

    def fit(self, view: TrainView, context: Context) -> None:
        device = torch.device(context.device)
        target = view.target
        self._shape = {"n_users": int(target.users.max(initial=-1)) + 1, "n_items": target.n_items}
        self._shape |= self.further_sizes(view, context)
        with isolated_randomness(context.seed):
            self.model = self.build(**self._shape).to(device)
        stages = self.prepare(view, context)
        self.report = train(
            self.model,
            lambda rng: self.epoch(view, rng, device),
            config=self.config,
            context=context,
            validate=lambda: context.validate(self),
            optimiser=self.optimiser(),
            chance_loss=self.chance_loss(),
        )
        self.report.stages = dict(stages)

    def further_sizes(self, view: TrainView, context: Context) -> Mapping[str, int]:
        """More arguments of :meth:`build`, kept with the model; none by default."""
        return {}

    def prepare(self, view: TrainView, context: Context) -> Mapping[str, dict[str, Any]]:
        """What happens between building the model and its main training; nothing by default.

        Earlier training stages and foreign weights go here. Runs again when a killed run resumes, so
        that its result must depend on the view, the configuration and the seeds alone.

        Returns:
            What the training report says of it, by the name of the stage.
        """
        return {}

    def chance_loss(self) -> float | None:
        """The loss, in nats, that equal scores for all items give; None = not known."""
        return None

    def optimiser(self) -> torch.optim.Optimizer | None:
        """A fresh optimiser of the model for the main training; None = Adam as configured."""
        return None

    def score(self, requests: Requests, context: Context) -> Scores:
        if self.model is None:
            raise MethodError(f"{self.name} was asked for scores before it was fitted or loaded.")
        device = torch.device(context.device)
        self.model.to(device).eval()

        def score_rows(rows: NDArray[np.int64]) -> Tensor:
            items, lengths = pad_histories(
                requests.history, rows, max_length=self.max_input, width=self.width
            )
            scores = self.score_all(
                torch.from_numpy(items).to(device),
                torch.from_numpy(lengths).to(device),
                torch.from_numpy(requests.users[rows].astype(np.int64) + 1).to(device),
            )
            return scores[:, 1:]

        return score_in_chunks(
            requests,
            context,
            score_rows,
            owner=self.name,
            n_items=self._shape["n_items"],
            most_rows=_SCORE_ROWS,
        )

    @property
    def max_input(self) -> int:
        """Newest items of a history that the model reads when it scores."""
        return int(self.config.max_history)

    @property
    def width(self) -> int:
        """Fixed number of columns of a batch, or 0 to trim to the longest row."""
        return int(self.config.max_history) if self.fixed_width else 0

    def save(self, folder: Path) -> None:
        if self.model is None:
            raise MethodError(f"{self.name} has nothing to save: it was not fitted.")
        # Tied tensors are written once each: safetensors refuses shared storage.
        state = {k: v.detach().contiguous().clone() for k, v in self.model.state_dict().items()}
        save_file(state, folder / "model.safetensors")
        report = self.report.as_dict() if self.report else None
        write_json(folder / "model.json", {"shape": self._shape, "training": report})

    def load(self, folder: Path) -> None:
        described = read_json(folder / "model.json")
        self._shape = described["shape"]
        with isolated_randomness(0):
            self.model = self.build(**self._shape)
        self.model.load_state_dict(load_file(folder / "model.safetensors"))
        self.model.eval()
        training = described["training"]
        self.report = None if training is None else TrainingReport.from_dict(training)
