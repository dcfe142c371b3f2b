"""LoRA-LEGO: units, clusters and the two reweightings."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from adapter_inputs import assert_same, changed, deltas, distance, random_adapter
from sklearn.cluster import KMeans

from bench.errors import ConfigError
from bench.merging import LoraLegoConfig, merge
from bench.merging.lora_lego import centroids, cluster_units, pool_units


def adapters(n: int = 3, **options):
    return [random_adapter(seed, **options) for seed in range(n)]


def literal_lego(given_, module: str, labels, config: LoraLegoConfig, k: int) -> torch.Tensor:
    """The method's equations with loops, for known clusters of units in the order given."""
    units = [
        torch.cat([one.factors[module].a[j], one.factors[module].b[:, j]]).double()
        for one in given_
        for j in range(one.config.r)
    ]
    d_in = given_[0].factors[module].a.shape[1]
    total = 0
    for cluster in range(k):
        members = [unit for unit, label in zip(units, labels, strict=True) if label == cluster]
        mean = sum(members) / len(members)
        if config.parameter_reweighting:
            mean *= sum(unit.abs().max() for unit in members) / len(members) / mean.abs().max()
        total += torch.outer(mean[d_in:], mean[:d_in])
    s = given_[0].config.alpha / given_[0].config.r
    return s * total * (math.sqrt(given_[0].config.r / k) if config.output_reweighting else 1)


@pytest.mark.parametrize("reweighting", [True, False])
def test_with_a_shared_start_each_rank_meets_its_siblings(reweighting):
    """Well separated ranks: cluster j holds rank j of every adapter."""
    given_ = [
        changed(one, lambda _, pair: (20 * pair.a, pair.b)) for one in adapters(4, drift=0.05)
    ]
    options = {"parameter_reweighting": reweighting, "output_reweighting": reweighting}
    merged = merge(given_, "lora-lego", options)
    labels = [j for _ in given_ for j in range(4)]
    for name, value in deltas(merged).items():
        expected = literal_lego(given_, name, labels, LoraLegoConfig(**options), 4)
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)
    if not reweighting:
        assert_same(merged, merge(given_, "weight-average"), atol=1e-4)


def test_without_clustering_the_sum_is_scaled_by_the_root_of_the_ranks():
    given_ = adapters(2)
    merged = merge(given_, "lora-lego", {"k": 8})
    assert (merged.config.r, merged.config.scaling) == (8, given_[0].config.scaling)
    for name, value in deltas(merged).items():
        total = sum(deltas(one)[name] for one in given_)
        torch.testing.assert_close(value, math.sqrt(0.5) * total, rtol=0, atol=1e-5)


def test_the_order_of_ranks_within_an_adapter_does_not_matter():
    given_ = adapters(3, drift=0.05)
    order = [2, 0, 3, 1]
    turned = changed(given_[1], lambda _, pair: (pair.a[order], pair.b[:, order]))
    expected = merge(given_, "lora-lego")
    found = merge([given_[0], turned, given_[2]], "lora-lego")
    assert_same(found, expected)


def test_clusters_are_those_of_the_units_themselves():
    """Clustering within the span of the units is clustering in all dimensions."""
    units = torch.randn(24, 500, generator=torch.Generator().manual_seed(0))
    units[:, :3] += 8 * torch.arange(24)[:, None].remainder(6) * torch.tensor([1.0, 0.5, -1.0])
    config = LoraLegoConfig()
    labels = cluster_units(units, 6, config, seed=1)
    whole = KMeans(6, n_init=10, random_state=1).fit(units.double().numpy())
    partition = {frozenset(np.flatnonzero(labels == c)) for c in range(6)}
    assert partition == {frozenset(np.flatnonzero(whole.labels_ == c)) for c in range(6)}


def test_units_pool_both_halves_of_every_rank():
    given_ = [random_adapter(1, r=2), random_adapter(2, r=3)]
    module = given_[0].modules[0]
    units, d_in = pool_units(given_, module)
    assert units.shape == (5, 20 + 12)
    product = sum(torch.outer(unit[d_in:], unit[:d_in]) for unit in units)
    expected = sum(deltas(one)[module] for one in given_) / 2.0
    torch.testing.assert_close(product.double(), expected, rtol=0, atol=1e-5)


def test_ranks_may_differ():
    merged = merge([random_adapter(1, r=2), random_adapter(2, r=3)], "lora-lego")
    assert merged.config.r == 3
    assert merged.config.scaling == 2.0


def test_normalised_halves_cluster_by_direction():
    """Units that differ in length only fall together when halves are normalised."""
    base = random_adapter(3, r=2)
    longer = changed(base, lambda _, pair: (100 * pair.a, 100 * pair.b))
    plain, by_direction = (
        merge([base, longer], "lora-lego", {"normalise_halves": flag}) for flag in (False, True)
    )
    mean = changed(base, lambda _, pair: (50.5 * pair.a, 50.5 * pair.b))
    assert_same(by_direction, mean, atol=0.05)
    assert distance(plain, deltas(mean)) > 0.1


def test_coinciding_units_leave_empty_clusters():
    one = random_adapter(1)
    twin = changed(one, lambda _, pair: (pair.a[[0, 0, 1, 1]], pair.b[:, [0, 0, 1, 1]]))
    merged = merge([twin, twin], "lora-lego")
    assert merged.metadata["notes"]["empty_clusters"] == 2 * len(merged.modules)
    assert all(value.isfinite().all() for value in deltas(merged).values())


def test_opposite_units_are_bounded_and_announced():
    units = torch.tensor([[1.0, 0.0], [-1.0, 1e-9], [0.0, 0.0]])
    labels = np.array([0, 0, 1])
    found, clamped = centroids(units, labels, 2, LoraLegoConfig())
    assert clamped == 1
    assert found.isfinite().all()
    assert found[0].abs().max() == pytest.approx(5e-9)
    one = random_adapter(1, r=1)
    opposite = changed(one, lambda _, pair: (-pair.a, -pair.b))
    merged = merge([one, opposite], "lora-lego", {"k": 1})
    assert "nearly cancel out" in merged.metadata["warnings"][0]
    assert merged.metadata["notes"]["clamped_clusters"] == len(merged.modules)


def test_more_clusters_than_units_are_refused():
    with pytest.raises(ConfigError, match="k=9 clusters of 8 units"):
        merge(adapters(2), "lora-lego", {"k": 9})


def test_seeds_decide_where_clusters_are_not_separated():
    given_ = adapters(4, drift=5.0, r=6)
    hashes = {
        merge(given_, "lora-lego", {"n_init": 1, "k": 5}, seed=seed).content_hash
        for seed in range(4)
    }
    assert len(hashes) > 1
    assert len({merge(given_, "lora-lego", seed=2).content_hash for _ in range(2)}) == 1
