"""Merging of stored adapters: what their metadata know of their origin goes to the merger."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.errors import ConfigError
from bench.llm.adapters import AdapterSpec, AdapterStore, MergedSpec, StoredAdapter
from bench.merging import (
    MERGERS,
    Adapter,
    MergeConfig,
    make_config,
    merge,
    read_adapter,
    write_files,
)
from bench.methods import Progress

__all__ = ["MERGER_VERSION", "Merge", "check_settings", "found_out", "merge_spec", "obtain_merge"]

# Part of a merged adapter's identity: raised whenever the same inputs give another adapter.
MERGER_VERSION = 1

_PLUGIN = "plugin_sha256"
"""Parameter of a merge that holds the identity of a plugin's source."""


@dataclass(frozen=True, slots=True)
class Merge:
    """How adapters become one.

    Attributes:
        method: name of a merging method, see :mod:`bench.merging`.
        settings: its options.
    """

    method: str
    settings: Mapping[str, Any]

    @property
    def options(self) -> MergeConfig:
        """The settings, checked.

        Raises:
            ConfigError: unknown method or option, or a value out of range.
        """
        return make_config(self.method, self.settings)

    def label(self, n_adapters: int) -> str:
        """One line for people."""
        weights = self.settings.get("weights")
        given = f" with weights {', '.join(f'{w:.3g}' for w in weights)}" if weights else ""
        return f"{self.method} of {n_adapters} adapters{given}"


def check_settings(method: str, settings: Mapping[str, Any]) -> None:
    """Refuse an unknown merging method or option, as a configuration error.

    Raises:
        ValueError: so that a configuration that holds them says where.
    """
    try:
        make_config(method, settings)
    except ConfigError as error:
        raise ValueError(str(error)) from error


def merge_spec(parents: Sequence[str], how: Merge, *, seed: int) -> MergedSpec:
    """Recipe of a merge.

    Parents are put into one order if theirs decides nothing, with their weights, so that targets
    of a group share the merge of their adapters.

    Args:
        parents: ids of the merged adapters, in the order that per-adapter options refer to.
        how: the merge.
        seed: of its random draws.

    Raises:
        ConfigError: wrong options.
    """
    parameters = {**how.options.model_dump(mode="json"), "seed": seed}
    source = MERGERS.source_sha256(how.method)
    if source is not None:
        parameters[_PLUGIN] = source
    order = _order(parents, how.options, parameters)
    weights = parameters.get("weights")
    # Another number of weights is for the merger to refuse, with its own words.
    if weights is not None and len(weights) == len(parents):
        parameters["weights"] = [weights[i] for i in order]
    return MergedSpec(
        method=how.method,
        parents=tuple(parents[i] for i in order),
        parameters=parameters,
        merger_version=MERGER_VERSION,
    )


def _order(
    parents: Sequence[str], options: MergeConfig, parameters: Mapping[str, Any]
) -> list[int]:
    """Places of the parents, by id; a parent with a role of its own keeps its place."""
    places = range(len(parents))
    if parameters.get("reference") is not None:
        return list(places)
    expert = int(options.has_expert)
    return [*places[:expert], *sorted(places[expert:], key=lambda i: parents[i])]


def obtain_merge(
    store: AdapterStore,
    adapters: Sequence[StoredAdapter],
    how: Merge,
    *,
    seed: int,
    progress: Progress,
) -> StoredAdapter:
    """The merge of stored adapters, from the store or computed now.

    Args:
        store: where the merge is kept.
        adapters: what is merged, in the order that per-adapter options refer to.
        how: the merge.
        seed: of its random draws.
        progress: reporter.

    Raises:
        ConfigError: wrong options, or adapters that cannot be merged.
    """
    spec = merge_spec([one.adapter_id for one in adapters], how, seed=seed)
    by_id = {adapter.adapter_id: adapter for adapter in adapters}

    def make(out: Path, _checkpoints: Path) -> Mapping[str, Any]:
        options = {k: v for k, v in spec.parameters.items() if k not in ("seed", _PLUGIN)}
        wants_init = options.get("factor_reference") == "init"
        merged = merge(
            [read_adapter(by_id[parent].folder) for parent in spec.parents],
            how.method,
            options,
            seed=seed,
            init=_initialisation(store, adapters[0]) if wants_init else None,
        )
        write_files(merged, out)
        return dict(merged.metadata)

    return store.obtain(spec, make, progress=progress)


def found_out(merged: StoredAdapter) -> dict[str, Any]:
    """What a merge tells whoever serves it: ``warnings``, and the relative ``error`` of truncation."""
    report = merged.metadata.get("report", {})
    told: dict[str, Any] = {}
    if report.get("warnings"):
        told["warnings"] = list(report["warnings"])
    if report.get("truncation"):
        told["error"] = report["truncation"]["relative_error"]
    return told


def _initialisation(store: AdapterStore, stored: StoredAdapter) -> Adapter:
    """The draw that a trained adapter began with."""
    recipe = AdapterSpec.model_validate(stored.metadata["recipe"])
    return read_adapter(store.get(recipe.init.adapter_id).folder)
