"""Weight average, task arithmetic and Ext-Sub against dense arithmetic written out."""

from __future__ import annotations

import pytest
import torch
from adapter_inputs import (
    assert_same,
    changed,
    deltas,
    distance,
    initialisation,
    random_adapter,
    with_scaling,
    zero_adapter,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.merging import Factors, merge
from bench.merging.ext_sub import row_norms


def adapters(n: int = 3, **options):
    return [random_adapter(seed, **options) for seed in range(n)]


# Weight average


def test_the_product_average_is_the_mean_of_the_updates():
    given_ = adapters(4)
    merged = merge(given_, "weight-average", {"space": "product"})
    assert merged.config.r == 16
    assert merged.config.scaling == given_[0].config.scaling
    for name, value in deltas(merged).items():
        mean = torch.stack([deltas(one)[name] for one in given_]).mean(0)
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-6)


def test_the_factor_average_is_the_product_of_the_means():
    given_ = adapters(4)
    merged = merge(given_, "weight-average")
    assert (merged.config.r, merged.config.alpha) == (4, 8.0)
    for name, value in deltas(merged).items():
        a = torch.stack([one.factors[name].a.double() for one in given_]).mean(0)
        b = torch.stack([one.factors[name].b.double() for one in given_]).mean(0)
        torch.testing.assert_close(value, 2.0 * b @ a, rtol=0, atol=1e-6)


def test_the_spaces_agree_where_all_a_are_equal():
    given_ = adapters(4, drift=0.0)
    assert_same(
        merge(given_, "weight-average"), merge(given_, "weight-average", {"space": "product"})
    )


def test_the_spaces_part_as_a_drifts():
    def gap(drift: float) -> float:
        given_ = adapters(4, drift=drift)
        factor = merge(given_, "weight-average")
        return distance(factor, deltas(merge(given_, "weight-average", {"space": "product"})))

    assert gap(0.0) < 1e-6 < 0.01 < gap(0.1) < 0.2 < gap(1.0)


@pytest.mark.parametrize("space", ["factor", "product"])
def test_all_weight_on_one_adapter_gives_its_bits(space):
    given_ = adapters(3)
    merged = merge(given_, "weight-average", {"space": space, "weights": [0, 1, 0]})
    for module, pair in given_[1].factors.items():
        assert torch.equal(merged.factors[module].a, pair.a)
        assert torch.equal(merged.factors[module].b, pair.b)


@pytest.mark.parametrize("space", ["factor", "product"])
def test_weights_that_do_not_sum_to_one_are_refused(space):
    with pytest.raises(ConfigError, match=r"these sum to 2"):
        merge(adapters(2), "weight-average", {"space": space, "weights": [1, 1]})


def test_a_wrong_number_of_weights_is_refused():
    for method in ("weight-average", "dare"):
        with pytest.raises(ConfigError, match="2 weights for 3 adapters"):
            merge(adapters(3), method, {"weights": [0.5, 0.5]})
    with pytest.raises(ConfigError, match="2 weights for 3 adapters"):
        merge(adapters(3), "task-arithmetic", {"weights": [0.5, 0.5]})


def test_product_space_takes_adapters_of_different_ranks():
    one, two = random_adapter(1, r=4), random_adapter(2, r=2)
    merged = merge([one, two], "weight-average", {"space": "product"})
    assert merged.config.r == 6
    for name, value in deltas(merged).items():
        torch.testing.assert_close(
            value, (deltas(one)[name] + deltas(two)[name]) / 2, rtol=0, atol=1e-6
        )


# Task arithmetic


def test_adding_a_negation_leaves_nothing():
    one = random_adapter(1)
    negated = changed(one, lambda _, pair: (pair.a, -pair.b))
    merged = merge([one, negated], "task-arithmetic", {"scale": 1.0})
    assert all(float(value.abs().max()) < 1e-6 for value in deltas(merged).values())


def test_one_over_m_is_the_average():
    given_ = adapters(4)
    assert_same(
        merge(given_, "task-arithmetic", {"scale": 0.25}),
        merge(given_, "weight-average", {"space": "product"}),
    )


def test_sums_may_be_nested():
    first, second, third = adapters()
    whole = merge([first, second, third], "task-arithmetic", {"scale": 1})
    inner = merge([first, second], "task-arithmetic", {"scale": 1})
    assert_same(merge([inner, third], "task-arithmetic", {"scale": 1}), whole)


@settings(max_examples=20, deadline=None)
@given(st.floats(-2, 2))
def test_the_norm_is_linear_in_the_coefficient(scale):
    given_ = adapters(2)
    unit = deltas(merge(given_, "task-arithmetic", {"scale": 1.0}))
    for name, value in deltas(merge(given_, "task-arithmetic", {"scale": scale})).items():
        assert float(value.norm()) == pytest.approx(abs(scale) * float(unit[name].norm()), rel=1e-5)


def test_a_reference_of_zeros_changes_nothing():
    given_ = adapters(2)
    plain = merge(given_, "task-arithmetic", {"scale": 0.4})
    found = merge(
        [given_[0], zero_adapter(given_[0]), given_[1]],
        "task-arithmetic",
        {"scale": 0.4, "reference": 1},
    )
    assert_same(found, plain)


