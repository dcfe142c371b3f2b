"""Base of the methods that train adapters: one branch per adapter, merged where there are several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from bench.errors import MethodError
from bench.llm.adapters import StoredAdapter, adapters_of
from bench.llm.backbones import Backbone
from bench.llm.config import AdapterConfig
from bench.llm.merge import merge_spec, obtain_merge
from bench.llm.methods.base import LLMMethod
from bench.llm.methods.planning import JobWriter
from bench.llm.mixtures import AdapterRecipe
from bench.methods import Capabilities, Context, DomainView, Job, PlanSpec, TrainView

__all__ = ["AdapterMethod", "Branch", "Merge", "single_branches", "woven_branches"]


@dataclass(frozen=True, slots=True)
class Branch:
    """One adapter of a method.

    Attributes:
        domains: names of the domains that it is trained on; one named twice counts twice.
        order: 0 for the order of the run's training seed, 1 for a second one, and so on.
    """

    domains: tuple[str, ...]
    order: int = 0


def single_branches(target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
    """One adapter per domain, the target's first."""
    return tuple(Branch((domain,)) for domain in (target, *sources))


def woven_branches(target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
    """The target's adapter and one hybrid of target and source per source (Hou et al. 2025)."""
    return (Branch((target,)), *(Branch((target, source)) for source in sources))


@dataclass(frozen=True, slots=True)
class Merge:
    """How branches become one adapter.

    Attributes:
        method: name of a merging method, see :mod:`bench.merging`.
        settings: its options.
    """

    method: str
    settings: Mapping[str, Any]


class AdapterMethod(LLMMethod):
    """Trains (or finds) the adapters of its branches and serves one: the only one, or their merge."""

    Config = AdapterConfig
    uses_sources: ClassVar[bool] = False
    one_source: ClassVar[bool] = False

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        return replace(
            super().capabilities(config),
            trainable=True,
            needs_sources=cls.uses_sources,
            single_source=cls.one_source,
        )

    @abstractmethod
    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        """The adapters of the method, in the order in which its merge weighs them."""

    def merge(self, n_branches: int) -> Merge:
        """How ``n_branches`` (two or more) adapters are merged.

        Raises:
            MethodError: the method has one branch.
        """
        raise MethodError(f"{self.name} has no way to merge {n_branches} adapters.")

    def merges(self, n_branches: int) -> tuple[Merge, ...]:
        """All merges that a fit computes; one, unless several are tried."""
        return (self.merge(n_branches),)

    @property
    def n_validations(self) -> int:
        return max(super().n_validations, int(self.config.choose_by_validation))

    def plan_fit(self, writer: JobWriter, spec: PlanSpec) -> list[Job]:
        jobs: dict[str, Job] = {}
        parents = []
        # Without the model itself the ids tell equal adapters of one plan, as they do with it.
        backbone = writer.backbone or Backbone(self.config.backbone, Path(), "")
        for branch in self.branches(spec.target, spec.sources):
            hashes = [(name, spec.training_hashes[name]) for name in branch.domains]
            wanted = self._recipe(branch, spec).spec(hashes, backbone)
            label = f"train {wanted.summary}"
            jobs[wanted.adapter_id] = writer.adapter(label, wanted.adapter_id, branch.domains)
            parents.append(wanted.adapter_id)
        if len(parents) > 1:
            for merge in self.merges(len(parents)):
                merged = merge_spec(parents, merge.method, merge.settings, seed=spec.seed)
                label = f"{merge.method} of {len(parents)} adapters"
                jobs[merged.adapter_id] = writer.merge(label, merged.adapter_id, len(parents))
        return list(jobs.values())

    def prepare(self, view: TrainView, context: Context) -> Path:
        adapters = self.adapters(view, context)
        if len(adapters) == 1:
            return adapters[0].folder
        return self.merged(adapters, self.merge(len(adapters)), context).folder

    def adapters(self, view: TrainView, context: Context) -> list[StoredAdapter]:
        """The adapters of all branches, from the store or trained now."""
        domains = {view.target.name: view.target, **{s.name: s for s in view.sources}}
        branches = self.branches(view.target.name, [source.name for source in view.sources])
        return [
            self.adapter_on([domains[name] for name in branch.domains], branch, context)
            for branch in branches
        ]

    def adapter_on(
        self, views: Sequence[DomainView], branch: Branch, context: Context
    ) -> StoredAdapter:
        """The adapter of one branch, from the store or trained now."""
        return self._recipe(branch, context).obtain(views, adapters_of(context), context)

    def merged(
        self, adapters: Sequence[StoredAdapter], merge: Merge, context: Context
    ) -> StoredAdapter:
        """The merge of stored adapters, from the store or computed now."""
        return obtain_merge(
            adapters_of(context),
            adapters,
            merge.method,
            merge.settings,
            seed=context.seed,
            progress=context.progress,
        )

    def _recipe(self, branch: Branch, around: PlanSpec | Context) -> AdapterRecipe:
        return AdapterRecipe(self.config, around.init_seed, around.seed, around.dtype, branch.order)

    def fit(self, view: TrainView, context: Context) -> None:
        super().fit(view, context)
        if self.config.choose_by_validation and self.report is None:
            context.validate(self)
