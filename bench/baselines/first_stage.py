"""Methods whose training has a first stage that several runs share: its identity, its place in a plan."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from torch import Tensor

from bench.baselines.pretraining import FirstStage, Pretrained, PretrainedStore, pretrained_store
from bench.baselines.text import Encoder, encoder_here, resolve_encoder
from bench.baselines.training import TrainingReport
from bench.errors import MethodError
from bench.methods import Context, DomainView, Job, Method, PlanSpec

__all__ = ["FirstStageMethod"]


class FirstStageMethod(Method):
    """A method that trains on several domains first; the result is stored and shared.

    Attributes:
        reads_target: whether the first stage reads the target's training sequences too. Even then it
            does not depend on which of its domains is the target.
        stage_seed: which seed of a run it is trained with.
    """

    reads_target: ClassVar[bool] = False
    stage_seed: ClassVar[Literal["seed", "init_seed"]] = "init_seed"

    @classmethod
    def adapter_store(cls, root: Path | None = None) -> PretrainedStore:
        return PretrainedStore() if root is None else PretrainedStore(root)

    @classmethod
    def encoder_name(cls, config: Any) -> str | None:
        """The text encoder that the first stage reads; None without texts."""
        return None

    @abstractmethod
    def first_stage(self, encoder: Encoder | None) -> FirstStage | None:
        """What the first stage depends on, but for domains, seed and number format; None without one.

        Args:
            encoder: of :meth:`encoder_name`; None where it is not on this machine, too.
        """

    def domain_content(self, domain: DomainView) -> str:
        """Hash of what the first stage reads of a domain."""
        return domain.training_hash

    def planned_content(self, training_hash: str) -> str:
        """The same, as far as a plan knows it; "" = not known."""
        return training_hash

    def plan(self, spec: PlanSpec) -> list[Job]:
        names = (*spec.sources, *((spec.target,) if self.reads_target else ()))
        name = self.encoder_name(self.config)
        stage = self.first_stage(encoder_here(name) if name else None)
        jobs = super().plan(spec)
        if stage is None:
            return jobs
        stage = replace(
            stage,
            domains={n: self.planned_content(spec.training_hashes.get(n, "")) for n in names},
            seed=getattr(spec, self.stage_seed),
            dtype=spec.dtype,
        )
        return [Job("adapter", stage.label, stage.identity, known=stage.known), *jobs]

    def shared(
        self,
        domains: Sequence[DomainView],
        context: Context,
        make: Callable[[Path], tuple[Mapping[str, Tensor], TrainingReport]],
    ) -> Pretrained:
        """The first stage on ``domains``, from the store or trained by ``make``."""
        name = self.encoder_name(self.config)
        encoder = resolve_encoder(name, progress=context.progress.status) if name else None
        stage = self.first_stage(encoder)
        if stage is None:
            raise MethodError(
                f"{self.name} was asked for a first stage, which its settings leave out."
            )
        stage = replace(
            stage,
            domains={domain.name: self.domain_content(domain) for domain in domains},
            seed=getattr(context, self.stage_seed),
            dtype=context.dtype,
        )
        with context.progress.stage(stage.label):
            return pretrained_store(context, self.name).get(stage, make)
