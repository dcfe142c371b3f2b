"""The contract of a ranking method."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict

from bench.methods.plans import Job, PlanSpec, RunDefaults
from bench.protocol.types import Requests, TrainView

__all__ = [
    "AdapterUse",
    "Capabilities",
    "Context",
    "Family",
    "Method",
    "MethodConfig",
    "Progress",
    "QuietProgress",
    "Scores",
    "SharedStore",
    "ValidationFigures",
]


class Family(StrEnum):
    """Group of a method in tables; the order of the members is the order of the paper's rows."""

    REFERENCE = "reference"
    SINGLE_DOMAIN = "single-domain"
    CROSS_DOMAIN = "cross-domain"
    LLM = "llm"
    MERGING = "merging"
    ABLATION = "ablation"
    WEAVEREC = "weaverec"


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a configured method needs and may do.

    Attributes:
        needs_sources: ``fit`` uses source domains.
        single_source: it takes exactly one of them, so that several sources make one run each.
        needs_text: uses item titles.
        item_columns: further columns of the items that it reads, such as ``brand``. Views hold no
            others, and their content is part of a run's identity.
        trainable: has random training, so that several seeds make sense.
        may_leave_unranked: may return NaN scores or slots (a generator of lists).
        transductive: receives the unlabelled test requests in ``fit``; its rows are marked.
        compares_candidates: a candidate's score may depend on which others are in its set, for example
            because a prompt lists them all.
        max_candidates: largest number of candidates it can score, or None for no bound.
    """

    needs_sources: bool = False
    single_source: bool = False
    needs_text: bool = False
    item_columns: tuple[str, ...] = ()
    trainable: bool = False
    may_leave_unranked: bool = False
    transductive: bool = False
    compares_candidates: bool = False
    max_candidates: int | None = None


class MethodConfig(BaseModel):
    """Base of method configurations: unknown keys rejected, immutable, with named profiles.

    ``profiles`` maps a profile name to the values that differ from the defaults.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {"cpu": {}, "paper": {}}

    def identity(self) -> dict[str, Any]:
        """The configuration in a run's identity and manifest, as JSON values.

        What is left to the machine, and changes scores by rounding at most, is to be there in the same
        way on every machine.
        """
        return self.model_dump(mode="json")


@dataclass(frozen=True, slots=True)
class ValidationFigures:
    """Validation metrics, the only figures a method ever sees.

    Attributes:
        ndcg: NDCG by cut-off, 1, 3, 5 and 10, in [0, 1].
        mrr: MRR by cut-off, 5 and 10, in [0, 1].
        n_users: how many validation requests were scored.
        chance: the NDCG by cut-off that equal scores for all candidates give; empty = not known.
    """

    ndcg: Mapping[int, float]
    mrr: Mapping[int, float]
    n_users: int
    chance: Mapping[int, float] = field(default_factory=dict)


class Progress(Protocol):
    """Progress reporting; works in a terminal, in a log and switched off."""

    def track(
        self,
        items: Iterable[Any],
        *,
        total: int | None = None,
        description: str = "",
        more: int = 0,
    ) -> Iterable[Any]:
        """Iterate over ``items`` while showing how far it is and when it ends.

        ``more`` items at most are to follow in further loops, such as later epochs: the time left
        counts them.
        """
        ...

    def stage(self, description: str) -> AbstractContextManager[None]:
        """Name the current stage for as long as the block runs."""
        ...

    def status(self, text: str) -> None:
        """Show one line of state, for example the current validation figure."""
        ...


class QuietProgress:
    """A :class:`Progress` that shows nothing."""

    def track(
        self,
        items: Iterable[Any],
        *,
        total: int | None = None,
        description: str = "",
        more: int = 0,
    ) -> Iterable[Any]:
        """Iterate over ``items``."""
        return items

    @contextmanager
    def stage(self, description: str) -> Iterator[None]:
        """Do nothing around the block."""
        yield

    def status(self, text: str) -> None:
        """Show nothing."""

    def line(self, text: str) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Nothing to do."""


@dataclass(frozen=True, slots=True)
class AdapterUse:
    """An adapter that a run uses, and what it cost to make, whoever made it.

    Attributes:
        adapter_id: identity, 16 hex digits.
        kind: ``trained``, ``merged``, or ``pre-trained`` for the shared first stage of a baseline.
        label: one line for people.
        seconds: wall seconds of making it, over all attempts.
        cpu_seconds: CPU seconds, likewise.
        tokens: tokens that its training processed.
        trained_now: whether the run that names it made it.
    """

    adapter_id: str
    kind: str
    label: str
    seconds: float
    cpu_seconds: float
    tokens: int
    trained_now: bool


class SharedStore(Protocol):
    """Where LoRA adapters, and first stages of baselines, are trained once and shared.

    The concrete stores belong to ``bench.llm`` and ``bench.baselines``. The runner asks for no more than this; methods know the concrete class.
    """

    def has(self, adapter_id: str) -> bool:
        """Whether the adapter is stored, complete; counts as no use."""
        ...

    def watch(self, on_use: Callable[[tuple[AdapterUse, ...], float, float], None]) -> None:
        """Have ``on_use(used, seconds, cpu_seconds)`` called after every adapter asked for.

        ``used`` is empty if making one failed or was interrupted; the wall and CPU seconds are
        those that this process spent on making the adapter or on waiting for another process.
        """
        ...


class Context(Protocol):
    """Everything around a method that is not data.

    Attributes:
        seed: training seed. Use it for a local generator; never seed a global one for good.
        init_seed: seed of adapter initialisation, fixed per study.
        device: torch device string, for example ``cpu`` or ``cuda:0``.
        dtype: ``float32`` or ``bfloat16``.
        threads: number of CPU threads to use.
        scratch: private folder, kept until the run is complete, so a checkpoint in it survives a kill.
        progress: progress reporter.
        log: logger of the run.
        adapters: the store that the method's class names (:meth:`Method.adapter_store`): of adapters, or
            of shared pre-trainings of a baseline. None if it names none.
    """

    seed: int
    init_seed: int
    device: str
    dtype: str
    threads: int
    scratch: Path
    progress: Progress
    log: logging.Logger
    adapters: SharedStore | None

    def validate(self, method: Method) -> ValidationFigures:
        """Score the validation requests of the fixed nested user subset with ``method.score``."""
        ...

    def validation_loss(self, method: Method) -> float:
        """Mean cross-entropy (nats) of the positive under a softmax over ``method.score`` values."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Scores:
    """The answer of a method to n requests of c candidates.

    Attributes:
        values: float32 or float64, shape ``(n, c)``, higher is better; ranks are taken as it comes, so
            that nothing ties by rounding. NaN = not ranked (needs ``may_leave_unranked``); infinities
            are never allowed.
        slots: int16, shape ``(n, k)``, or None. For generators of lists: the candidate position named
            in each answer slot; -1 duplicate, -2 not a candidate, -3 empty. When given, ranks come
            from the slots alone.
        diagnostics: JSON-serialisable counters.
    """

    values: NDArray[np.floating[Any]]
    slots: NDArray[np.int16] | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)


