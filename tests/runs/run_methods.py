"""Small methods for tests of the runner, loaded as a plugin file."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.errors import MethodError
from bench.io import write_json
from bench.methods import Capabilities, Family, Method, MethodConfig, Scores


class Settings(MethodConfig):
    epochs: int = 2
    validation_users: int = 10
    journal: str = ""
    pause: float = 0.0
    trainable: bool = True
    needs_sources: bool = False
    single_source: bool = False
    fault: Literal[
        "none",
        "fit",
        "score",
        "shape",
        "dtype",
        "nan",
        "inf",
        "type",
        "slots",
        "diagnostics",
        "disk",
        "memory",
        "own-error",
        "exit",
        "interrupt",
        "interrupt-score",
    ] = "none"


class Learner(Method):
    """Random item weights, one draw per epoch, with a checkpoint per epoch."""

    name = "learner"
    version = "1"
    family = Family.SINGLE_DOMAIN
    Config = Settings

    @classmethod
    def capabilities(cls, config: Settings) -> Capabilities:
        return Capabilities(
            trainable=config.trainable,
            needs_sources=config.needs_sources,
            single_source=config.single_source,
        )

    def _note(self, text: str) -> None:
        if self.config.journal:
            with Path(self.config.journal).open("a", encoding="utf-8") as stream:
                stream.write(text + "\n")

    def fit(self, view, context) -> None:
        self._note(f"fit seed {context.seed} sources {[s.name for s in view.sources]}")
        _raise(self.config.fault, "fit")
        self.weights = np.zeros(view.target.n_items, dtype=np.float32)
        checkpoint = context.scratch / "checkpoint.json"
        first = 1
        if checkpoint.exists():
            state = json.loads(checkpoint.read_text())
            first, self.weights = state["epoch"] + 1, np.array(state["weights"], dtype=np.float32)
        for epoch in context.progress.track(range(first, self.config.epochs + 1)):
            time.sleep(self.config.pause)
            rng = np.random.default_rng([context.seed, epoch])
            self.weights += rng.random(len(self.weights), dtype=np.float32)
            self._note(f"epoch {epoch} ndcg {context.validate(self).ndcg[5]:.6f}")
            write_json(checkpoint, {"epoch": epoch, "weights": self.weights.tolist()})

    def score(self, requests, context) -> Scores:
        values: Any = self.weights[requests.candidates]
        fault = self.config.fault
        if context.scratch.joinpath("checkpoint.json").exists():
            _raise(fault, "score")
            values = _spoil(values, fault)
        if fault == "type":
            return values
        slots = np.zeros((len(requests), 3), dtype=np.int16) if fault == "slots" else None
        diagnostics = {"scored": len(requests), "tokens": {"prompt": 2 * len(requests)}}
        if fault == "diagnostics":
            diagnostics["path"] = object()
        return Scores(values, slots, diagnostics)

    def save(self, folder: Path) -> None:
        np.save(folder / "weights.npy", self.weights, allow_pickle=False)

    def load(self, folder: Path) -> None:
        self._note("load")
        self.weights = np.load(folder / "weights.npy", allow_pickle=False)


def _spoil(values, fault: str):
    if fault == "shape":
        return values[:, :-1].copy()
    if fault == "dtype":
        return values.astype(np.float16)
    if fault in ("nan", "inf"):
        values = values.copy()
        values[-1, 2] = np.nan if fault == "nan" else np.inf
    return values


def _raise(fault: str, where: str) -> None:
    if fault == where:
        raise ValueError(f"planted failure in {where}")
    if fault == "interrupt" and where == "fit":
        raise KeyboardInterrupt
    if fault == "interrupt-score" and where == "score":
        raise KeyboardInterrupt
    if fault == "disk" and where == "fit":
        raise OSError(28, "No space left on device", "/some/where")
    if fault == "exit" and where == "fit":
        raise SystemExit(0)
    if fault == "memory" and where == "fit":
        raise MemoryError
    if fault == "own-error" and where == "fit":
        raise MethodError("learner: the message of the method itself")


class Statistic(Method):
    """Deterministic, not trainable, cannot be saved: newest item of the history wins by distance."""

    name = "statistic"
    version = "1"
    family = Family.REFERENCE

    def fit(self, view, context) -> None:
        self.counts = np.bincount(view.target.sequences.items, minlength=view.target.n_items)

    def score(self, requests, context) -> Scores:
        return Scores(self.counts[requests.candidates].astype(np.float32))


class Narrow(Statistic):
    """Can score ten candidates at most."""

    name = "narrow"

    @classmethod
    def capabilities(cls, config) -> Capabilities:
        return Capabilities(max_candidates=10)


class Lister(Statistic):
    """A generator of lists: names the first three candidates."""

    name = "lister"

    @classmethod
    def capabilities(cls, config) -> Capabilities:
        return Capabilities(may_leave_unranked=True)

    def score(self, requests, context) -> Scores:
        slots = np.tile(np.array([0, 1, -2], dtype=np.int16), (len(requests), 1))
        values = np.full(requests.candidates.shape, np.nan, dtype=np.float32)
        values[:, 0], values[:, 1] = 2.0, 1.0
        return Scores(values, slots, {"invalid": len(requests)})
