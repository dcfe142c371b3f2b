"""The merging methods by name, and the one function that runs them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError

from bench.errors import ConfigError, MethodError, did_you_mean, unknown_name
from bench.merging.adapter import Adapter, AdapterConfig, Factors, padded
from bench.merging.compatibility import aligned, check_compatible, check_init, check_same_init
from bench.merging.configs import MergeConfig, check_weights
from bench.merging.merged import Part, Setting
from bench.registry import Registry

__all__ = ["DTYPES", "MERGERS", "fold_weights", "make_config", "merge", "merging_name"]

DTYPES = ("float32", "bfloat16", "float16")
"""Number formats in which a result is stored."""

_CONFIGS = "bench.merging.configs"

MERGERS: Registry[type[MergeConfig]] = Registry(
    "merger",
    {
        "weight-average": f"{_CONFIGS}:WeightAverageConfig",
        "task-arithmetic": f"{_CONFIGS}:TaskArithmeticConfig",
        "ties": f"{_CONFIGS}:TiesConfig",
        "dare": f"{_CONFIGS}:DareConfig",
        "ext-sub": f"{_CONFIGS}:ExtSubConfig",
        "lora-lego": f"{_CONFIGS}:LoraLegoConfig",
    },
)
"""The mergers; a new one is a subclass of :class:`MergeConfig` in a file of its own, and a line here."""


def merging_name(merger: str) -> str:
    """Name of the method that merges single-domain adapters so."""
    return "merge-average" if merger == "weight-average" else f"merge-{merger}"


def make_config(method: str, values: Mapping[str, Any] | BaseModel | None = None) -> MergeConfig:
    """Check the options of a method.

    Args:
        method: name in :data:`MERGERS`.
        values: options by name, an instance of the method's class, or None for the defaults.

    Raises:
        ConfigError: unknown method or option (with suggestions), or a value out of range.
        MethodError: a plugin that is no merger.
    """
    cls = MERGERS.load(method)
    if not (isinstance(cls, type) and issubclass(cls, MergeConfig)):
        raise MethodError(
            f"merger {method!r} ({MERGERS.origin(method)}): found {cls!r}, expected a subclass of "
            "bench.merging.MergeConfig."
        )
    if isinstance(values, BaseModel):
        if not isinstance(values, cls):
            raise ConfigError(
                f"{method} got options of class {type(values).__name__}, expected {cls.__name__}."
            )
        return values
    given = dict(values or {})
    for key in given:
        if key not in cls.model_fields:
            raise ConfigError(
                f"{method} has no option {key!r}.{did_you_mean(key, cls.model_fields)} "
                f"Its options: {', '.join(sorted(cls.model_fields))}."
            )
    try:
        return cls.model_validate(given)
    except ValidationError as error:
        raise ConfigError(f"{method}: options not accepted. {_explain(error)}.") from error


def merge(
    adapters: Sequence[Adapter],
    method: str,
    config: Mapping[str, Any] | MergeConfig | None = None,
    *,
    seed: int = 0,
    assume_shared_init: bool = False,
    assume_same_base: bool = False,
    init: Adapter | None = None,
    dtype: str = "float32",
) -> Adapter:
    """Merge adapters into one; a pure function of its arguments.

    Computes in float32. The scaling of the result is the largest of the inputs', its alpha that scaling
    times the new rank; its modules have one rank, padded with zeros if inputs have several. In
    product space a module that an adapter does not adapt has an update of zero there.

    Args:
        adapters: at least one; the order matters for ``ext-sub`` (the expert first) and for options
            with a value per adapter, and otherwise not even in the last bit.
        method: name in :data:`MERGERS`.
        config: its options; see :mod:`bench.merging.configs`.
        seed: names the random draws of ``dare``, of k-means and of start vectors.
        assume_shared_init: merge factors although initialisations are unknown or differ.
        assume_same_base: take bases of different names or contents for the same.
        init: the common initialisation, for ``factor_reference=init``.
        dtype: number format of the result, one of :data:`DTYPES`. In a short one, factors of bfloat16 that were multiplied by
            a weight are rounded again, which costs about 0.5 % of what the update does to logits.

    Returns:
        The merged adapter. Its metadata hold method, options, seed, hashes of the inputs, the relative
        Frobenius error of truncation (None if nothing was cut) and warnings.

    Raises:
        ConfigError: unknown method, wrong options, or adapters that cannot be merged.
        MethodError: the result does not fit ``dtype``.
    """
    options = make_config(method, config)
    if dtype not in DTYPES:
        raise unknown_name("number format", dtype, DTYPES)
    factors = options.on_factors
    warnings = check_compatible(adapters, products=not factors, assume_same_base=assume_same_base)
    setting = Setting(seed, init, warnings=warnings)
    options.check_inputs([adapter.config.r for adapter in adapters])
    if factors:
        check_same_init(adapters, same_rank=not options.pools_ranks, assume=assume_shared_init)
    _check_reference(options, init, adapters)
    parts = options.parts(aligned(adapters), setting)
    # Sums of factors stay comparable with their inputs; clusters and products do not.
    inits = {adapter.config.init_hash for adapter in adapters}
    keeps_init = factors and not options.pools_ranks and len(inits) == 1
    metadata = {
        "kind": "merged",
        "method": method,
        "config": options.model_dump(mode="json"),
        "seed": seed,
        "assume_shared_init": assume_shared_init,
        "assume_same_base": assume_same_base,
    }
    init_hash = adapters[0].config.init_hash if keeps_init else None
    return _assemble(parts, adapters, setting, metadata, init_hash, dtype)


def fold_weights(adapters: Sequence[Adapter], weights: Mapping[str, Sequence[float]]) -> Adapter:
    """The exact sum of weight times update with weights by module, as stacked factors.

    This is how layer-wise coefficients (AdaMerging) become one adapter of rank sum of r.

    Args:
        adapters: of one base model.
        weights: for the name of every module that one of them adapts one number per adapter.

    Raises:
        ConfigError: adapters that cannot be merged, or weights for other modules or another number of
            adapters.
    """
    from bench.merging.linear import sum_of_products

    setting = Setting(warnings=check_compatible(adapters, products=True))
    whole = aligned(adapters)
    if set(weights) != set(whole[0].modules):
        raise ConfigError(
            f"weights for {len(weights)} modules, expected exactly the {len(whole[0].modules)} "
            f"modules of {', '.join(adapter.name for adapter in adapters)}."
        )
    rows = {module: check_weights(row, len(adapters), 1.0) for module, row in weights.items()}
    metadata = {
        "kind": "merged",
        "method": "fold-weights",
        "config": {"weights": {module: list(row) for module, row in sorted(weights.items())}},
        "seed": 0,
        "assume_shared_init": False,
    }
    parts = sum_of_products(whole, rows, None)
    return _assemble(parts, adapters, setting, metadata, None, "float32")


def _assemble(
    parts: Iterator[tuple[str, Part]],
    adapters: Sequence[Adapter],
    setting: Setting,
    metadata: Mapping[str, Any],
    init_hash: str | None,
    dtype: str,
) -> Adapter:
    merged_factors: dict[str, Factors] = {}
    cut: dict[str, tuple[float, float]] = {}
    for module, part in parts:
        merged_factors[module] = part.factors
        if part.norm:
            cut[module] = (part.error, part.norm)
    first = adapters[0].config
    r = max(len(pair.a) for pair in merged_factors.values())
    factors = {
        module: _stored(padded(pair, r), dtype, module) for module, pair in merged_factors.items()
    }
    named = next((adapter.config for adapter in adapters if adapter.config.base_model), first)
    hashes = {adapter.config.base_hash for adapter in adapters}
    merged = AdapterConfig(
        r=r,
        alpha=max(adapter.scaling for adapter in adapters) * r,
        base_model=named.base_model,
        base_hash=first.base_hash if len(hashes) == 1 else None,
        init_hash=init_hash,
        peft=_selection(adapters, tuple(factors)),
    )
    found = {
        **metadata,
        "inputs": [
            {"name": adapter.name, "sha256": adapter.sha256, "content_hash": adapter.content_hash}
            for adapter in adapters
        ],
        "truncation": _truncation(cut),
        "notes": dict(setting.notes),
        "warnings": list(setting.warnings),
    }
    return Adapter(factors, merged, name=str(metadata["method"]), metadata=found)


def _check_reference(
    options: MergeConfig, init: Adapter | None, adapters: Sequence[Adapter]
) -> None:
    wanted = getattr(options, "factor_reference", "zero") == "init"
    if wanted and init is None:
        raise ConfigError(
            "factor_reference=init needs the common initialisation of the adapters; give its folder "
            "(--init)."
        )
    if init is not None and not wanted:
        raise ConfigError(
            "an initialisation was given but is not used; set factor_reference=init (ties and dare "
            "in factor space) or leave it out."
        )
    if init is not None:
        check_init(init, adapters)


def _selection(adapters: Sequence[Adapter], modules: tuple[str, ...]) -> Mapping[str, Any]:
    """How PEFT finds the modules: as in the first adapter, or by name if the others have more."""
    peft = adapters[0].config.peft
    if adapters[0].modules == tuple(sorted(modules)):
        return peft
    others = ("exclude_modules", "layers_to_transform", "layers_pattern")
    kept = {key: value for key, value in peft.items() if key not in others}
    return {**kept, "target_modules": list(modules)}


def _stored(pair: Factors, dtype: str, module: str) -> Factors:
    import torch

    stored = Factors(*(tensor.to(getattr(torch, dtype)).contiguous() for tensor in pair))
    if not all(bool(torch.isfinite(tensor).all()) for tensor in stored):
        raise MethodError(
            f"module {module}: the merged factors do not fit torch.{dtype}; use smaller coefficients or "
            "dtype float32."
        )
    return stored


def _truncation(cut: Mapping[str, tuple[float, float]]) -> dict[str, Any] | None:
    """Relative error over all modules (root of summed squares), the largest, and one per module."""
    if not cut:
        return None
    each = {module: error / norm for module, (error, norm) in cut.items()}
    worst = max(each, key=lambda module: each[module])
    total = math.fsum(error**2 for error, _ in cut.values())
    norm = math.fsum(norm**2 for _, norm in cut.values())
    return {
        "relative_error": math.sqrt(total / norm),
        "largest": {"module": worst, "relative_error": each[worst]},
        "modules": each,
    }


def _explain(error: ValidationError) -> str:
    lines = []
    for item in error.errors(include_url=False):
        field = ".".join(map(str, item["loc"]))
        expected = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        found = f"{field}: found {item['input']!r}, " if field else ""
        lines.append(f"{found}expected {expected}")
    return "; ".join(lines)
