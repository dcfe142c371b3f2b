"""Base of the methods that rank with a language model."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any, ClassVar

from bench.errors import MethodError
from bench.io import read_json, write_json
from bench.llm.adapters import AdapterStore
from bench.llm.backbones import require_backbone
from bench.llm.config import LLMConfig
from bench.llm.methods.planning import JobWriter
from bench.llm.scoring import RequestScorer
from bench.methods import (
    Capabilities,
    Context,
    Job,
    Method,
    PlanSpec,
    Requests,
    RunDefaults,
    Scores,
    TrainView,
)

__all__ = ["LLMMethod"]


class LLMMethod(Method):
    """Scores with a backbone, and with the adapter in ``self.adapter`` where there is one."""

    Config = LLMConfig
    config: Any
    # One chunk of scores is lost to a kill at most; a laptop needs about a second for a user.
    score_rows: ClassVar[int | None] = 32

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.adapter: Path | None = None
        self._titles: list[str] | None = None
        self._scorer: RequestScorer | None = None

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return Capabilities(
            needs_text=True,
            may_leave_unranked=config.writes_lists,
            compares_candidates=config.prompt == "listwise",
        )

    @classmethod
    def require(cls, config: Any) -> None:
        require_backbone(config.backbone)

    @classmethod
    def run_defaults(cls, profile: str) -> RunDefaults:
        # A laptop scores a thousand users in minutes; the paper's profiles are for a GPU.
        # The reference study's released code trained on validation rows as well.
        return RunDefaults(
            limit_users=1000 if profile == "cpu" else None,
            dtype="bfloat16",
            train_on="train+valid" if profile == "paper-as-run" else None,
        )

    @classmethod
    def adapter_store(cls, root: Path | None = None) -> AdapterStore | None:
        return AdapterStore() if root is None else AdapterStore(root)

    def plan(self, spec: PlanSpec) -> list[Job]:
        writer = JobWriter(self.config, spec)
        label = f"score {self.name} on {spec.target}"
        score = writer.score("score", label, spec.n_users, spec.n_candidates)
        return [*self.plan_fit(writer, spec), score]

    def plan_fit(self, writer: JobWriter, spec: PlanSpec) -> list[Job]:
        """The jobs before the test users are scored, in order."""
        return []

    def fit(self, view: TrainView, context: Context) -> None:
        self._release()
        self._titles = list(view.target.items.titles)
        self.adapter = self.prepare(view, context)

    def prepare(self, view: TrainView, context: Context) -> Path | None:
        """Make what is served: the PEFT folder of an adapter, or None for the backbone alone."""
        return None

    def score(self, requests: Requests, context: Context) -> Scores:
        if self._titles is None:
            raise MethodError(f"{self.name} was asked for scores before it was fitted or loaded.")
        if self._scorer is None:
            self._scorer = RequestScorer(self.config, self._titles, context)
        return self._scorer.score(requests, self.adapter)

    def save(self, folder: Path) -> None:
        if self._titles is None:
            raise MethodError(f"{self.name} has nothing to save: it was not fitted.")
        write_json(folder / "titles.json", self._titles)
        if self.adapter is not None:
            shutil.copytree(self.adapter, folder / "adapter")

    def load(self, folder: Path) -> None:
        self._release()
        self._titles = read_json(folder / "titles.json")
        self.adapter = folder / "adapter" if (folder / "adapter").is_dir() else None

    def _release(self) -> None:
        """Free the engine: a model that is trained next may need its memory."""
        if self._scorer is not None:
            self._scorer.close()
            self._scorer = None
