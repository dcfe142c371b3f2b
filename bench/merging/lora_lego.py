"""LoRA-LEGO: the ranks of all adapters as building blocks, clustered into the ranks of a new one.

Rank j of a LoRA is a unit: row a_j of A with column b_j of B; B A is the sum of the products b_j a_j,
so units may be pooled and permuted. K-means over the pooled units gives k centroids, whose scale is then
restored. Source: Zhao et al., "Merging LoRAs like playing LEGO", ICLR 2025; the reweightings follow
two independent re-implementations that agree, the authors published no code.

Distances between n units depend only on their coordinates within the at most n dimensions they span,
so k-means runs on an n x n triangle instead of vectors of length d_in + d_out.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from bench.merging.adapter import Adapter, Factors
from bench.merging.configs import LoraLegoConfig
from bench.merging.linear import relative_scaling
from bench.merging.merged import Part, Setting, canonical, key_generator

__all__ = ["centroids", "cluster_units", "merge_lora_lego", "pool_units"]


def merge_lora_lego(
    adapters: Sequence[Adapter], config: LoraLegoConfig, setting: Setting
) -> Iterator[tuple[str, Part]]:
    """Cluster the units of all adapters into k ranks, module by module."""
    k = config.k or max(adapter.config.r for adapter in adapters)
    ordered, _ = canonical(adapters, adapters)
    return _modules(ordered, config, k, setting)


def _modules(
    ordered: list[Adapter], config: LoraLegoConfig, k: int, setting: Setting
) -> Iterator[tuple[str, Part]]:
    n_clamped = n_empty = 0
    for module in ordered[0].modules:
        units, d_in = pool_units(ordered, module)
        gain = math.sqrt(len(units) / len(ordered) / k) if config.output_reweighting else 1.0
        seed = int(torch.randint(2**31, (), generator=key_generator("lego", setting.seed, module)))
        labels = cluster_units(
            _halves(units, d_in) if config.normalise_halves else units, k, config, seed
        )
        found, clamped = centroids(units, labels, k, config)
        n_clamped += clamped
        n_empty += k - len(np.unique(labels))
        a, b = found[:, :d_in], found[:, d_in:].T * gain
        yield module, Part(Factors(a, b))
    setting.notes.update(k=k, clamped_clusters=n_clamped, empty_clusters=n_empty)
    if n_clamped:
        setting.warnings.append(
            f"{n_clamped} clusters hold units that nearly cancel out; the factor that restores their "
            f"scale was bounded by {config.max_factor:g}."
        )


def pool_units(adapters: Sequence[Adapter], module: str) -> tuple[torch.Tensor, int]:
    """Units of all adapters in an order that depends on their content only.

    Returns:
        Float32 (sum of ranks, d_in + d_out), a unit a row, and d_in. If scalings differ, the root of
        each adapter's share of the largest is folded into both halves.
    """
    rows = []
    for adapter, share in zip(adapters, relative_scaling(adapters), strict=True):
        a, b = adapter.factors[module]
        rows.append(torch.cat([a.float(), b.float().T], dim=1) * math.sqrt(share))
    units = torch.cat(rows)
    content = units.numpy()
    order = sorted(range(len(content)), key=lambda i: content[i].tobytes())
    return units[order], adapters[0].factors[module].a.shape[1]


def cluster_units(
    units: torch.Tensor, k: int, config: LoraLegoConfig, seed: int
) -> NDArray[np.int64]:
    """Label of each unit by k-means (Euclidean, k-means++ starts).

    Args:
        units: float32 (n, d), sorted so that equal units are neighbours.
        k: number of clusters, at most n; some stay empty if fewer units are distinct.
        config: restarts and steps.
        seed: of the starts.

    Returns:
        int64 (n,), in 0..k-1.
    """
    if k == len(units):
        return np.arange(k)
    # Equal units get equal coordinates, which rounding would set apart.
    new = torch.cat([torch.ones(1, dtype=torch.bool), (units[1:] != units[:-1]).any(1)])
    group = (new.cumsum(0) - 1).numpy()
    if group[-1] < k:
        return np.asarray(group, dtype=np.int64)
    from sklearn.cluster import KMeans
    from sklearn.exceptions import ConvergenceWarning

    distinct = torch.linalg.qr(units[new].T, mode="r").R.T.double().numpy()
    model = KMeans(k, n_init=config.n_init, max_iter=config.max_iter, random_state=seed)
    with warnings.catch_warnings():
        # Units that differ by rounding alone may leave clusters empty, which is allowed.
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(distinct, sample_weight=np.bincount(group).astype(np.float64))
    labels: NDArray[np.int64] = np.asarray(model.labels_, dtype=np.int64)[group]
    return labels


def centroids(
    units: torch.Tensor, labels: NDArray[np.int64], k: int, config: LoraLegoConfig
) -> tuple[torch.Tensor, int]:
    """Mean unit of each cluster, with its largest magnitude restored.

    Returns:
        Float32 (k, d), zeros for an empty cluster, and in how many clusters the factor was bounded.
    """
    member = torch.zeros(k, len(units))
    member[torch.from_numpy(labels), torch.arange(len(units))] = 1.0
    member /= member.sum(1, keepdim=True).clamp_min(1.0)
    means = member @ units
    if not config.parameter_reweighting:
        return means, 0
    wanted = member @ units.abs().amax(1)
    found = means.abs().amax(1)
    bounded = wanted > config.max_factor * found
    factor = torch.where(bounded, config.max_factor, wanted / found.clamp_min(1e-30))
    factor[wanted == 0] = 1.0
    return means * factor[:, None], int((bounded & (wanted > 0)).sum())


def _halves(units: torch.Tensor, d_in: int) -> torch.Tensor:
    halves = (units[:, :d_in], units[:, d_in:])
    return torch.cat([torch.nn.functional.normalize(half, dim=1) for half in halves], dim=1)
