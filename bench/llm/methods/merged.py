"""Merging baselines: the single-domain adapters of target and sources, merged without training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from bench.llm.config import AdapterConfig
from bench.llm.merge import Merge
from bench.llm.methods.branches import AdapterMethod, Branch, single_branches
from bench.merging.configs import (
    DareConfig,
    ExtSubConfig,
    LoraLegoConfig,
    TaskArithmeticConfig,
    TiesConfig,
    WeightAverageConfig,
)
from bench.methods import Family

__all__ = [
    "MergeAverage",
    "MergeDare",
    "MergeExtSub",
    "MergeLoraLego",
    "MergeTaskArithmetic",
    "MergeTies",
]


class SingleDomainMerge(AdapterMethod):
    """Merges one adapter per domain, the target's first."""

    family = Family.MERGING
    uses_sources: ClassVar[bool] = True
    merger: ClassVar[str]

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        return single_branches(target, sources)

    def merge(self, n_branches: int) -> Merge:
        return Merge(self.merger, self.config.merge.model_dump(mode="json"))


class AverageConfig(AdapterConfig):
    """As every adapter, and how they are averaged.

    Attributes:
        merge: options of weight averaging.
    """

    merge: WeightAverageConfig = WeightAverageConfig()

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        name: {**values, "merge.space": "product"} if name == "paper-as-run" else values
        for name, values in AdapterConfig.profiles.items()
    }


class MergeAverage(SingleDomainMerge):
    """Weight average of the single-domain adapters (Wortsman et al. 2022; Hou et al. 2025, Eq. 5-7)."""

    name = "merge-average"
    version = "1"
    merger = "weight-average"
    Config = AverageConfig


class ArithmeticConfig(AdapterConfig):
    """As every adapter, and how they are added.

    Attributes:
        merge: options of task arithmetic.
    """

    merge: TaskArithmeticConfig = TaskArithmeticConfig()


class MergeTaskArithmetic(SingleDomainMerge):
    """Scaled sum of the single-domain adapters (Ilharco et al. 2023)."""

    name = "merge-task-arithmetic"
    version = "1"
    merger = "task-arithmetic"
    Config = ArithmeticConfig


class TiesMergeConfig(AdapterConfig):
    """As every adapter, and how they are merged.

    Attributes:
        merge: options of TIES.
    """

    merge: TiesConfig = TiesConfig()


class MergeTies(SingleDomainMerge):
    """TIES of the single-domain adapters: trim, elect signs, merge (Yadav et al. 2023)."""

    name = "merge-ties"
    version = "1"
    merger = "ties"
    Config = TiesMergeConfig


class DareMergeConfig(AdapterConfig):
    """As every adapter, and how they are merged.

    Attributes:
        merge: options of DARE.
    """

    merge: DareConfig = DareConfig()


class MergeDare(SingleDomainMerge):
    """DARE of the single-domain adapters: drop at random, rescale, merge (Yu et al. 2024)."""

    name = "merge-dare"
    version = "1"
    merger = "dare"
    Config = DareMergeConfig


class ExtSubMergeConfig(AdapterConfig):
    """As every adapter, and how they are merged.

    Attributes:
        merge: options of Ext-Sub.
    """

    merge: ExtSubConfig = ExtSubConfig()


class MergeExtSub(SingleDomainMerge):
    """Ext-Sub: the target's adapter without what the sources' do not share (Hu et al. 2024)."""

    name = "merge-ext-sub"
    version = "1"
    merger = "ext-sub"
    Config = ExtSubMergeConfig


class LegoMergeConfig(AdapterConfig):
    """As every adapter, and how they are merged.

    Attributes:
        merge: options of LoRA-LEGO.
    """

    merge: LoraLegoConfig = LoraLegoConfig()


class MergeLoraLego(SingleDomainMerge):
    """LoRA-LEGO: clusters of the adapters' ranks (Zhao et al. 2025)."""

    name = "merge-lora-lego"
    version = "1"
    merger = "lora-lego"
    Config = LegoMergeConfig
