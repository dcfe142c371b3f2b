"""What a merging method receives beside its options, and what it yields module by module."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from bench.io import canonical_json
from bench.merging.adapter import Adapter, Factors

if TYPE_CHECKING:
    import torch

__all__ = ["Part", "Setting", "canonical", "key_bits", "key_generator"]

Value = TypeVar("Value")


class Part(NamedTuple):
    """The merged factors of one module.

    Attributes:
        factors: float32 factors, before they take the dtype of the inputs.
        error: Frobenius norm of what truncation cut off; 0.0 if nothing was cut.
        norm: Frobenius norm of the update before truncation, in the result's scaling; 0.0 if no
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
        init: the common initialisation of the adapters, if a method measures factors against it.
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
    """A CPU generator of torch seeded by ``key``, so that its draws depend on nothing else."""
    import torch

    # torch takes 64-bit seeds; the sign bit stays clear.
    return torch.Generator().manual_seed(_digest(key) >> 193)


def key_bits(n: int, *key: object) -> NDArray[np.int32]:
    """``n`` random integers in [0, 2^31), uniform, decided by ``key`` alone.

    The stream of NumPy's SFC64 is fixed across versions, and several times faster than floats.
    """
    raw = np.random.SFC64(_digest(key)).random_raw((n + 1) // 2)
    bits: NDArray[np.int32] = raw.astype("<u8", copy=False).view("<i4")[:n]
    bits &= 0x7FFFFFFF
    return bits


def _digest(key: tuple[object, ...]) -> int:
    return int.from_bytes(hashlib.sha256(canonical_json(list(key))).digest(), "big")