class Method(ABC):
    """One way to rank candidates.

    A subclass sets ``name``, ``version`` and ``family``, may set ``Config``, and implements ``fit``
    and ``score``. Raise ``version`` whenever its scores can change. After ``fit`` (or ``load``) all
    state lives on ``self``.

    Rules, checked by ``bench check``: same seed, same scores; a row's scores depend neither on the
    other rows nor on the order of the candidates; inputs are not changed; no global state (random
    generators, ``sys.argv``, environment, working directory) is changed; no file outside
    ``context.scratch`` is written.
    """

    name: ClassVar[str]
    version: ClassVar[str]
    family: ClassVar[Family]
    Config: ClassVar[type[BaseModel]] = MethodConfig
    known_below_popularity: ClassVar[Mapping[str, str]] = {}
    """Domain (or ``*``) -> why the method is known to rank below popularity there."""
    expected_failures: ClassVar[Mapping[str, str]] = {}
    """Check of ``bench check`` -> why it cannot apply to this method."""
    alone: ClassVar[Mapping[str, Any]] = {}
    """Settings with which a method with sources learns from its target alone; {} if it cannot."""
    score_rows: ClassVar[int | None] = None
    """Users per call of ``score`` in a run, for slow scorers: what a kill may cost. None = thousands."""

    def __init__(self, config: BaseModel | None = None) -> None:
        self.config: Any = self.Config() if config is None else config

    @classmethod
    def capabilities(cls, config: Any) -> Capabilities:
        """What this method needs under ``config``."""
        return Capabilities()

    @classmethod  # noqa: B027
    def require(cls, config: Any) -> None:
        """Raise a MissingExtraError if an optional package or asset is absent; nothing by default.

        Called before any data are read, so that nobody waits for a run that cannot be fitted.
        """

    @classmethod
    def row_note(cls, config: Any) -> str:
        """What a reader of a table must know of a row of this configuration; "" for nothing.

        Stands in brackets behind the method's name. For substitutes of what the source used, for
        example ``source pre-trained, MiniLM`` if its authors started from their own checkpoint.
        """
        return ""

    @classmethod
    def content_hashes(cls, config: Any) -> Mapping[str, str]:
        """SHA-256 of the files and folders that ``config`` names by a path of the user's, by setting.

        They are part of a run's identity: other weights under the same path are another run. Empty by
        default, and for what is named by an identifier of its own.
        """
        return {}

    @classmethod
    def run_defaults(cls, profile: str) -> RunDefaults:
        """Scored users, number format and CPU threads if the user leaves them to the method."""
        return RunDefaults()

    @classmethod
    def adapter_store(cls, root: Path | None = None) -> SharedStore | None:
        """The store that becomes ``context.adapters``; None for methods that share no trained state.

        Args:
            root: folder of the store, None = the standard one.
        """
        return None

    def plan(self, spec: PlanSpec) -> list[Job]:
        """The jobs of one run, in order; by default one fit and one score."""
        return [
            Job("fit", f"fit {self.name} on {spec.target}"),
            Job("score", f"score {self.name} on {spec.target}"),
        ]

    @abstractmethod
    def fit(self, view: TrainView, context: Context) -> None:
        """Learn from the view."""

    @abstractmethod
    def score(self, requests: Requests, context: Context) -> Scores:
        """Score every candidate of every request: float32 or float64, shape ``(len(requests), c)``."""

    def save(self, folder: Path) -> None:  # noqa: B027
        """Write the fitted state as safetensors, npy or JSON files; nothing by default."""

    def load(self, folder: Path) -> None:  # noqa: B027
        """Restore what :meth:`save` wrote; nothing by default."""
