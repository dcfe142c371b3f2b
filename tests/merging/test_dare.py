"""DARE: unbiased, keyed masks, and its inner merges."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from adapter_inputs import (
    assert_same,
    changed,
    deltas,
    initialisation,
    literal_ties,
    random_adapter,
)

from bench.errors import ConfigError
from bench.merging import DareConfig, merge
from bench.merging.dare import drop, mask_keys
from bench.merging.slices import Slice

SMALL = {"model.a": (6, 9), "model.b": (8, 5)}
FULL = {"space": "product", "rank": 24}


def adapters(n: int = 3, **options):
    return [random_adapter(seed, **options) for seed in range(n)]


@pytest.mark.parametrize("space", ["factor", "product"])
def test_nothing_dropped_is_the_weight_average(space):
    given_ = adapters()
    weights = [0.2, 0.3, 0.5]
    config = {"space": space, "weights": weights}
    expected = merge(given_, "weight-average", config)
    found = merge(given_, "dare", {**config, "drop_rate": 0})
    for module, pair in expected.factors.items():
        assert torch.equal(found.factors[module].a, pair.a)
        assert torch.equal(found.factors[module].b, pair.b)


@pytest.mark.parametrize("config", [{"space": "factor"}, FULL])
def test_nothing_dropped_is_ties_with_everything_kept(config):
    given_ = adapters()
    expected = merge(given_, "ties", {**config, "density": 1})
    assert_same(merge(given_, "dare", {**config, "drop_rate": 0, "inner": "ties"}), expected)


def test_the_mean_over_seeds_is_the_weight_average():
    given_ = adapters(2, sizes=SMALL)
    n = 300
    config = {"space": "product", "rank": 9, "drop_rate": 0.5}
    draws = [deltas(merge(given_, "dare", config, seed=seed)) for seed in range(n)]
    expected = deltas(merge(given_, "weight-average", {"space": "product"}))
    pulls = []
    for name, value in expected.items():
        rows = torch.stack([draw[name] for draw in draws])
        pulls.append(((rows.mean(0) - value) / (rows.std(0) / n**0.5)).flatten())
    pull = torch.cat(pulls)
    # Standard errors: 94 entries should spread by one, none beyond what 94 draws can explain.
    assert 0.8 < float(pull.std()) < 1.2
    assert float(pull.abs().max()) < 4.0


def test_the_relative_error_of_one_draw_is_the_known_one():
    """sqrt(p / (1 - p)) of the update's norm for an adapter alone in product space."""
    one = random_adapter(1, sizes={"model.a": (80, 90)})
    for p, expected in [(0.1, 1 / 3), (0.5, 1.0), (0.9, 3.0)]:
        found = merge([one], "dare", {"space": "product", "rank": 80, "drop_rate": p})
        off = deltas(found)["model.a"] - deltas(one)["model.a"]
        ratio = float(off.norm() / deltas(one)["model.a"].norm())
        assert ratio == pytest.approx(expected, rel=0.06)


def test_the_share_of_zeros_is_the_drop_rate():
    values = torch.ones(2, 200, 100)
    found = drop(Slice("m", "A", 0, values.clone()), 0.3, 5, [("x", 0), ("y", 0)])
    n = found.numel() // 2
    for row in found:
        zeros = int((row == 0).sum())
        assert abs(zeros - 0.3 * n) < 4 * (n * 0.3 * 0.7) ** 0.5
    assert torch.equal(found[found != 0], torch.full((int((found != 0).sum()),), 1 / 0.7))


def test_masks_depend_on_their_key_alone():
    def mask(**changes):
        key = {"module": "m", "part": "A", "row": 0, "seed": 1, "name": "x", "number": 0} | changes
        piece = Slice(key["module"], key["part"], key["row"], torch.ones(1, 30, 30))
        return drop(piece, 0.5, key["seed"], [(key["name"], key["number"])]) != 0

    plain = mask()
    assert torch.equal(plain, mask())
    for change in ("module", "part", "row", "seed", "name", "number"):
        value = {"row": 3, "seed": 2, "number": 1}.get(change, "B")
        other = mask(**{change: value})
        share = float((other == plain).float().mean())
        assert 0.4 < share < 0.6, change


