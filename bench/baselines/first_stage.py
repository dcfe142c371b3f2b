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
from bench.io import hash_json
from bench.methods import Context, DomainView, Job, Method, PlanSpec, source_sha256
from bench.methods.config import chosen_plugins

__all__ = ["FirstStageMethod", "require_sequences"]


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
        """What the first stage depends on, but for what the run says; None without one.

        Args:
            encoder: of :meth:`encoder_name`; None if it is not on this machine, too.
        """

    def plan(self, spec: PlanSpec) -> list[Job]:
        names = (*spec.sources, *((spec.target,) if self.reads_target else ()))
        name = self.encoder_name(self.config)
        stage = self.first_stage(encoder_here(name) if name else None)
        jobs = super().plan(spec)
        if stage is None:
            return jobs
        stage = self._of_run(stage, spec, {n: spec.training_hashes.get(n, "") for n in names})
        return [Job("adapter", stage.label, stage.identity, known=stage.known), *jobs]

    def shared(
        self,
        domains: Sequence[DomainView],
        context: Context,
        make: Callable[[Path], tuple[Mapping[str, Tensor], TrainingReport]],
    ) -> Pretrained:
        """The first stage on ``domains``, from the store or trained by ``make``.

        Raises:
            MethodError: the domains hold fewer than two sequences to learn from.
        """
        # One alone has nothing to be contrasted with.
        require_sequences(self.name, domains, least=2)
        name = self.encoder_name(self.config)
        encoder = resolve_encoder(name, progress=context.progress.status) if name else None
        stage = self.first_stage(encoder)
        if stage is None:
            raise MethodError(
                f"{self.name} was asked for a first stage, which its settings leave out."
            )
        stage = self._of_run(stage, context, {d.name: d.training_hash for d in domains})
        with context.progress.stage(stage.label):
            return pretrained_store(context, self.name).get(stage, make)

    def _of_run(
        self, stage: FirstStage, run: PlanSpec | Context, domains: Mapping[str, str]
    ) -> FirstStage:
        return replace(
            stage,
            domains=domains,
            seed=getattr(run, self.stage_seed),
            dtype=run.dtype,
            # A plugin that derives from a built-in method may train otherwise with equal settings.
            plugin=self._plugin_source(),
        )

    def _plugin_source(self) -> str | None:
        """Identity of what plugins decide: the class, and what the configuration chooses by name."""
        own, chosen = source_sha256(type(self)), chosen_plugins(self.config)
        return hash_json({"class": own, **chosen}) if chosen else own


def require_sequences(name: str, domains: Sequence[DomainView], *, least: int = 1) -> None:
    """Check, before anything is trained, that there is something to train on.

    Raises:
        MethodError: the domains together hold fewer than ``least`` training sequences of two items
            or more.
    """
    found = sum(int((domain.sequences.lengths >= 2).sum()) for domain in domains)
    if found < least:
        where = ", ".join(domain.name for domain in domains)
        raise MethodError(
            f"{name} needs at least {least} training sequences of two items or more; {where} has "
            f"{found}. Look at it with `bench data stats`; the last two events of a user are held out."
        )
