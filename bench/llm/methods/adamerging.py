"""AdaMerging (Yang et al., ICLR 2024) of the single-domain adapters of target and sources."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from bench.llm.methods.adapted import AdaptedConfig, AdaptedMerge
from bench.llm.methods.branches import Branch, single_branches, woven_branches
from bench.methods import Family

__all__ = ["AdaMerging", "AdaMergingConfig"]


class AdaMergingConfig(AdaptedConfig):
    """As every adapted merge, and what is merged.

    Attributes:
        adapters: what is merged: ``single``, one adapter per domain, or ``woven``, the branches of
            WeaveRec (Hou et al. 2025, Table 4).
    """

    adapters: Literal["single", "woven"] = "single"


class AdaMerging(AdaptedMerge):
    """Adapters of target and sources, mixed layer by layer so that the answers' entropy is least."""

    name = "adamerging"
    version = "1"
    family = Family.MERGING
    Config = AdaMergingConfig

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        make = woven_branches if self.config.adapters == "woven" else single_branches
        return make(target, sources)

    def adapted_on(self, target: str, sources: Sequence[str]) -> tuple[str, ...]:
        return (target, *sources)
