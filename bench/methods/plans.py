"""What a method may know before any data are read by it, and the jobs that it announces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

__all__ = ["DomainSize", "Job", "PlanSpec", "RunDefaults"]


@dataclass(frozen=True, slots=True)
class RunDefaults:
    """What ``--limit-users auto``, ``--dtype auto`` and no ``--threads`` mean for a method, and its task.

    Attributes:
        limit_users: how many test users are scored, None = all.
        dtype: number format of the model.
        train_on: events that the profile is defined on (``ProtocolOptions.train_on``); a run on others
            is refused. None = any.
        threads: CPU threads that make the method faster, >= 1; None = as many as there are. A process
            never uses more than its environment and quotas allow, unless it is told a number.
    """

    limit_users: int | None = None
    dtype: Literal["float32", "bfloat16"] = "float32"
    train_on: Literal["train", "train+valid"] | None = None
    # What a second thread does in small products is less than what starting it takes.
    threads: int | None = 1


@dataclass(frozen=True, slots=True)
class DomainSize:
    """How much text a domain holds, as counts.

    Attributes:
        sequences: events of a training sequence -> how many sequences have so many.
        titles: bytes of a title (UTF-8) -> how many items have such a title.
    """

    sequences: Mapping[int, int]
    titles: Mapping[int, int]


@dataclass(frozen=True, slots=True)
class PlanSpec:
    """What a method is asked to plan for: names, hashes and numbers, no data.

    Attributes:
        target: the target domain.
        sources: the source domains, in the order given.
        profile: named hyper-parameters.
        seed: training seed.
        init_seed: seed of adapter initialisation.
        training_hashes: :attr:`DomainView.training_hash` of target and sources, by name.
        sizes: how much text target and sources hold, by name; empty = not known.
        n_users: test users that will be scored, over all request sets; None = not known.
        n_candidates: candidates per user, the mean over all request sets.
        device: torch device string.
        dtype: number format of the model.
        threads: CPU threads.
    """

    target: str
    sources: tuple[str, ...]
    profile: str
    seed: int
    init_seed: int = 0
    training_hashes: Mapping[str, str] = field(default_factory=dict)
    sizes: Mapping[str, DomainSize] = field(default_factory=dict)
    n_users: int | None = None
    n_candidates: int = 30
    device: str = "cpu"
    dtype: str = "float32"
    threads: int = 1


@dataclass(frozen=True, slots=True)
class Job:
    """One step of a run, for ``bench run --plan`` and for what ``bench run`` announces.

    Attributes:
        kind: ``adapter``, ``merge``, ``fit``, ``validate`` or ``score``.
        label: one line for people.
        key: identity of the job's result if it is shared (an ``adapter_id``), else "".
        known: whether a result would be stored under ``key``. False if something that the identity
            depends on is not on this machine: such a key tells equal jobs of one plan, nothing more.
        seconds: estimated wall seconds on the given device, None = not known.
        gpu_seconds: the same on the reference GPU, whatever the device, for language models.
        tokens: tokens that a language model processes, estimated, None = none or not known.
        memory_mb: estimated peak memory in MB (1e6 bytes), None = not known.
    """

    kind: str
    label: str
    key: str = ""
    known: bool = True
    seconds: float | None = None
    gpu_seconds: float | None = None
    tokens: int | None = None
    memory_mb: float | None = None