def test_masks_ignore_other_adapters_and_modules():
    first, second = random_adapter(1), random_adapter(2)
    name = first.modules[0]

    def alone(adapter):
        return changed(adapter, lambda _, pair: (pair.a, torch.zeros_like(pair.b)))

    together = merge([first, alone(second)], "dare", {**FULL, "weights": [0.5, 0.5]})
    apart = merge([first], "dare", FULL)
    assert_same(together, {key: value / 2 for key, value in deltas(apart).items()})
    part = replace(first, factors={name: first.factors[name]}, key=first.merge_key)
    torch.testing.assert_close(
        deltas(merge([part], "dare", FULL))[name], deltas(apart)[name], rtol=0, atol=1e-5
    )


def test_equal_adapters_get_different_masks():
    one = random_adapter(1)
    assert mask_keys([one, one]) == [(one.merge_key, 0), (one.merge_key, 1)]
    twice = deltas(merge([one, one], "dare", FULL))
    once = deltas(merge([one], "dare", FULL))
    assert any(float((twice[name] - once[name]).norm()) > 0.1 for name in twice)


@pytest.mark.parametrize("inner", ["linear", "ties"])
@pytest.mark.parametrize("space", ["product", "factor"])
def test_what_is_left_is_merged_as_dense_arithmetic_has_it(inner, space):
    given_, p, weights = adapters(sizes=SMALL), 0.4, [0.2, 0.3, 0.5]
    config = {"space": space, "drop_rate": p, "inner": inner, "scale": 1.3}
    config |= {"weights": weights} if inner == "linear" else {}
    config |= {"rank": 9} if space == "product" else {}
    found = merge(given_, "dare", config, seed=7)

    def expected(module, part, tensors):
        left = drop(Slice(module, part, 0, torch.stack(tensors)), p, 7, mask_keys(given_))
        assert 0.2 < float((left == 0).float().mean()) < 0.6
        if inner == "linear":
            return sum(w * one for w, one in zip(weights, left, strict=True))
        return literal_ties(left.flatten(1), 1.0, "mean").reshape(left[0].shape)

    for module in SMALL:
        if space == "product":
            dense = 1.3 * expected(module, "D", [deltas(one)[module].float() for one in given_])
        else:
            a, b = (
                expected(
                    module, part, [getattr(one.factors[module], part.lower()) for one in given_]
                )
                for part in "AB"
            )
            dense = given_[0].scaling * 1.3 * b.double() @ a.double()
        torch.testing.assert_close(deltas(found)[module], dense.double(), rtol=0, atol=2e-5)


def test_masks_can_be_drawn_again_for_the_same_seed():
    given_ = adapters()
    hashes = [merge(given_, "dare", {"draw": draw}).content_hash for draw in (0, 1, 2, 1)]
    assert hashes[0] == merge(given_, "dare").content_hash
    assert len(set(hashes)) == 3
    assert hashes[1] == hashes[3]


@pytest.mark.parametrize("inner", ["linear", "ties"])
def test_seeds_decide(inner):
    given_ = adapters()
    one, same, other = (
        merge(given_, "dare", {"inner": inner}, seed=seed).content_hash for seed in (4, 4, 5)
    )
    assert one == same != other


def test_the_default_rate_belongs_to_the_space():
    given_ = adapters()
    assert merge(given_, "dare").metadata["notes"]["drop_rate"] == 0.2
    assert merge(given_, "dare", {"space": "product"}).metadata["notes"]["drop_rate"] == 0.5


def test_dropping_moves_a_around_its_initialisation():
    start = initialisation()
    config = {"drop_rate": 0.5, "factor_reference": "init"}
    assert_same(merge([start, start], "dare", config, init=start), start)
    given_ = adapters()
    found = merge(given_, "dare", config, init=start)
    for module, pair in found.factors.items():
        drift = max(
            float((one.factors[module].a - start.factors[module].a).abs().max()) for one in given_
        )
        assert float((pair.a - start.factors[module].a).abs().max()) <= 2 * drift + 1e-6


