"""WeaveRec (Hou et al. 2025): hybrid branches of target and source, averaged with the target's own.

A branch that has seen a source alone drags a merge down on the target. So every source is *woven*
with the target before anything is merged: branch 0 learns the target (Eq. 8), branch n the target
and source n together (Eq. 9), all from one initialisation; their average (Eq. 10-11) is served as
one adapter.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field, field_validator, model_validator

from bench.llm.config import AdapterMethodConfig
from bench.llm.merge import Merge, check_settings
from bench.llm.methods.branches import AdapterMethod, Branch, woven_branches
from bench.merging import MERGERS
from bench.methods import Family
from bench.registry import Named

__all__ = ["WeaveRec", "WeaveRecConfig"]

_HYBRID_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the hybrids that ``weights=validation`` tries; the first of equals is taken."""


class WeaveRecConfig(AdapterMethodConfig):
    """As every adapter, and how the branches are made and merged.

    Attributes:
        branches: one hybrid ``per-source`` (the method), or one ``joint`` hybrid of the target and
            all sources (Figure 10a).
        weights: ``uniform``: 1 / (N + 1) for each branch; ``validation``: the share of the hybrids,
            0, 1/4, 1/2, 3/4 or 1 in all, that ranks the validation requests best (NDCG@1), each
            with its own share of the prior.
        alpha: share of the hybrids in all, in [0, 1], the target branch has the rest (Figure 8);
            None leaves it to ``weights``.
        space: ``factor`` averages the factors A and B (the paper's equations), ``product`` the
            updates B A (its released code).
        merger: what merges the branches instead of an average (Table 4); for AdaMerging see the method
            ``adamerging`` with ``adapters=woven``.
        merge: options of that merger.
    """

    branches: Literal["per-source", "joint"] = "per-source"
    weights: Literal["uniform", "validation"] = "uniform"
    alpha: float | None = Field(default=None, ge=0.0, le=1.0)
    space: Literal["factor", "product"] = "factor"
    merger: Annotated[str, Named(MERGERS)] = "weight-average"
    merge: Mapping[str, Any] = Field(default_factory=dict)

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**values, "space": "product"} if name == "paper-as-run" else values
        for name, values in AdapterMethodConfig.profiles.items()
    }

    @field_validator("merger", mode="before")
    @classmethod
    def _adamerging_is_a_method(cls, merger: Any) -> Any:
        if merger == "adamerging":
            raise ValueError(
                "a merger that learns nothing; AdaMerging of these branches is a method of its own: "
                "--method adamerging --set adapters=woven"
            )
        return merger

    @model_validator(mode="after")
    def _options_fit(self) -> WeaveRecConfig:
        averaged = self.merger == "weight-average"
        if not averaged and (self.alpha is not None or self.weights != "uniform"):
            raise ValueError(f"alpha and weights belong to weight-average, merger is {self.merger}")
        if not averaged and self.space != "factor":
            raise ValueError(
                f"space belongs to weight-average; use space=factor, and merge.space with {self.merger}"
            )
        if averaged and self.merge:
            raise ValueError("weight-average takes alpha, weights and space, no merge.* options")
        if self.alpha is not None and self.weights == "validation":
            raise ValueError("alpha fixes the weights; leave it out or use weights=uniform")
        check_settings(self.merger, self.merge)
        return self


class WeaveRec(AdapterMethod):
    """One adapter on the target and one hybrid per source, averaged and served as one."""

    name = "weaverec"
    version = "1"
    family = Family.WEAVEREC
    Config = WeaveRecConfig
    uses_sources: ClassVar[bool] = True

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        if self.config.branches == "joint":
            return (Branch((target,)), Branch((target, *sources)))
        return woven_branches(target, sources)

    def merge(self, n_branches: int) -> Merge:
        if self.config.merger != "weight-average":
            return Merge(self.config.merger, self.config.merge)
        if self.config.alpha is None:
            return Merge("weight-average", {"space": self.config.space})
        return self._average(n_branches - 1, self.config.alpha)

    def _average(self, n_hybrids: int, alpha: float) -> Merge:
        weights = (1.0 - alpha, *[alpha / n_hybrids] * n_hybrids)
        return Merge("weight-average", {"space": self.config.space, "weights": list(weights)})

    def merges(self, n_branches: int) -> Mapping[str, Merge]:
        if self.config.weights == "uniform" or n_branches == 1:
            return super().merges(n_branches)
        return {
            f"hybrid share {alpha:g}": self._average(n_branches - 1, alpha)
            for alpha in _HYBRID_SHARES
        }

    @property
    def n_tried(self) -> int:
        return 0 if self.config.weights == "uniform" else len(_HYBRID_SHARES)