def test_with_a_reference_the_others_are_measured_against_it():
    reference, one, two = adapters(3)
    config = {"scale": 0.8, "weights": [1.0, -0.5], "reference": 0}
    for name, value in deltas(merge([reference, one, two], "task-arithmetic", config)).items():
        start = deltas(reference)[name]
        expected = start + 0.8 * (deltas(one)[name] - start) - 0.4 * (deltas(two)[name] - start)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)


def test_coefficients_that_sum_to_one_forget_the_reference():
    reference, one, two = adapters(3)
    merged = merge([one, two, reference], "task-arithmetic", {"scale": 0.5, "reference": 2})
    assert_same(merged, merge([one, two], "weight-average", {"space": "product"}))
    assert merged.config.r == 8


def test_a_reference_outside_the_adapters_is_refused():
    with pytest.raises(ConfigError, match="at most 1"):
        merge(adapters(2), "task-arithmetic", {"reference": 2})


# Ext-Sub


def literal_ext_sub(expert, other, alpha: float) -> torch.Tensor:
    """The original's arithmetic on dense rows, float64."""
    u = expert / expert.norm(dim=1, keepdim=True)
    v = other / other.norm(dim=1, keepdim=True)
    common = (u + v) / (u + v).norm(dim=1, keepdim=True)
    projection = (other * common).sum(1, keepdim=True) * common
    return expert - alpha * other + alpha * projection


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0, 2.0])
def test_the_closed_form_is_the_original(alpha):
    expert, other = adapters(2)
    merged = merge([expert, other], "ext-sub", {"alpha": alpha})
    assert merged.config.r == 8
    for name, value in deltas(merged).items():
        expected = literal_ext_sub(deltas(expert)[name], deltas(other)[name], alpha)
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-5)
    if alpha == 0:
        assert_same(merged, expert)


def test_the_additive_form_adds_the_common_part():
    expert, other = adapters(2)
    merged = merge([expert, other], "ext-sub", {"alpha": 0.7, "mode": "add_common"})
    for name, value in deltas(merged).items():
        one, two = deltas(expert)[name], deltas(other)[name]
        common = literal_ext_sub(one, two, 1.0) - one + two
        torch.testing.assert_close(value, one + 0.7 * common, rtol=0, atol=1e-5)


def test_several_anti_experts_enter_with_their_mean():
    expert, *others = adapters(4)
    merged = merge([expert, *others], "ext-sub", {"alpha": 0.9})
    single = [deltas(merge([expert, other], "ext-sub", {"alpha": 0.9})) for other in others]
    for name, value in deltas(merged).items():
        mean = torch.stack([one[name] for one in single]).mean(0)
        torch.testing.assert_close(value, mean, rtol=0, atol=1e-5)


def test_rows_of_zeros_and_opposite_rows_give_no_nan():
    expert, other = adapters(2)

    def cut(_, pair):
        b = pair.b.clone()
        b[0] = 0
        return pair.a, b

    name = expert.modules[0]
    hollow = changed(expert, cut)
    found = deltas(merge([hollow, other], "ext-sub", {"alpha": 1.5}))[name]
    torch.testing.assert_close(found[0], -0.75 * deltas(other)[name][0], rtol=0, atol=1e-5)
    kept = deltas(merge([expert, changed(other, cut)], "ext-sub"))[name]
    torch.testing.assert_close(kept[0], deltas(expert)[name][0], rtol=0, atol=1e-5)
    opposite = changed(expert, lambda _, pair: (pair.a, -pair.b))
    found = merge([expert, opposite], "ext-sub")
    # w2 = -w1: (1 + 1/2) w1 + (1/2) w1.
    assert_same(found, {key: 2 * value for key, value in deltas(expert).items()})


def test_rho_scales_with_the_anti_expert():
    expert, other = adapters(2)
    louder = with_scaling(other, 6.0)
    for name, value in deltas(merge([expert, louder], "ext-sub")).items():
        expected = literal_ext_sub(deltas(expert)[name], 3 * deltas(other)[name], 1.0)
        torch.testing.assert_close(value, expected, rtol=0, atol=2e-5)


def test_row_norms_need_no_dense_matrix_and_do_not_cancel():
    pair = Factors(torch.randn(3, 50), torch.randn(7, 3))
    torch.testing.assert_close(row_norms(pair), (pair.b @ pair.a).norm(dim=1))
    a = torch.randn(1, 50).repeat(2, 1)
    a[1] += 1e-5 * torch.randn(50)
    nearly = Factors(a, torch.tensor([[1.0, -1.0]]))
    exact = (nearly.b.double() @ a.double()).norm(dim=1).float()
    torch.testing.assert_close(row_norms(nearly), exact, rtol=1e-2, atol=0)


def test_ext_sub_needs_two_adapters():
    with pytest.raises(ConfigError, match="expert first"):
        merge([random_adapter(1)], "ext-sub")


def test_the_initialisation_helper_is_an_untrained_adapter():
    assert all(not value.any() for value in deltas(initialisation()).values())
