"""The merging methods as their options: frozen, with documented defaults, unknown keys rejected.

Importing this module loads no torch: a merger imports what computes in :meth:`MergeConfig.parts`. If several adapters go in, options that hold a value per adapter
follow the order in which the adapters are given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from bench.errors import ConfigError, MethodError

if TYPE_CHECKING:
    from bench.merging.adapter import Adapter
    from bench.merging.merged import Part, Setting

__all__ = [
    "DareConfig",
    "ExtSubConfig",
    "LoraLegoConfig",
    "MergeConfig",
    "Space",
    "TaskArithmeticConfig",
    "TiesConfig",
    "WeightAverageConfig",
    "check_weights",
]

Space = Literal["factor", "product"]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Rank = Annotated[int, Field(ge=1)]


def _sums_to_one(weights: tuple[float, ...] | None) -> tuple[float, ...] | None:
    total = math.fsum(weights) if weights is not None else 1.0
    if abs(total - 1.0) > 1e-6:
        raise ValueError(
            f"weights that sum to 1, these sum to {total:.6g} "
            "(task-arithmetic takes coefficients with any sum)"
        )
    return weights


Shares = Annotated[tuple[Finite, ...] | None, AfterValidator(_sums_to_one)]


def check_weights(
    weights: Sequence[float] | None, n: int, uniform: float, what: str = "adapters"
) -> tuple[float, ...]:
    """One weight per adapter; None stands for ``uniform`` everywhere.

    Raises:
        ConfigError: another number of weights than ``n``.
    """
    if weights is None:
        return (uniform,) * n
    if len(weights) != n:
        raise ConfigError(
            f"{len(weights)} weights for {n} {what}; give one per adapter, in their order."
        )
    return tuple(weights)


class MergeConfig(BaseModel):
    """A merging method: its options, and what it does with them.

    The first line of the docstring is its description in listings.

    Attributes:
        has_expert: whether the first adapter has a role of its own; else the order means nothing.
        pools_ranks: whether the ranks of all adapters are taken apart, so that their numbers may differ and
            the result has no initialisation in common with them.
        entrywise: whether products are merged entry by entry, so that dense ones are formed.
        numbers_per_second: numbers of its adapters that it reads, merges and writes per second, for
            estimates.
        profiles: options that a profile of the methods changes, by profile.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    has_expert: ClassVar[bool] = False
    pools_ranks: ClassVar[bool] = False
    entrywise: ClassVar[bool] = False
    numbers_per_second: ClassVar[float] = 40e6
    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {}

    @property
    def on_factors(self) -> bool:
        """Whether the result depends on how each update is split into factors."""
        return self.pools_ranks

    def parts(self, adapters: Sequence[Adapter], setting: Setting) -> Iterator[tuple[str, Part]]:
        """Merge adapters that fit together, module by module.

        Args:
            adapters: all with the same modules.
            setting: the seed, and where notes and warnings go.

        Yields:
            Module name and merged factors, see :class:`bench.merging.merged.Part`.

        Raises:
            MethodError: the class does not say how.
        """
        raise MethodError(
            f"merger {type(self).__name__} does not say how it merges; define parts()."
        )

    def check_inputs(self, ranks: Sequence[int]) -> None:
        """Check that the options fit so many adapters of these ranks; known before any is trained.

        Raises:
            ConfigError: they do not.
        """


class _TwoSpaces(MergeConfig):
    """Options of the methods that act on factors or on products.

    Attributes:
        space: ``factor`` treats A and B as two independent tensors and keeps the rank; it needs adapters
            trained from one initialisation. ``product`` acts on the updates s B A.
        rank: rank of a merge in product space; None keeps the sum of the ranks. A smaller rank cuts
            the singular values and the error is reported.
    """

    space: Space = "factor"
    rank: Rank | None = None

    @property
    def on_factors(self) -> bool:
        """Whether the result depends on how each update is split into factors."""
        return self.space == "factor"

    @model_validator(mode="after")
    def _rank_needs_products(self) -> _TwoSpaces:
        if self.rank is not None and self.space == "factor":
            raise ValueError("no rank in factor space, which keeps the rank; or space=product")
        return self


class WeightAverageConfig(_TwoSpaces):
    """Weight average: the mean of the adapters (WeaveRec, Eq. 5-7 and 10-11).

    Attributes:
        space: ``factor`` averages A and B separately (the paper's equations), ``product`` the updates
            s B A (the authors' code), exact as stacked factors of rank sum of r.
        weights: one share per adapter, sum 1; None is 1/M each.
        rank: rank of a merge in product space; None keeps the sum of the ranks, exactly.
    """

    weights: Shares = None

    profiles: ClassVar[Mapping[str, Mapping[str, Any]]] = {"paper-as-run": {"space": "product"}}

    def parts(self, adapters: Sequence[Adapter], setting: Setting) -> Iterator[tuple[str, Part]]:
        """Merge by :func:`bench.merging.weight_average.merge_weight_average`."""
        from bench.merging.weight_average import merge_weight_average

        return merge_weight_average(adapters, self, setting)

    def check_inputs(self, ranks: Sequence[int]) -> None:
        """Check that there is one weight per adapter.

        Raises:
            ConfigError: there is not.
        """
        check_weights(self.weights, len(ranks), 0.0)


