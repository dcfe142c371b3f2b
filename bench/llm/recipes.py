"""Recipes of adapters: everything that decides an adapter's weights, and the identity made of it.

A recipe knows no target: the hybrid of two domains is one adapter, whoever asks and in which order the
domains are named. Imports neither torch nor transformers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property
from typing import Any, ClassVar, Protocol

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from bench.io import canonical_json, hash_json

__all__ = ["ADAPTER_ID", "AdapterSpec", "InitSpec", "MergedSpec", "MixturePart", "Recipe"]

ADAPTER_ID = re.compile(r"[0-9a-f]{16}")

_IDENTITY = 1
"""Raised whenever equal recipes of earlier versions may stand for other weights."""


class Recipe(Protocol):
    """What the store asks of a recipe; :class:`AdapterSpec` and its siblings have it."""

    @property
    def kind(self) -> str:
        """``trained``, ``merged`` or ``init``."""
        ...

    @property
    def adapter_id(self) -> str:
        """Identity, 16 hex digits."""
        ...

    @property
    def summary(self) -> str:
        """One line for people."""
        ...

    @property
    def lineage(self) -> tuple[str, ...]:
        """Ids of the adapters that this one is merged from."""
        ...

    def description(self) -> dict[str, Any]:
        """The recipe as JSON values, names that decide nothing included."""
        ...


def _plain(value: Any) -> Any:
    """A mapping of settings from a mapping or a pydantic model."""
    return value.model_dump(mode="json") if isinstance(value, BaseModel) else value


class _Base(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    recipe_kind: ClassVar[str]
    names: ClassVar[frozenset[str]] = frozenset()
    """Fields for people, which are not in the identity."""

    @property
    def kind(self) -> str:
        return self.recipe_kind

    @cached_property
    def adapter_id(self) -> str:
        """16 hex digits of a SHA-256 over everything that decides the weights."""
        values = self.model_dump(mode="json", exclude=set(self.names))
        return hash_json({"identity": _IDENTITY, "kind": self.kind, **values})[:16]

    @property
    def lineage(self) -> tuple[str, ...]:
        return ()

    def description(self) -> dict[str, Any]:
        return self.model_dump(mode="json")


class InitSpec(_Base):
    """The draw that the adapters of a study begin with.

    Attributes:
        backbone_hash: content hash of the backbone.
        lora: shape of the adapter (rank, alpha, dropout, targets).
        init_seed: seed of the draw.
    """

    recipe_kind: ClassVar[str] = "init"

    backbone_hash: str
    lora: Mapping[str, JsonValue]
    init_seed: int = Field(ge=0)

    _lora = field_validator("lora", mode="before")(_plain)

    @property
    def summary(self) -> str:
        """One line for people."""
        return f"initialisation, seed {self.init_seed}"


class MixturePart(BaseModel):
    """Training rows of one domain.

    Attributes:
        domain: its name.
        training_hash: :attr:`bench.methods.DomainView.training_hash`.
        n_examples: rows that are taken from it, >= 1.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    domain: str
    training_hash: str
    n_examples: int = Field(ge=1)


class AdapterSpec(_Base):
    """An adapter trained for a fixed budget on a mixture of domains.

    Attributes:
        backbone: name of the backbone as the user gave it; not in the identity.
        backbone_hash: its content hash.
        mixture: the parts, sorted, so that neither the caller's order nor the target matters. Make
            the training data in this order.
        objective: ``sequence``, ``listwise``, ``pointwise``, ...
        label: what is learned at a labelled place, for example ``title`` or ``top5``.
        template: name of the prompt template; not in the identity.
        template_hash: SHA-256 of the template.
        text: settings of prompts and titles (history length, title length, ...).
        lora: shape of the adapter, a mapping or a pydantic model.
        training: optimiser and schedule, likewise.
        init_seed: seed of the shared initialisation.
        order_seed: seed of the order of the examples.
        negatives_seed: seed of rows and negatives drawn for training.
        trainer_version: version of the training code.
        dtype: number format in which it is trained.
    """

    recipe_kind: ClassVar[str] = "trained"
    names: ClassVar[frozenset[str]] = frozenset({"backbone", "template"})

    backbone: str
    backbone_hash: str
    mixture: tuple[MixturePart, ...] = Field(min_length=1)
    objective: str
    label: str = ""
    template: str = ""
    template_hash: str
    text: Mapping[str, JsonValue] = Field(default_factory=dict)
    lora: Mapping[str, JsonValue]
    training: Mapping[str, JsonValue]
    init_seed: int = Field(default=0, ge=0)
    order_seed: int = Field(default=0, ge=0)
    negatives_seed: int = Field(default=0, ge=0)
    trainer_version: int = Field(ge=1)
    dtype: str = "float32"

    _settings = field_validator("text", "lora", "training", mode="before")(_plain)

    @field_validator("mixture")
    @classmethod
    def _in_one_order(cls, value: tuple[MixturePart, ...]) -> tuple[MixturePart, ...]:
        return tuple(sorted(value, key=lambda part: canonical_json(part.model_dump())))

    @property
    def domains(self) -> tuple[str, ...]:
        """Names of the domains of the mixture, in its order."""
        return tuple(part.domain for part in self.mixture)

    @property
    def init(self) -> InitSpec:
        """The recipe of its initialisation."""
        return InitSpec(backbone_hash=self.backbone_hash, lora=self.lora, init_seed=self.init_seed)

    @property
    def summary(self) -> str:
        """One line for people."""
        sizes = " + ".join(f"{part.n_examples:,}" for part in self.mixture)
        return f"{' + '.join(self.domains)}, {self.objective}, {sizes} examples"


class MergedSpec(_Base):
    """An adapter computed from others, without training.

    Attributes:
        method: how they are merged.
        parents: ids of the merged adapters, in the order that ``parameters`` refers to; sort them
            if the order does not matter, so that the result is shared.
        parameters: everything else that decides the result (weights, density, seeds, ...).
        merger_version: version of the merging code.
        name: one line for people; not in the identity.
    """

    recipe_kind: ClassVar[str] = "merged"
    names: ClassVar[frozenset[str]] = frozenset({"name"})

    method: str
    parents: tuple[str, ...] = Field(min_length=1)
    parameters: Mapping[str, JsonValue] = Field(default_factory=dict)
    merger_version: int = Field(default=1, ge=1)
    name: str = ""

    _parameters = field_validator("parameters", mode="before")(_plain)

    @property
    def lineage(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self.parents))

    @property
    def summary(self) -> str:
        """One line for people."""
        return self.name or f"{self.method} of {', '.join(p[:8] for p in self.parents)}"
