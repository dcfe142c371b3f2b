"""MoLoRec (arXiv 2502.08271): a domain-general and a domain-specific adapter, mixed without labels.

The general adapter is trained on other domains alone and serves every target; the specific one on the
target. Which layer takes how much of which is learnt as in AdaMerging, by the entropy of the first
tokens of the answers to unlabelled requests of the target.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from bench.llm.adamerging import AdaptationSpec
from bench.llm.methods.adapted import AdaptedConfig, AdaptedMerge
from bench.llm.methods.branches import Branch
from bench.methods import Family

__all__ = ["MoLoRec", "MoLoRecConfig"]


class MoLoRecConfig(AdaptedConfig):
    """As every adapted merge, with the entropy, the requests and the budget of the authors' code.

    That updates after 240 distributions, about ten requests of up to five tokens for each of five titles.
    """

    entropy: Literal["candidate", "token"] = "token"
    first_tokens: int = Field(default=5, ge=1)
    requests_per_domain: int = Field(default=100, ge=1)
    # The authors tried rates from 0.5 to 5 and took the one with the best test figures.
    adapt: AdaptationSpec = AdaptationSpec(steps=10, batch_requests=10, learning_rate=0.5)


class MoLoRec(AdaptedMerge):
    """The target's adapter and one of all sources, mixed layer by layer (MoLoRec, arXiv 2502.08271)."""

    name = "molorec"
    # Version 1 was the average that is now all-data-average.
    version = "2"
    family = Family.MERGING
    Config = MoLoRecConfig

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        general = (Branch(tuple(sources)),) if sources else ()
        return (Branch((target,)), *general)

    def adapted_on(self, target: str, sources: Sequence[str]) -> tuple[str, ...]:
        return (target,)