class TaskArithmeticConfig(MergeConfig):
    """Task arithmetic: the sum of coefficient times update (Ilharco et al., 2023).

    Attributes:
        scale: the coefficient lambda of every adapter; may be negative.
        weights: further factors, one per adapter that is not the reference; None is 1 each.
        reference: position (0-based) of an adapter R that the others are measured against,
            ``R + sum lambda (D - R)``; None measures them against the base model.
        rank: rank of the result; None keeps the sum of the ranks, exactly.
    """

    scale: Finite = 0.3
    weights: tuple[Finite, ...] | None = None
    reference: Annotated[int, Field(ge=0)] | None = None
    rank: Rank | None = None

    def parts(self, adapters: Sequence[Adapter], setting: Setting) -> Iterator[tuple[str, Part]]:
        """Merge by :func:`bench.merging.task_arithmetic.merge_task_arithmetic`."""
        from bench.merging.task_arithmetic import merge_task_arithmetic

        return merge_task_arithmetic(adapters, self, setting)

    def check_inputs(self, ranks: Sequence[int]) -> None:
        """Check that the reference is one of the adapters, and that each other one has a weight.

        Raises:
            ConfigError: it is not, or they have not.
        """
        n, reference = len(ranks), self.reference
        if reference is None:
            check_weights(self.weights, n, 0.0)
            return
        if reference >= n:
            raise ConfigError(
                f"reference={reference} with {n} adapters; it is the position of one of them, counted "
                f"from 0, so at most {n - 1}."
            )
        check_weights(self.weights, n - 1, 0.0, "adapters beside the reference")


class TiesConfig(_TwoSpaces):
    """TIES: trim, elect signs, merge the entries that agree (Yadav et al., 2023).

    Attributes:
        space: ``factor`` acts on A and B, ``product`` on the updates s B A, module by module.
        density: share of entries of largest magnitude that trimming keeps, in (0, 1].
        trim: ``global`` ranks the entries of a whole adapter (the paper), ``tensor`` those of each
            tensor (PEFT, mergekit). None is ``tensor`` for factors measured against zero, where A is
            several times larger than B so that a common threshold would leave nothing of B, and
            ``global`` otherwise.
        merge: ``mean``, ``sum`` or ``max`` (largest magnitude) of the entries with the elected sign.
        scale: factor lambda of the merged update.
        factor_reference: what factors are measured against in factor space: ``zero`` (as PEFT does),
            or ``init``, the common initialisation, which must then be given.
        rank: rank of a merge in product space; None takes the sum of the ranks.
    """

    density: Annotated[float, Field(gt=0, le=1)] = 0.2
    trim: Literal["global", "tensor"] | None = None
    merge: Literal["mean", "sum", "max"] = "mean"
    scale: Finite = 1.0
    factor_reference: Literal["zero", "init"] = "zero"

    entrywise: ClassVar[bool] = True
    numbers_per_second: ClassVar[float] = 20e6

    def parts(self, adapters: Sequence[Adapter], setting: Setting) -> Iterator[tuple[str, Part]]:
        """Merge by :func:`bench.merging.ties.merge_ties`."""
        from bench.merging.ties import merge_ties

        return merge_ties(adapters, self, setting)

    @property
    def scope(self) -> Literal["global", "tensor"]:
        """The trim in use."""
        if self.trim is not None:
            return self.trim
        raw = self.space == "factor" and self.factor_reference == "zero"
        return "tensor" if raw else "global"

    @model_validator(mode="after")
    def _reference_needs_factors(self) -> TiesConfig:
        _check_reference(self.space, self.factor_reference)
        return self


