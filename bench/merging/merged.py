"""What a merging method receives beside its options, and what it yields module by module."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from bench.merging.adapter import Adapter, Factors

if TYPE_CHECKING:
    import torch

__all__ = ["Part", "Setting", "canonical", "key_generator"]

Value = TypeVar("Value")


class Part(NamedTuple):
    """The merged factors of one module.

    Attributes:
        factors: float32 factors, before they take the dtype of the inputs.
        error: Frobenius norm of what truncation cut off; 0.0 where nothing was cut.
        norm: Frobenius norm of the update before truncation, in the result's scaling; 0.0 where no
            truncation was asked for.
    """

    factors: Factors
    error: float = 0.0
    norm: float = 0.0


@dataclass(frozen=True, slots=True)
class Setting:
    """What a method receives beside adapters and options.

    Attributes:
        seed: names every random draw together with what is drawn; there is no shared generator.
        init: the common initialisation of the adapters, where a method measures factors against it.
        notes: facts for the metadata that the method adds to, by name.
        warnings: sentences for the user that the method adds to.
    """

    seed: int = 0
    init: Adapter | None = None
    notes: dict[str, object] = field(default_factory=dict)
    warnings: list[str] = field(default_factory=list)


def canonical(
    adapters: Sequence[Adapter], values: Sequence[Value]
) -> tuple[list[Adapter], list[Value]]:
    """Adapters and their values in the order of the adapters' keys.

    Floating-point sums depend on the order of their terms; in this one a merge is bit-equal however
    the adapters were given.
    """
    order = sorted(range(len(adapters)), key=lambda i: (adapters[i].merge_key, i))
    return [adapters[i] for i in order], [values[i] for i in order]


def key_generator(*key: object) -> torch.Generator:
    """A CPU generator seeded by SHA-256 of ``key``, so that draws depend on nothing else."""
    import hashlib

    import torch

    from bench.io import canonical_json

    digest = hashlib.sha256(canonical_json(list(key))).digest()
    # torch takes 64-bit seeds; the sign bit stays clear.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
