"""Base of the methods that train adapters: one branch per adapter, merged if there are several."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from bench.errors import InUseError, MethodError
from bench.llm.adapters import StoredAdapter, adapters_of
from bench.llm.backbones import Backbone
from bench.llm.config import AdapterMethodConfig
from bench.llm.merge import Merge, found_out, merge_spec, obtain_merge
from bench.llm.methods.base import LLMMethod
from bench.llm.methods.planning import JobWriter
from bench.llm.mixtures import AdapterRecipe
from bench.methods import Capabilities, Context, DomainView, Job, PlanSpec, TrainView

__all__ = ["AdapterMethod", "Branch", "single_branches", "woven_branches"]


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


class AdapterMethod(LLMMethod):
    """Trains (or finds) the adapters of its branches and serves one: the only one, or their merge."""

    Config = AdapterMethodConfig
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

    def merges(self, n_branches: int) -> Mapping[str, Merge]:
        """All merges that a fit computes, by what is tried with them.

        Of several that is served which ranks the validation requests best.
        """
        return {"": self.merge(n_branches)}

    @property
    def n_tried(self) -> int:
        """How many merges are chosen among by validation; 0 if there is no choice."""
        return 0

    @property
    def n_validations(self) -> int:
        one = max(super().n_validations, int(self.config.choose_by_validation or self.n_tried > 0))
        return self.n_tried + one

    def _checked(self, branches: Sequence[Branch]) -> Sequence[Branch]:
        """The branches, if what merges them takes so many: asked before any is trained.

        Raises:
            ConfigError: it does not.
        """
        if len(branches) > 1:
            for merge in self.merges(len(branches)).values():
                merge.options.check_inputs([self.config.lora.r] * len(branches))
        return branches

    def plan_fit(self, writer: JobWriter, spec: PlanSpec) -> list[Job]:
        jobs: dict[str, Job] = {}
        parents = []
        # Without the model itself the ids tell equal adapters of one plan, as they do with it.
        backbone = writer.backbone or Backbone(self.config.backbone, Path(), "")
        for branch in self._checked(self.branches(spec.target, spec.sources)):
            hashes = [(name, spec.training_hashes[name]) for name in branch.domains]
            wanted = self._recipe(branch, spec).spec(hashes, backbone)
            label = f"train {wanted.summary}"
            jobs[wanted.adapter_id] = writer.adapter(label, wanted.adapter_id, branch.domains)
            parents.append(wanted.adapter_id)
        if len(parents) > 1:
            for merge in self.merges(len(parents)).values():
                merged = merge_spec(parents, merge, seed=spec.seed)
                jobs[merged.adapter_id] = writer.merge(merge, merged.adapter_id, len(parents))
        return list(jobs.values())

    def prepare(self, view: TrainView, context: Context) -> Path:
        adapters = self.adapters(view, context)
        if len(adapters) == 1:
            return adapters[0].folder
        merges = self.merges(len(adapters))
        if len(merges) > 1:
            served = self._best_by_validation(adapters, merges, context)
        else:
            served = self.merged(adapters, next(iter(merges.values())), context)
        self.tell(served, context)
        return served.folder

    def _best_by_validation(
        self, adapters: Sequence[StoredAdapter], merges: Mapping[str, Merge], context: Context
    ) -> StoredAdapter:
        """The merge of the best NDCG@1 on the validation requests, the first of equals."""
        tried: dict[str, float] = {}
        found: dict[str, StoredAdapter] = {}
        for name, merge in merges.items():
            found[name] = self.merged(adapters, merge, context)
            self.adapter = found[name].folder
            figures = self.choose_prior_share(context) or context.validate(self)
            tried[name] = round(figures.ndcg[1], 6)
            context.log.info("merge with %s: validation NDCG@1 %.4f", name, figures.ndcg[1])
        best = max(tried, key=lambda name: tried[name])
        context.log.info("chosen: %s", best)
        self.note({"chosen_by_validation": best, "validation_ndcg@1_by_merge": tried})
        return found[best]

    def tell(self, served: StoredAdapter, context: Context) -> None:
        """Log what the merge that is served warns of, and note it for the run's manifest."""
        told = found_out(served)
        for warning in told.get("warnings", ()):
            context.log.warning("merge %s: %s", served.adapter_id[:8], warning)
        if "error" in told:
            context.log.info(
                "merge %s: truncation lost %.2g of its norm", served.adapter_id[:8], told["error"]
            )
        if told:
            self.note({"merge": told})

    def adapters(self, view: TrainView, context: Context) -> list[StoredAdapter]:
        """The adapters of all branches, from the store or trained now.

        Those that another process trains are left for the end, and are then waited for.
        """
        domains = {view.target.name: view.target, **{s.name: s for s in view.sources}}
        branches = self._checked(
            self.branches(view.target.name, [source.name for source in view.sources])
        )
        found: dict[Branch, StoredAdapter] = {}
        for wait in (len(branches) == 1, True):
            for branch in branches:
                if branch in found:
                    continue
                views = [domains[name] for name in branch.domains]
                try:
                    found[branch] = self.adapter_on(views, branch, context, wait=wait)
                except InUseError as error:
                    if wait:
                        raise
                    context.progress.status(f"left for the end: {error}")
        return [found[branch] for branch in branches]

    def adapter_on(
        self, views: Sequence[DomainView], branch: Branch, context: Context, *, wait: bool = True
    ) -> StoredAdapter:
        """The adapter of one branch, from the store or trained now; see :meth:`AdapterRecipe.obtain`."""
        recipe = self._recipe(branch, context)
        return recipe.obtain(views, adapters_of(context), context, wait=wait)

    def merged(
        self, adapters: Sequence[StoredAdapter], merge: Merge, context: Context
    ) -> StoredAdapter:
        """The merge of stored adapters, from the store or computed now."""
        return obtain_merge(
            adapters_of(context),
            adapters,
            merge,
            seed=context.seed,
            progress=context.progress,
        )

    def _recipe(self, branch: Branch, around: PlanSpec | Context) -> AdapterRecipe:
        return AdapterRecipe(self.config, around.init_seed, around.seed, around.dtype, branch.order)

    def fit(self, view: TrainView, context: Context) -> None:
        super().fit(view, context)
        # The last validation of a run is the one that describes what it serves.
        several = self.config.choose_by_validation or self.n_tried
        if several and len(self.config.prior_shares) == 1:
            context.validate(self)
