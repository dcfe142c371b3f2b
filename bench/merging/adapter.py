"""The value that merging takes and gives: a LoRA adapter as named pairs of factors.

One adapted linear layer with weight W (d_out, d_in) holds two factors, A (r, d_in) and B (d_out, r);
its update is D = s B A. The scaling s is one number for all modules; a module may have a smaller rank
than others. Everything else of a PEFT folder is either the same for all modules
(:class:`AdapterConfig`) or refused when it is read (:mod:`bench.merging.peft_config`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.errors import ConfigError
from bench.io import canonical_json

if TYPE_CHECKING:
    import torch

__all__ = ["Adapter", "AdapterConfig", "Factors", "padded"]


class Factors(NamedTuple):
    """The two factors of one module.

    Attributes:
        a: float tensor (r, d_in), applied first.
        b: float tensor (d_out, r), applied to the outcome.
    """

    a: torch.Tensor
    b: torch.Tensor


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """What all modules of an adapter share.

    Attributes:
        r: largest rank of a module, at least 1.
        alpha: numerator of the scaling, positive; the update is ``alpha / r * B A``.
        base_model: name or path of the model the adapter was trained on; None if unknown.
        base_hash: hash of that model's content; None if unknown.
        init_hash: hash of the initialisation that training started from; None if unknown.
            Adapters may be merged factor by factor if it is the same for all.
        peft: the other keys of ``adapter_config.json`` that a copy must repeat, for example
            ``target_modules`` and ``task_type``.
    """

    r: int
    alpha: float
    base_model: str | None = None
    base_hash: str | None = None
    init_hash: str | None = None
    peft: Mapping[str, Any] = field(default_factory=dict)

    @property
    def scaling(self) -> float:
        """The factor s of the update s B A."""
        return self.alpha / self.r


@dataclass(frozen=True)
class Adapter:
    """A LoRA adapter in memory.

    Attributes:
        factors: factors by module name (``model.layers.0.self_attn.q_proj``), sorted by name, all of
            one dtype (float32, float16 or bfloat16), the largest of rank ``config.r``.
        config: what the modules share.
        name: how messages call it, for example its folder.
        sha256: SHA-256 of the file the factors were read from; None for an adapter made in memory.
        key: what names the adapter where random masks are drawn and where the order of summation is
            fixed; None stands for :attr:`content_hash`.
        metadata: what is known about its origin, JSON-serialisable; written to ``bench_adapter.json``.

    Raises:
        ConfigError: no module, a factor that is not a float matrix, several dtypes, or shapes that do
            not fit the rank.
    """

    factors: Mapping[str, Factors]
    config: AdapterConfig
    name: str = "adapter"
    sha256: str | None = None
    key: str | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        ordered = {module: Factors(*self.factors[module]) for module in sorted(self.factors)}
        object.__setattr__(self, "factors", ordered)
        _check(self)

    @property
    def modules(self) -> tuple[str, ...]:
        """Names of the adapted modules, sorted."""
        return tuple(self.factors)

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of all factors."""
        return next(iter(self.factors.values())).a.dtype

    @property
    def scaling(self) -> float:
        """The factor s of the update s B A."""
        return self.config.scaling

    @cached_property
    def content_hash(self) -> str:
        """SHA-256 of names, shapes, dtypes and values of the factors; the scaling is not in it."""
        import torch

        digest = hashlib.sha256()
        for module, pair in self.factors.items():
            for part, tensor in zip("AB", pair, strict=True):
                digest.update(canonical_json([module, part, str(tensor.dtype), [*tensor.shape]]))
                digest.update(tensor.contiguous().view(torch.uint8).numpy().data)
        return digest.hexdigest()

    @property
    def merge_key(self) -> str:
        """``key``, or the content's hash if none was given."""
        return self.key or self.content_hash

    def delta(self, module: str) -> torch.Tensor:
        """The update s B A of one module, float32 (d_out, d_in)."""
        a, b = self.factors[module]
        return self.scaling * (b.float() @ a.float())


def padded(pair: Factors, r: int) -> Factors:
    """The same product of rank ``r``, at least that of the pair: rows and columns of zeros are added."""
    missing = r - len(pair.a)
    if not missing:
        return pair
    from torch.nn.functional import pad

    return Factors(pad(pair.a, (0, 0, 0, missing)), pad(pair.b, (0, missing)))


def _check(adapter: Adapter) -> None:
    r = adapter.config.r
    if not adapter.factors:
        raise ConfigError(f"{adapter.name}: no adapted module; a LoRA adapter has at least one.")
    if r < 1 or not 0 < adapter.config.alpha < float("inf"):
        raise ConfigError(
            f"{adapter.name}: rank {r} and alpha {adapter.config.alpha}; expected a rank of at least "
            "1 and a positive, finite alpha."
        )
    dtypes, ranks = set(), set()
    for module, (a, b) in adapter.factors.items():
        dtypes |= {a.dtype, b.dtype}
        if a.ndim != 2 or b.ndim != 2 or len(a) != b.shape[1] or len(a) > r:
            raise ConfigError(
                f"{adapter.name}: module {module} has factors of shapes {tuple(a.shape)} and "
                f"{tuple(b.shape)}; expected ({r}, d_in) and (d_out, {r}), the rank being {r}."
            )
        ranks.add(len(a))
    if max(ranks) != r:
        raise ConfigError(
            f"{adapter.name}: the largest rank of a module is {max(ranks)}, expected the rank being {r}."
        )
    if len(dtypes) > 1 or not next(iter(dtypes)).is_floating_point:
        listed = ", ".join(sorted(map(str, dtypes)))
        raise ConfigError(
            f"{adapter.name}: factors of dtypes {listed}; expected one floating-point dtype."
        )
