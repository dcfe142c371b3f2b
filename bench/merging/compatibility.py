"""Which adapters may be merged: the same base, the same modules, and one initialisation for factors."""

from __future__ import annotations

from collections.abc import Sequence

from bench.errors import ConfigError
from bench.merging.adapter import Adapter

__all__ = ["check_compatible", "check_init", "check_same_init"]

_SHOWN = 3


def check_compatible(adapters: Sequence[Adapter]) -> list[str]:
    """Refuse adapters of different bases or modules.

    Returns:
        Warnings: sentences about what could not be checked.

    Raises:
        ConfigError: no adapter, different bases, modules or shapes; the message names both adapters.
    """
    if not adapters:
        raise ConfigError("no adapter to merge; give at least one PEFT folder.")
    first = adapters[0]
    for other in adapters[1:]:
        _check_base(first, other)
        _check_modules(first, other)
    unknown = [adapter.name for adapter in adapters if not adapter.config.base_model]
    if unknown and len(adapters) > 1:
        return [f"{', '.join(unknown)}: no base model is named; taken to be that of the others."]
    return []


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
        if same_rank and other.config.r != first.config.r:
            raise ConfigError(
                f"{first.name} has rank {first.config.r}, {other.name} rank {other.config.r}; merging "
                "in factor space needs one rank. Use space=product."
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
    _check_modules(adapters[0], init)
    known = {adapters[0].config.init_hash, init.config.init_hash} - {None}
    if len(known) > 1:
        raise ConfigError(
            f"{init.name} is initialisation {_short(init)}, {adapters[0].name} was trained from "
            f"{_short(adapters[0])}; give the folder of the latter."
        )
    for module, pair in init.factors.items():
        if pair.a.shape[0] != adapters[0].config.r:
            raise ConfigError(
                f"{init.name} has rank {pair.a.shape[0]}, {adapters[0].name} rank "
                f"{adapters[0].config.r}; give the initialisation of these adapters."
            )
        if bool(pair.b.any()):
            raise ConfigError(
                f"{init.name}: B of module {module} is not zero, so this adapter was trained; give the "
                "folder of the initialisation."
            )


def _check_base(first: Adapter, other: Adapter) -> None:
    one, two = first.config, other.config
    if one.base_hash and two.base_hash:
        same = one.base_hash == two.base_hash
    else:
        revisions = {one.peft.get("revision"), two.peft.get("revision")} - {None}
        names = {one.base_model, two.base_model} - {None, ""}
        same = len(names) < 2 and len(revisions) < 2
    if not same:
        raise ConfigError(
            f"{first.name} was trained on {_base(first)}, {other.name} on {_base(other)}; only "
            "adapters of one base model can be merged. If the two names mean the same model, make "
            "base_model_name_or_path (and revision) equal in their adapter_config.json."
        )


def _check_modules(first: Adapter, other: Adapter) -> None:
    for one, two in ((first, other), (other, first)):
        missing = [module for module in one.factors if module not in two.factors]
        if missing:
            listed = ", ".join(missing[:_SHOWN])
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise ConfigError(
                f"{one.name} adapts {listed}{more}, {two.name} does not; only adapters of the same "
                "modules can be merged. Train them with the same target_modules."
            )
    for module, own in first.factors.items():
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
