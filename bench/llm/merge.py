"""Merging of stored adapters: what their metadata know of their origin goes to the merger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.errors import ConfigError
from bench.llm.adapters import AdapterSpec, AdapterStore, MergedSpec, StoredAdapter
from bench.merging import Adapter, make_config, merge, read_adapter, write_files
from bench.methods import Progress

__all__ = ["MERGER_VERSION", "check_settings", "merge_spec", "obtain_merge"]

# Part of a merged adapter's identity: raised whenever the same inputs give another adapter.
MERGER_VERSION = 1


def check_settings(method: str, settings: Mapping[str, Any]) -> None:
    """Refuse an unknown merging method or option, as a configuration error.

    Raises:
        ValueError: so that a configuration that holds them says where.
    """
    try:
        make_config(method, settings)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def merge_spec(
    parents: Sequence[str], method: str, settings: Mapping[str, Any], *, seed: int
) -> MergedSpec:
    """Recipe of a merge.

    Args:
        parents: ids of the merged adapters, in the order that per-adapter options refer to.
        method: name of a merging method, see :mod:`bench.merging`.
        settings: its options.
        seed: of its random draws.

    Raises:
        ConfigError: wrong options.
    """
    return MergedSpec(
        method=method,
        parents=tuple(parents),
        parameters={**make_config(method, settings).model_dump(mode="json"), "seed": seed},
        merger_version=MERGER_VERSION,
    )


def obtain_merge(
    store: AdapterStore,
    adapters: Sequence[StoredAdapter],
    method: str,
    settings: Mapping[str, Any],
    *,
    seed: int,
    progress: Progress,
) -> StoredAdapter:
    """The merge of stored adapters, from the store or computed now.

    Args:
        store: where the merge is kept.
        adapters: what is merged, in the order that per-adapter options refer to.
        method: name of a merging method, see :mod:`bench.merging`.
        settings: its options.
        seed: of its random draws.
        progress: reporter.

    Raises:
        ConfigError: wrong options, or adapters that cannot be merged.
    """
    options = make_config(method, settings)
    spec = merge_spec([one.adapter_id for one in adapters], method, settings, seed=seed)

    def make(out: Path, _checkpoints: Path) -> Mapping[str, Any]:
        wants_init = getattr(options, "factor_reference", "zero") == "init"
        merged = merge(
            [read_adapter(adapter.folder) for adapter in adapters],
            method,
            options,
            seed=seed,
            init=_initialisation(store, adapters[0]) if wants_init else None,
        )
        write_files(merged, out)
        return dict(merged.metadata)

    return store.obtain(spec, make, progress=progress)


def _initialisation(store: AdapterStore, stored: StoredAdapter) -> Adapter:
    """The draw that a trained adapter began with."""
    recipe = AdapterSpec.model_validate(stored.metadata["recipe"])
    return read_adapter(store.get(recipe.init.adapter_id).folder)
