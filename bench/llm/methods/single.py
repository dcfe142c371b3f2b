"""Ablations of one adapter: on the target alone, on one source alone, on all domains together."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

from bench.errors import ConfigError
from bench.llm.config import AdapterMethodConfig
from bench.llm.methods.branches import AdapterMethod, Branch
from bench.methods import Family

__all__ = ["AllData", "SourceOnly", "SourceOnlyConfig", "TargetOnly"]


class TargetOnly(AdapterMethod):
    """One adapter on the target's sequences (Hou et al. 2025, Eq. 8)."""

    name = "target-only"
    version = "1"
    family = Family.ABLATION

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        return (Branch((target,)),)


class AllData(AdapterMethod):
    """One adapter on the sequences of the target and of all sources, shuffled together."""

    name = "all-data"
    version = "1"
    family = Family.ABLATION
    uses_sources: ClassVar[bool] = True

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        return (Branch((target, *sources)),)


class SourceOnlyConfig(AdapterMethodConfig):
    """As every adapter; the run of each source is chosen by its validation figures."""

    choose_by_validation: bool = True


class SourceOnly(AdapterMethod):
    """One adapter on one source's sequences, tried on the target; one run for each source."""

    name = "source-only"
    version = "1"
    family = Family.ABLATION
    expected_failures: ClassVar[Mapping[str, str]] = {
        "learns-planted-pattern": "it never sees the target, whose pattern the check looks for"
    }
    Config = SourceOnlyConfig
    uses_sources: ClassVar[bool] = True
    one_source: ClassVar[bool] = True

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        if len(sources) != 1:
            raise ConfigError(
                f"source-only is one run per source; it was given {len(sources)} sources "
                f"({', '.join(sources) or 'none'}). Name one with --sources."
            )
        return (Branch(tuple(sources)),)