def test_the_scale_multiplies_the_update():
    given_ = adapters()
    for config in ({"drop_rate": 0}, {}, {"inner": "ties"}, {**FULL, "inner": "ties"}):
        plain = deltas(merge(given_, "dare", config))
        found = merge(given_, "dare", {**config, "scale": 0.5})
        assert_same(found, {name: 0.5 * value for name, value in plain.items()})


@pytest.mark.parametrize("rate", [1, 1.5, -0.1])
def test_rates_outside_the_range_are_refused(rate):
    with pytest.raises(ConfigError, match="drop_rate"):
        merge(adapters(2), "dare", {"drop_rate": rate})


def test_weights_have_no_meaning_with_ties():
    with pytest.raises(ConfigError, match="no weights with inner=ties"):
        merge(adapters(2), "dare", {"inner": "ties", "weights": [0.5, 0.5]})


@pytest.mark.parametrize("density", [0.2, 0.35, 0.9])
@pytest.mark.parametrize("drop_rate", [0.0, 0.4])
def test_dropped_and_trimmed_products_are_the_authors_arithmetic(drop_rate, density):
    """Drop, rescale, trim over the whole adapter, elect, mean of what agrees; all dense."""
    given_ = adapters(sizes=SMALL)
    config = {"drop_rate": drop_rate, "inner": "ties", "density": density, "scale": 1.3}
    found = merge(given_, "dare", {**config, "space": "product", "rank": 9}, seed=7)
    keys = mask_keys(given_)
    left = [
        drop(
            Slice(m, "D", 0, torch.stack([one.delta(m) for one in given_])), drop_rate, 7, keys
        ).flatten(1)
        for m in found.modules
    ]
    expected = 1.3 * literal_ties(torch.cat(left, dim=1), density, "mean")
    merged = torch.cat([deltas(found)[m].flatten() for m in found.modules])
    torch.testing.assert_close(merged, expected.double(), rtol=0, atol=2e-5)
    # Today's form, without trimming, is another merge, unless nothing but zeros falls to trimming.
    whole = merge(given_, "dare", {**config, "density": 1, "space": "product", "rank": 9}, seed=7)
    keeps_all = density == 0.9 and drop_rate == 0.4
    off = max(float((deltas(whole)[m] - deltas(found)[m]).abs().max()) for m in found.modules)
    assert (off < 1e-4) == keeps_all


def test_dropped_factors_are_trimmed_by_tensor():
    given_ = adapters(sizes=SMALL)
    config = {"drop_rate": 0.4, "inner": "ties", "density": 0.3}
    found = merge(given_, "dare", config, seed=7)
    for module in SMALL:
        halves = []
        for part in "AB":
            tensors = torch.stack([getattr(one.factors[module], part.lower()) for one in given_])
            left = drop(Slice(module, part, 0, tensors), 0.4, 7, mask_keys(given_))
            halves.append(literal_ties(left.flatten(1), 0.3, "mean").reshape(left[0].shape))
        dense = given_[0].scaling * halves[1].double() @ halves[0].double()
        torch.testing.assert_close(deltas(found)[module], dense, rtol=0, atol=2e-5)


def test_nothing_dropped_and_trimmed_is_ties():
    given_ = adapters()
    for space in ("factor", "product"):
        config = {"space": space, "density": 0.3, **({"rank": 24} if space == "product" else {})}
        found = merge(given_, "dare", {**config, "drop_rate": 0, "inner": "ties"})
        assert_same(found, merge(given_, "ties", config))


def test_merges_without_trimming_keep_the_options_they_are_known_by():
    assert "density" not in DareConfig(inner="ties").model_dump(mode="json")
    assert DareConfig(inner="ties", density=0.2).model_dump(mode="json")["density"] == 0.2
    with pytest.raises(ConfigError, match="density=1 with inner=linear"):
        merge(adapters(2), "dare", {"density": 0.2})
