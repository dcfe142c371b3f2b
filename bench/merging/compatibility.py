"""Which adapters may be merged: of one base, and for factors of the same modules and initialisation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from bench.errors import ConfigError
from bench.merging.adapter import Adapter, Factors
from bench.merging.bases import same_base

__all__ = ["aligned", "check_compatible", "check_init", "check_same_init"]

_SHOWN = 3


def check_compatible(
    adapters: Sequence[Adapter], *, products: bool = False, assume_same_base: bool = False
) -> list[str]:
    """Refuse adapters of different bases, sizes or, for factors, modules.

    Args:
        adapters: what is to be merged.
        products: whether updates are merged, of which a module that is not adapted has that of zero.
        assume_same_base: take different bases for the same.

    Returns:
        Warnings: sentences about what could not be checked, and about modules taken for zero.

    Raises:
        ConfigError: no adapter, different bases, modules or shapes; the message names both adapters.
    """
    if not adapters:
        raise ConfigError("no adapter to merge; give at least one PEFT folder.")
    first, warnings = adapters[0], []
    for i, other in enumerate(adapters):
        for earlier in adapters[:i]:
            if not assume_same_base:
                _check_base(earlier, other)
            _check_sizes(earlier, other)
        if not products:
            _check_modules(first, other)
    unknown = [adapter.name for adapter in adapters if not adapter.config.base_model]
    if unknown and len(adapters) > 1:
        warnings.append(
            f"{', '.join(unknown)}: no base model is named; taken to be that of the others."
        )
    if assume_same_base and not all(same_base(first.config, one.config) for one in adapters):
        warnings.append("the adapters name different base models; taken for the same.")
    everything = {module for adapter in adapters for module in adapter.factors}
    warnings += [
        f"{adapter.name}: adapts {len(adapter.factors)} of {len(everything)} modules; its update of the "
        "others is zero."
        for adapter in adapters
        if len(adapter.factors) < len(everything)
    ]
    return warnings


def aligned(adapters: Sequence[Adapter]) -> list[Adapter]:
    """The same adapters over all modules that any of them adapts, of rank 0 if it adapts none."""
    sizes = {
        module: (len(pair.b), pair.a.shape[1])
        for adapter in adapters
        for module, pair in adapter.factors.items()
    }
    filled = []
    for adapter in adapters:
        some = next(iter(adapter.factors.values())).a
        missing = {
            module: Factors(some.new_zeros(0, d_in), some.new_zeros(d_out, 0))
            for module, (d_out, d_in) in sizes.items()
            if module not in adapter.factors
        }
        # The key stays, which names random masks and the order of sums.
        filled.append(
            replace(adapter, factors={**adapter.factors, **missing}, key=adapter.merge_key)
            if missing
            else adapter
        )
    return filled


def check_same_init(adapters: Sequence[Adapter], *, same_rank: bool, assume: bool) -> None:
    """Refuse to merge factors of adapters that were not trained from one initialisation.

    Factors are not unique: (B R, R^-1 A) is the same adapter for any invertible R. Only a common start
    makes rank j of one adapter comparable with rank j of another.

    Args:
        adapters: what is to be merged.
        same_rank: whether the method also needs one rank.
        assume: take unknown or different initialisations for the same.

    Raises:
        ConfigError: different ranks, or initialisations that differ or are unknown.
    """
    first = adapters[0]
    for other in adapters[1:]:
        for module, pair in first.factors.items() if same_rank else ():
            ranks = len(pair.a), len(other.factors[module].a)
            if ranks[0] != ranks[1]:
                raise ConfigError(
                    f"{first.name} has rank {ranks[0]}, {other.name} rank {ranks[1]} in module {module}; "
                    "merging in factor space needs one rank. Use space=product."
                )
    if assume or len(adapters) == 1:
        return
    unknown = [adapter.name for adapter in adapters if not adapter.config.init_hash]
    if unknown:
        raise ConfigError(
            f"{', '.join(unknown)}: the initialisation is unknown (no init_hash in "
            "bench_adapter.json), and merging factors needs adapters trained from one. Use a method "
            "or space that acts on products (space=product, task-arithmetic, ext-sub), or "
            "--assume-shared-init if you know that they share it."
        )
    for other in adapters[1:]:
        if other.config.init_hash != first.config.init_hash:
            raise ConfigError(
                f"{first.name} was trained from initialisation {_short(first)}, {other.name} from "
                f"{_short(other)}; merging factors needs adapters trained from one. Use a method or "
                "space that acts on products (space=product, task-arithmetic, ext-sub), or train them "
                "with one init seed."
            )


def check_init(init: Adapter, adapters: Sequence[Adapter]) -> None:
    """Refuse an initialisation that is not that of the adapters.

    Raises:
        ConfigError: other modules, shapes or hash, or a B that is not zero.
    """
    _check_sizes(adapters[0], init)
    _check_modules(adapters[0], init)
    known = {adapters[0].config.init_hash, init.config.init_hash} - {None}
    if len(known) > 1:
        raise ConfigError(
            f"{init.name} is initialisation {_short(init)}, {adapters[0].name} was trained from "
            f"{_short(adapters[0])}; give the folder of the latter."
        )
    for module, pair in init.factors.items():
        wanted = len(adapters[0].factors[module].a)
        if len(pair.a) != wanted:
            raise ConfigError(
                f"{init.name} has rank {len(pair.a)}, {adapters[0].name} rank {wanted} in module "
                f"{module}; give the initialisation of these adapters."
            )
        if bool(pair.b.any()):
            raise ConfigError(
                f"{init.name}: B of module {module} is not zero, so this adapter was trained; give the "
                "folder of the initialisation."
            )


def _check_base(first: Adapter, other: Adapter) -> None:
    if not same_base(first.config, other.config):
        raise ConfigError(
            f"{first.name} was trained on {_base(first)}, {other.name} on {_base(other)}; only "
            "adapters of one base model can be merged. If you know that the two are the same model, "
            "use --assume-same-base."
        )


def _check_modules(first: Adapter, other: Adapter) -> None:
    for one, two in ((first, other), (other, first)):
        missing = [module for module in one.factors if module not in two.factors]
        if missing:
            listed = ", ".join(missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise ConfigError(
                f"{one.name} adapts {listed}{more}, {two.name} does not; factors are only merged over "
                "the same modules. Use a method or space that acts on products (space=product, "
                "task-arithmetic, ext-sub), where the missing update is zero."
            )


def _check_sizes(first: Adapter, other: Adapter) -> None:
    for module, own in first.factors.items():
        if module not in other.factors:
            continue
        sizes = [(len(pair.b), pair.a.shape[1]) for pair in (own, other.factors[module])]
        if sizes[0] != sizes[1]:
            raise ConfigError(
                f"module {module} has size {sizes[0]} in {first.name} and {sizes[1]} in {other.name}; "
                "they belong to different base models."
            )


def _base(adapter: Adapter) -> str:
    config = adapter.config
    revision = config.peft.get("revision")
    name = f"{config.base_model!r}" + (f" (revision {revision})" if revision else "")
    return name + (f" [content {config.base_hash[:12]}]" if config.base_hash else "")


def _short(adapter: Adapter) -> str:
    return (adapter.config.init_hash or "unknown")[:12]
