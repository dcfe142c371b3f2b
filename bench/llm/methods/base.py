"""Base of the methods that rank with a language model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

from bench.errors import MethodError
from bench.io import read_json, write_json
from bench.llm.adapters import AdapterStore
from bench.llm.backbones import backbone_content, require_backbone
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
    ValidationFigures,
)

__all__ = ["LLMMethod"]

_SERVED = "served.json"


class FitReport(dict[str, Any]):
    """What a fit found out, by name, for the run's manifest."""

    def as_dict(self) -> dict[str, Any]:
        """The facts."""
        return dict(self)


class LLMMethod(Method):
    """Scores with a backbone, and with the adapter in ``self.adapter`` if there is one.

    What is subtracted of a title's probability without history is ``self.prior_share`` of it.
    """

    Config = LLMConfig
    config: Any
    # One chunk of scores is lost to a kill at most; a laptop needs about a second for a user.
    score_rows: ClassVar[int | None] = 32

    def __init__(self, config: Any = None) -> None:
        super().__init__(config)
        self.adapter: Path | None = None
        self.prior_share = 0.0
        self.report: FitReport | None = None
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
    def content_hashes(cls, config: Any) -> Mapping[str, str]:
        return backbone_content("backbone", config.backbone)

    @classmethod
    def run_defaults(cls, profile: str) -> RunDefaults:
        # A laptop scores a thousand users in minutes; the paper's profiles are for a GPU.
        # The reference study's released code trained on validation rows as well.
        return RunDefaults(
            limit_users=1000 if profile == "cpu" else None,
            dtype="bfloat16",
            train_on="train+valid" if profile == "paper-as-run" else None,
            threads=None,
        )

    @classmethod
    def adapter_store(cls, root: Path | None = None) -> AdapterStore | None:
        return AdapterStore() if root is None else AdapterStore(root)

    def plan(self, spec: PlanSpec) -> list[Job]:
        writer = JobWriter(self.config, spec)
        label = f"score {self.name} on {spec.target}"
        validation = self._plan_validation(writer, spec)
        score = writer.score(
            "score", label, spec.n_users, spec.n_candidates, n_priors=int(not validation)
        )
        return [*self.plan_fit(writer, spec), *validation, score]

    def plan_fit(self, writer: JobWriter, spec: PlanSpec) -> list[Job]:
        """The jobs that make what is served, in order."""
        return []

    @property
    def n_validations(self) -> int:
        """How many adapters a fit scores the validation users with."""
        return int(len(self.config.prior_shares) > 1)

    def _plan_validation(self, writer: JobWriter, spec: PlanSpec) -> list[Job]:
        if not self.n_validations:
            return []
        n_users, times = self.config.validation_users, self.n_validations
        label = f"score at most {n_users} validation users" + (f" {times} times" * (times > 1))
        job = writer.score("validate", label, n_users * times, spec.n_candidates, n_priors=times)
        return [job]

    def note(self, facts: Mapping[str, Any]) -> None:
        """Add to what the manifest tells about the fit."""
        self.report = FitReport({**(self.report or {}), **facts})

    def fit(self, view: TrainView, context: Context) -> None:
        self._release()
        self.report = None
        self._titles = list(view.target.items.titles)
        self.adapter = self.prepare(view, context)
        self.choose_prior_share(context)

    def choose_prior_share(self, context: Context) -> ValidationFigures | None:
        """Serve ``self.adapter`` with the configured share of the prior, or the best on validation.

        Returns:
            The validation figures with it; None if nothing was to be chosen.
        """
        shares = self.config.prior_shares
        self.prior_share = shares[0]
        if len(shares) == 1:
            return None
        figures = {}
        with self._loaded(context).remembering():
            for share in shares:
                self.prior_share = share
                figures[share] = context.validate(self)
            self.prior_share = max(shares, key=lambda share: figures[share].ndcg[5])
            # The last validation of a run is the one that describes it.
            served = context.validate(self)
        tried = {f"{share:g}": round(found.ndcg[5], 6) for share, found in figures.items()}
        self.note({"prior_share": self.prior_share, "validation_ndcg@5_by_prior_share": tried})
        context.log.info("share of the prior %.2f: NDCG@5 %.4f", self.prior_share, served.ndcg[5])
        return served

    def prepare(self, view: TrainView, context: Context) -> Path | None:
        """Make what is served: the PEFT folder of an adapter, or None for the backbone alone."""
        return None

    def score(self, requests: Requests, context: Context) -> Scores:
        scorer = self._loaded(context)
        return scorer.score(requests, self.adapter, prior_share=self.prior_share)

    def _loaded(self, context: Context) -> RequestScorer:
        if self._titles is None:
            raise MethodError(f"{self.name} was asked for scores before it was fitted or loaded.")
        if self._scorer is None:
            self._scorer = RequestScorer(self.config, self._titles, context)
        return self._scorer

    def save(self, folder: Path) -> None:
        if self._titles is None:
            raise MethodError(f"{self.name} has nothing to save: it was not fitted.")
        write_json(folder / _SERVED, {"titles": self._titles, "prior_share": self.prior_share})
        if self.adapter is not None:
            shutil.copytree(self.adapter, folder / "adapter")

    def load(self, folder: Path) -> None:
        self._release()
        served = read_json(folder / _SERVED)
        self._titles, self.prior_share = served["titles"], served["prior_share"]
        self.adapter = folder / "adapter" if (folder / "adapter").is_dir() else None

    def _release(self) -> None:
        """Free the engine: a model that is trained next may need its memory."""
        if self._scorer is not None:
            self._scorer.close()
            self._scorer = None