class DareConfig(_TwoSpaces):
    """DARE: drop entries at random, rescale the rest, then merge (Yu et al., 2024).

    Attributes:
        space: ``factor`` drops entries of A and of B independently, ``product`` those of s B A.
        drop_rate: share p of entries to drop, in [0, 1); None is 0.2 in factor space, 0.5 in product
            space. The others are multiplied by 1 / (1 - p).
        inner: what merges the rescaled adapters: ``linear`` (weighted average) or ``ties`` (sign
            election and mean of the agreeing entries).
        density: with ``inner=ties`` the share of entries of largest magnitude, those dropped counted as
            zeros, that trimming keeps of each rescaled adapter. 1 trims nothing, dropping takes the
            place of trimming; the authors' code drops and trims, by default to 0.2.
        weights: shares of ``inner=linear``, one per adapter, sum 1; None is 1/M each.
        scale: factor of the merged update.
        factor_reference: what factors are measured against in factor space: ``zero`` (as PEFT does),
            or ``init``, the common initialisation, which must then be given.
        draw: number of the random masks, >= 0: others for the same seed, from the same adapters.
        rank: rank of a merge in product space; None takes the sum of the ranks.
    """

    drop_rate: Annotated[float, Field(ge=0, lt=1)] | None = None
    inner: Literal["linear", "ties"] = "linear"
    density: Annotated[float, Field(gt=0, le=1)] = 1.0
    weights: Shares = None
    scale: Finite = 1.0
    factor_reference: Literal["zero", "init"] = "zero"
    draw: Annotated[int, Field(ge=0)] = 0

    entrywise: ClassVar[bool] = True

    def parts(self, adapters: Sequence[Adapter], setting: Setting) -> Iterator[tuple[str, Part]]:
        """Merge by :func:`bench.merging.dare.merge_dare`."""
        from bench.merging.dare import merge_dare

        return merge_dare(adapters, self, setting)

    @property
    def p(self) -> float:
        """The drop rate in use."""
        if self.drop_rate is not None:
            return self.drop_rate
        return 0.2 if self.space == "factor" else 0.5

    @model_validator(mode="after")
    def _fitting_options(self) -> DareConfig:
        _check_reference(self.space, self.factor_reference)
        if self.inner == "ties" and self.weights is not None:
            raise ValueError("no weights with inner=ties, which counts agreeing adapters alike")
        if self.inner == "linear" and self.density != 1:
            raise ValueError("density=1 with inner=linear, which trims nothing")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, serialise: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values: dict[str, Any] = serialise(self)
        # Merges without trimming are known by the options that there were before it.
        if values.get("density") == 1:
            del values["density"]
        return values

    def check_inputs(self, ranks: Sequence[int]) -> None:
        """Check that there is one weight per adapter.

        Raises:
            ConfigError: there is not.
        """
        check_weights(self.weights, len(ranks), 0.0)


class ExtSubConfig(MergeConfig):
    """Ext-Sub: subtract what an anti-expert does not share with the expert (Hu et al., 2024).

    The first adapter is the expert, the others are anti-experts; more than one is an extension of the
    original, the mean of their contributions.

    Attributes:
        alpha: strength of the subtraction (or addition).
        mode: ``subtract`` the part outside the common direction of each row, or ``add_common`` the
            part along it.
        rank: rank of the result; None keeps the sum of the ranks, exactly.
    """

    alpha: Finite = 1.0
    mode: Literal["subtract", "add_common"] = "subtract"
    rank: Rank | None = None

    has_expert: ClassVar[bool] = True

    def parts(self, adapters: Sequence[Adapter], setting: Setting) -> Iterator[tuple[str, Part]]:
        """Merge by :func:`bench.merging.ext_sub.merge_ext_sub`."""
        from bench.merging.ext_sub import merge_ext_sub

        return merge_ext_sub(adapters, self, setting)

    def check_inputs(self, ranks: Sequence[int]) -> None:
        """Check that there is an expert and another adapter.

        Raises:
            ConfigError: there is not.
        """
        if len(ranks) < 2:
            raise ConfigError(
                f"ext-sub got {len(ranks)} adapter; give the expert first, then at least one other."
            )


class LoraLegoConfig(MergeConfig):
    """LoRA-LEGO: cluster the ranks of all adapters, centroids become the ranks (Zhao et al., 2025).

    Attributes:
        k: rank of the result; None is the largest rank that goes in.
        normalise_halves: cluster units whose two halves have length one each; centroids are means of
            the raw units either way.
        parameter_reweighting: restore the largest magnitude that averaging shrinks.
        output_reweighting: multiply the update by sqrt(r / k), r the mean rank of the inputs.
        max_factor: bound of the parameter reweighting, for clusters of units that cancel out.
        n_init: restarts of k-means.
        max_iter: steps of one k-means run.
    """

    k: Rank | None = None
    normalise_halves: bool = False
    parameter_reweighting: bool = True
    output_reweighting: bool = True
    max_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)] = 10.0
    n_init: Annotated[int, Field(ge=1)] = 10
    max_iter: Annotated[int, Field(ge=1)] = 300

    pools_ranks: ClassVar[bool] = True
    numbers_per_second: ClassVar[float] = 5e6

    def parts(self, adapters: Sequence[Adapter], setting: Setting) -> Iterator[tuple[str, Part]]:
        """Merge by :func:`bench.merging.lora_lego.merge_lora_lego`."""
        from bench.merging.lora_lego import merge_lora_lego

        return merge_lora_lego(adapters, self, setting)

    def check_inputs(self, ranks: Sequence[int]) -> None:
        """Check that there are enough units to cluster.

        Raises:
            ConfigError: there are fewer than k.
        """
        total = sum(ranks)
        if self.k is not None and self.k > total:
            raise ConfigError(
                f"k={self.k} clusters of {total} units (ranks {list(ranks)}); choose k of at most {total}."
            )


def _check_reference(space: Space, reference: str) -> None:
    if space == "product" and reference == "init":
        raise ValueError(
            "factor_reference=zero in product space, where the initialisation adds nothing"
        )
