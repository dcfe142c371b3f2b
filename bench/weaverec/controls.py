"""Controls that separate weaving from its confounders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from bench.llm.config import AdapterMethodConfig
from bench.llm.merge import Merge
from bench.llm.methods.branches import AdapterMethod, Branch
from bench.methods import Family

__all__ = ["AllDataAverage", "AveragedConfig", "HybridOnly", "SeedAverage"]

Share = Annotated[float, Field(ge=0.0, le=1.0)]

_GENERAL_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Shares of the adapter on all domains that ``general=validation`` tries; the first of equals is taken."""


class HybridOnly(AdapterMethod):
    """One adapter with the rows and steps of all branches of WeaveRec: training without merging."""

    name = "hybrid-only"
    version = "1"
    family = Family.ABLATION
    uses_sources: ClassVar[bool] = True

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        # The target stands in its own branch and in every hybrid.
        return (Branch((*[target] * (1 + len(sources)), *sources)),)


class AveragedConfig(AdapterMethodConfig):
    """As every adapter, and how two of them are averaged.

    Attributes:
        space: ``factor`` averages the factors A and B, ``product`` the updates B A.
    """

    space: Literal["factor", "product"] = "factor"

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**values, "space": "product"} if name == "paper-as-run" else values
        for name, values in AdapterMethodConfig.profiles.items()
    }


class SeedAverage(AdapterMethod):
    """Two adapters on the same rows of the target, same initialisation, other order, averaged.

    What averaging brings if neither other domains nor other rows are involved.
    """

    name = "seed-average"
    version = "1"
    family = Family.ABLATION
    Config = AveragedConfig

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        return (Branch((target,)), Branch((target,), order=1))

    def merge(self, n_branches: int) -> Merge:
        return Merge("weight-average", {"space": self.config.space})


class AllDataAverageConfig(AveragedConfig):
    """As every averaged pair.

    Attributes:
        general: share of the adapter on all domains, in [0, 1], or ``validation``: that of 0, 1/4, 1/2,
            3/4 and 1 which ranks the validation requests best (NDCG@1).
    """

    general: Share | Literal["validation"] = 0.5


class AllDataAverage(AdapterMethod):
    """The target's adapter and one on all domains, the target among them, averaged with fixed shares."""

    name = "all-data-average"
    # Runs of version 1 were stored as molorec, see bench.runs.stored.RENAMED.
    version = "2"
    family = Family.MERGING
    Config = AllDataAverageConfig
    uses_sources: ClassVar[bool] = True

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        return (Branch((target,)), Branch((target, *sources)))

    def merges(self, n_branches: int) -> Mapping[str, Merge]:
        general = self.config.general
        if general == "validation":
            return {f"general share {share:g}": self._average(share) for share in _GENERAL_SHARES}
        return {"": self._average(general)}

    def _average(self, general: float) -> Merge:
        weights = [1.0 - general, general]
        return Merge("weight-average", {"space": self.config.space, "weights": weights})

    @property
    def n_tried(self) -> int:
        return len(_GENERAL_SHARES) if self.config.general == "validation" else 0
