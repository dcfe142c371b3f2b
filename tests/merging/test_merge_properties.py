"""What every merging method must keep: copies, order, scaling, zeros, gauge, no NaN."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from adapter_inputs import (
    assert_same,
    changed,
    deltas,
    distance,
    random_adapter,
    regauged,
    with_scaling,
    zero_adapter,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.merging import MERGERS, fold_weights, merge

FACTOR = {"space": "factor"}
PRODUCT = {"space": "product"}
ALL = [
    ("weight-average", FACTOR),
    ("weight-average", PRODUCT),
    ("weight-average", {**PRODUCT, "rank": 5}),
    ("task-arithmetic", {}),
    ("task-arithmetic", {"scale": -0.7}),
    ("ties", {**FACTOR, "trim": "global"}),
    ("ties", {**FACTOR, "density": 0.5, "merge": "sum"}),
    ("ties", {**FACTOR, "trim": "global", "merge": "max"}),
    ("ties", PRODUCT),
    ("ties", {**PRODUCT, "trim": "tensor"}),
    ("dare", FACTOR),
    ("dare", {**FACTOR, "inner": "ties"}),
    ("dare", PRODUCT),
    ("dare", {**PRODUCT, "inner": "ties"}),
    ("ext-sub", {}),
    ("ext-sub", {"mode": "add_common", "alpha": 0.5}),
    ("lora-lego", {}),
    ("lora-lego", {"k": 6, "normalise_halves": True}),
]
# Of four-layer toys the cut of a full-rank TIES result leaves something over; full rank does not.
FULL = {**PRODUCT, "rank": 24}


def label(case) -> str:
    method, config = case
    return " ".join([method, *(f"{key}={value}" for key, value in config.items())])


every_method = pytest.mark.parametrize("case", ALL, ids=label)


def adapters(n: int = 3, **options):
    return [random_adapter(seed, **options) for seed in range(n)]


def test_every_method_is_covered():
    assert {method for method, _ in ALL} == set(MERGERS)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("weight-average", FACTOR),
        ("weight-average", PRODUCT),
        ("task-arithmetic", {"scale": 1 / 3}),
        ("task-arithmetic", {"scale": 0.4, "reference": 1}),
        ("ties", {**FACTOR, "density": 1}),
        ("ties", {**FACTOR, "density": 1, "merge": "max"}),
        ("ties", {**FULL, "density": 1}),
        ("dare", {**FACTOR, "drop_rate": 0}),
        ("dare", {**FULL, "drop_rate": 0, "inner": "ties"}),
        ("ext-sub", {"alpha": 0.3}),
        ("ext-sub", {"alpha": 2.0}),
        ("lora-lego", {}),
    ],
)
def test_copies_of_an_adapter_merge_into_it(method, config):
    one = random_adapter(5)
    assert_same(merge([one, one, one], method, config), one)


def test_a_single_adapter_stays_what_it_is():
    one = random_adapter(5)
    cases = [("weight-average", FACTOR), ("weight-average", PRODUCT), ("lora-lego", {})]
    for method, config in cases:
        assert_same(merge([one], method, config), one)


@every_method
def test_the_order_of_adapters_changes_no_bit(case):
    method, config = case
    given_ = adapters(4)
    order = [0, 3, 1, 2] if method == "ext-sub" else [2, 0, 3, 1]
    weights = [0.1, 0.2, 0.3, 0.4]
    takes_weights = "weights" in MERGERS.load(method).model_fields and config.get("inner") != "ties"
    one = {**config, "weights": weights} if takes_weights else config
    two = {**config, "weights": [weights[i] for i in order]} if takes_weights else config
    expected = merge(given_, method, one)
    found = merge([given_[i] for i in order], method, two)
    for module, pair in expected.factors.items():
        for left, right in zip(pair, found.factors[module], strict=True):
            assert torch.equal(left, right)


@every_method
def test_the_update_scales_with_alpha(case):
    method, config = case
    plain = merge(adapters(), method, config)
    scaled = merge([with_scaling(one, 2.0 * 1.7) for one in adapters()], method, config)
    assert_same(scaled, {name: 1.7 * value for name, value in deltas(plain).items()}, atol=3e-5)
    assert scaled.config.alpha == pytest.approx(scaled.config.r * 3.4)


# A common threshold for A and B, and distances between units, depend on how a scaling is split.
SPLITTING = [case for case in ALL if case[1].get("trim") == "global"]


@pytest.mark.parametrize(
    "case",
    [case for case in ALL if case[0] != "lora-lego" and case not in SPLITTING],
    ids=label,
)
def test_twice_the_scaling_is_twice_the_b(case):
    method, config = case
    first, second, third = adapters()
    doubled = changed(second, lambda _, pair: (pair.a, 2 * pair.b))
    expected = merge([first, doubled, third], method, config)
    found = merge([first, with_scaling(second, 4.0), third], method, config)
    assert distance(found, deltas(expected)) < 1e-4


def test_lego_splits_different_scalings_between_the_halves():
    """A unit of twice the scaling is the unit with both halves times the root of two."""
    apart = [changed(one, lambda _, pair: (20 * pair.a, pair.b)) for one in adapters(drift=0.05)]
    first, second, third = apart
    root = 2**0.5
    doubled = changed(second, lambda _, pair: (root * pair.a, root * pair.b))
    expected = merge([first, doubled, third], "lora-lego")
    found = merge([first, with_scaling(second, 4.0), third], "lora-lego")
    assert distance(found, deltas(expected)) < 1e-5


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("weight-average", FACTOR),
        ("weight-average", PRODUCT),
        ("task-arithmetic", {}),
        ("dare", FACTOR),
        ("dare", FULL),
    ],
)
def test_weight_zero_is_the_same_as_leaving_out(method, config):
    first, second, third = adapters()
    kept = merge([first, second], method, {**config, "weights": [0.25, 0.75]})
    found = merge([first, third, second], method, {**config, "weights": [0.25, 0.0, 0.75]})
    assert_same(found, kept)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("task-arithmetic", {}),
        ("ties", {**FACTOR, "trim": "global"}),
        ("ties", {**FACTOR, "merge": "max"}),
        ("ties", FULL),
        ("dare", {**FACTOR, "inner": "ties"}),
        ("dare", {**FULL, "inner": "ties"}),
    ],
)
def test_an_adapter_of_zeros_changes_nothing(method, config):
    given_ = adapters(2)
    assert_same(
        merge([*given_, zero_adapter(given_[0])], method, config), merge(given_, method, config)
    )


def test_an_anti_expert_of_zeros_leaves_the_expert():
    expert = random_adapter(1)
    assert_same(merge([expert, zero_adapter(expert)], "ext-sub", {}), expert)


@every_method
def test_only_factor_space_depends_on_the_gauge(case):
    method, config = case
    first, second, third = adapters()
    plain = merge([first, second, third], method, config)
    found = merge([first, regauged(second), third], method, config)
    moved = distance(found, deltas(plain))
    if method == "lora-lego" or config.get("space") == "factor":
        assert moved > 0.02
    else:
        assert moved < 1e-4


@every_method
@pytest.mark.parametrize("position", [0, 1])
def test_an_untrained_module_gives_no_nan(case, position):
    method, config = case

    def untrain(module, pair):
        return (pair.a, torch.zeros_like(pair.b)) if "q_proj" in module else pair

    given_ = adapters()
    given_[position] = changed(given_[position], untrain)
    assert all(value.isfinite().all() for value in deltas(merge(given_, method, config)).values())


@every_method
def test_modules_without_any_training_stay_zero(case):
    method, config = case
    empty = [changed(one, lambda _, pair: (pair.a, torch.zeros_like(pair.b))) for one in adapters()]
    merged = merge(empty, method, config)
    assert all(not value.any() for value in deltas(merged).values())


@every_method
def test_merging_is_deterministic_and_leaves_its_inputs_alone(case):
    method, config = case
    given_ = adapters(dtype=torch.bfloat16)
    before = [one.content_hash for one in given_]
    state = torch.get_rng_state()
    one, two = (merge(given_, method, config, seed=3) for _ in range(2))
    assert torch.equal(state, torch.get_rng_state())
    assert one.content_hash == two.content_hash
    assert one.metadata == two.metadata
    assert before == [replace(one, key=None).content_hash for one in given_]
    assert one.dtype == torch.float32


@every_method
def test_short_formats_lose_only_their_own_precision(case):
    method, config = case
    halves = adapters(dtype=torch.bfloat16)
    singles = [changed(one, lambda _, pair: (pair.a.float(), pair.b.float())) for one in halves]
    # Equal keys: masks and the order of sums do not depend on how a number is stored.
    expected = deltas(merge(singles, method, config))
    assert distance(merge(halves, method, config), expected) < 1e-6
    rounded = merge(halves, method, config, dtype="bfloat16")
    assert rounded.dtype == torch.bfloat16
    assert distance(rounded, expected) < 0.01


def test_weights_that_are_no_powers_of_two_cost_nothing_in_the_default_format():
    """Of three bfloat16 adapters each B is divided by three, which bfloat16 rounds once more."""
    given_ = adapters(dtype=torch.bfloat16)
    dense = [deltas(one) for one in given_]
    exact = {name: sum(one[name] for one in dense) / 3 for name in dense[0]}
    config = {"space": "product"}
    assert distance(merge(given_, "weight-average", config), exact) < 1e-6
    assert distance(merge(given_, "weight-average", config, dtype="bfloat16"), exact) > 1e-4


def test_a_result_too_large_for_its_dtype_is_refused():
    from bench.errors import MethodError

    one = random_adapter(1, dtype=torch.float16)
    with pytest.raises(MethodError, match=r"do not fit torch.float16"):
        merge([one, one], "task-arithmetic", {"scale": 1e9}, dtype="float16")
    assert merge([one, one], "task-arithmetic", {"scale": 1e9}).dtype == torch.float32


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-3, 3), min_size=4, max_size=4), st.integers(0, 2**32))
def test_task_arithmetic_is_the_dense_sum_for_any_coefficients(weights, seed):
    given_ = [random_adapter(seed + i) for i in range(4)]
    found = merge(given_, "task-arithmetic", {"scale": 1.0, "weights": weights})
    for name, value in deltas(found).items():
        expected = sum(
            weight * deltas(one)[name] for weight, one in zip(weights, given_, strict=True)
        )
        torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-4)


def test_fold_weights_sums_with_weights_by_module():
    given_ = adapters()
    rows = {module: [0.5, 0.25 * i, 0.0] for i, module in enumerate(given_[0].modules)}
    found = fold_weights(given_, rows)
    assert found.config.r == 8  # the third counts nowhere
    for name, value in deltas(found).items():
        expected = sum(
            weight * deltas(one)[name] for weight, one in zip(rows[name], given_, strict=True)
        )
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)
    assert found.metadata["config"]["weights"] == rows
    softmax = {module: torch.randn(3).softmax(0).tolist() for module in given_[0].modules}
    assert_same(fold_weights([given_[0]] * 3, softmax), given_[0])


def test_folded_weights_keep_scaling_gauge_and_zeros():
    given_ = [with_scaling(one, 1.0 + i) for i, one in enumerate(adapters())]
    rows = {module: [0.2, 0.5, 0.3] for module in given_[0].modules}
    expected = {
        name: sum(w * deltas(one)[name] for w, one in zip(rows[name], given_, strict=True))
        for name in rows
    }
    assert_same(fold_weights(given_, rows), expected)
    turned = [regauged(one, seed) for seed, one in enumerate(given_)]
    assert_same(fold_weights(turned, rows), expected, atol=3e-5)
    nothing = fold_weights([zero_adapter(one) for one in given_], rows)
    assert all(not bool(value.any()) for value in deltas(nothing).values())


def test_metadata_say_how_a_merge_came_about():
    given_ = adapters()
    merged = merge(given_, "dare", {"space": "product", "rank": 2}, seed=11)
    found = merged.metadata
    assert (found["kind"], found["method"], found["seed"]) == ("merged", "dare", 11)
    assert found["config"]["rank"] == 2
    assert [one["name"] for one in found["inputs"]] == [one.name for one in given_]
    assert [one["content_hash"] for one in found["inputs"]] == [one.content_hash for one in given_]
    cut = found["truncation"]
    assert set(cut["modules"]) == set(merged.modules)
    assert cut["modules"][cut["largest"]["module"]] == max(cut["modules"].values())
    assert 0 < cut["relative_error"] <= cut["largest"]["relative_error"] < 1
    assert merge(given_, "weight-average").metadata["truncation"] is None


def test_the_reported_error_is_the_distance_from_the_exact_merge():
    given_ = adapters()
    for method, full in [("weight-average", PRODUCT), ("ties", FULL), ("task-arithmetic", {})]:
        exact = merge(given_, method, full)
        cut = merge(given_, method, {**full, "rank": 3})
        error = cut.metadata["truncation"]["relative_error"]
        assert error == pytest.approx(distance(cut, deltas(exact)), rel=1e-3)
        best = sum(
            float(torch.linalg.svdvals(value)[3:].square().sum())
            for value in deltas(exact).values()
        )
        norm = sum(float(value.square().sum()) for value in deltas(exact).values())
        assert error == pytest.approx(math.sqrt(best / norm), rel=1e-3)


def test_factor_sums_keep_the_initialisation_and_products_do_not():
    given_ = adapters()
    assert merge(given_, "weight-average").config.init_hash == "start-99"
    assert merge(given_, "ties").config.init_hash == "start-99"
    assert merge(given_, "lora-lego").config.init_hash is None
    assert merge(given_, "task-arithmetic").config.init_hash is None
