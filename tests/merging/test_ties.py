"""TIES against the authors' algorithm written out on flat vectors."""

from __future__ import annotations

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
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import ConfigError
from bench.merging import Factors, merge
from bench.merging.slices import Slice
from bench.merging.ties import Election, kth_magnitudes, trim_position


def flat_factors(adapter) -> torch.Tensor:
    return torch.cat([half.flatten() for pair in adapter.factors.values() for half in pair])


def adapters(n: int = 3, **options):
    return [random_adapter(seed, **options) for seed in range(n)]


@pytest.mark.parametrize("density", [0.05, 0.2, 0.73, 1.0])
@pytest.mark.parametrize("how", ["mean", "sum", "max"])
def test_factor_space_is_the_algorithm_on_the_flattened_factors(density, how):
    given_ = adapters(4)
    expected = literal_ties(torch.stack([flat_factors(one) for one in given_]), density, how)
    merged = merge(given_, "ties", {"density": density, "merge": how, "trim": "global"})
    torch.testing.assert_close(flat_factors(merged), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("density", [0.2, 1.0])
@pytest.mark.parametrize("trim", ["global", "tensor"])
def test_product_space_is_the_algorithm_on_the_updates(density, trim):
    given_ = adapters(3)
    config = {"space": "product", "density": density, "trim": trim, "rank": 24, "scale": 1.3}
    merged = merge(given_, "ties", config)
    assert merged.metadata["truncation"]["relative_error"] < 1e-5
    modules = given_[0].modules
    if trim == "global":
        flat = torch.stack(
            [torch.cat([one.delta(name).flatten() for name in modules]) for one in given_]
        )
        expected = literal_ties(flat, density, "mean")
    else:
        expected = torch.cat(
            [
                literal_ties(
                    torch.stack([one.delta(name).flatten() for one in given_]), density, "mean"
                )
                for name in modules
            ]
        )
    found = torch.cat([deltas(merged)[name].flatten() for name in modules])
    torch.testing.assert_close(found, 1.3 * expected.double(), rtol=0, atol=1e-4)


def test_trimming_by_tensor_looks_at_one_factor_at_a_time():
    given_ = adapters(3)
    merged = merge(given_, "ties", {"density": 0.3, "trim": "tensor"})
    for module, pair in merged.factors.items():
        for i, half in enumerate(pair):
            rows = torch.stack([one.factors[module][i].flatten() for one in given_])
            torch.testing.assert_close(half.flatten(), literal_ties(rows, 0.3, "mean"))


def test_equal_signs_and_everything_kept_is_the_mean():
    given_ = [changed(one, lambda _, pair: (pair.a.abs(), pair.b.abs())) for one in adapters(3)]
    merged = merge(given_, "ties", {"density": 1})
    assert_same(merged, merge(given_, "weight-average"))


def test_the_share_of_survivors_is_reported():
    given_ = adapters(3)
    kept = merge(given_, "ties", {"trim": "tensor"}).metadata["notes"]["kept"]
    assert set(kept) == {"A", "B"}
    assert all(0.2 <= share < 0.25 for share in kept.values())
    whole = merge(given_, "ties", {"density": 1}).metadata["notes"]["kept"]
    assert whole == {"A": 1.0, "B": 1.0}
    # A is drawn with a smaller spread than B here, so a common threshold keeps less of it.
    uneven = merge(given_, "ties", {"trim": "global"}).metadata["notes"]["kept"]
    assert uneven["A"] < 0.15 < 0.25 < uneven["B"]


def test_a_b_much_smaller_than_a_survives_the_default_and_is_missed_where_it_does_not():
    """So it is after a short training: A begins with a draw, B with zeros."""
    given_ = [changed(one, lambda _, pair: (pair.a, 1e-3 * pair.b)) for one in adapters(3)]
    found = merge(given_, "ties")
    kept = found.metadata["notes"]["kept"]
    assert all(0.2 <= share < 0.25 for share in kept.values())
    assert found.metadata["warnings"] == []
    tensor = merge(given_, "ties", {"trim": "tensor"})
    assert torch.equal(flat_factors(found), flat_factors(tensor))
    emptied = merge(given_, "ties", {"trim": "global"})
    assert emptied.metadata["notes"]["kept"]["B"] == 0
    assert not any(value.any() for value in deltas(emptied).values())
    (warning,) = emptied.metadata["warnings"]
    assert "trimming left nothing of B" in warning and "trim=tensor" in warning


@pytest.mark.parametrize("config", [{"space": "product"}, {"factor_reference": "init"}])
def test_changes_are_trimmed_over_the_whole_adapter_by_default(config):
    given_ = adapters(3)
    options = {"init": initialisation()} if "factor_reference" in config else {}
    found = merge(given_, "ties", config, **options)
    expected = merge(given_, "ties", {**config, "trim": "global"}, **options)
    assert torch.equal(flat_factors(found), flat_factors(expected))


def test_the_scale_acts_on_the_update_once():
    given_ = adapters(3)
    for config in ({}, {"space": "product"}):
        plain = deltas(merge(given_, "ties", config))
        assert_same(
            merge(given_, "ties", {**config, "scale": -1.5}),
            {name: -1.5 * value for name, value in plain.items()},
        )


def negated(adapter):
    return changed(adapter, lambda _, pair: (-pair.a, -pair.b))


def test_negating_all_inputs_negates_the_factors():
    given_ = adapters(3)
    given_.append(changed(given_[0], lambda _, pair: (-pair.a, pair.b)))
    plain = merge(given_, "ties", {"density": 0.6})
    found = merge([negated(one) for one in given_], "ties", {"density": 0.6})
    torch.testing.assert_close(flat_factors(found), -flat_factors(plain))


def test_adapters_that_cancel_everywhere_leave_zeros():
    one = random_adapter(1)
    found = merge([one, negated(one)], "ties", {"density": 1})
    assert not flat_factors(found).any()


def test_cancelling_coordinates_take_the_majority_sign():
    """Two of three coordinates sum to a plus; the third cancels, so its positive entry stays."""
    slices = [Slice("m", "A", 0, torch.tensor([[[1.0, 2.0, 5.0]], [[3.0, -1.0, -5.0]]]))]
    election = Election(slices, lambda piece: piece.values.clone(), "mean")
    assert election.merge(slices[0].values.clone()).tolist() == [[2.0, 2.0, 5.0]]
    assert election.n_balanced == 1
    flipped = [Slice("m", "A", 0, -slices[0].values)]
    election = Election(flipped, lambda piece: piece.values.clone(), "mean")
    assert election.merge(flipped[0].values.clone()).tolist() == [[-2.0, -2.0, -5.0]]


def test_factors_may_be_measured_against_the_initialisation():
    given_, start = adapters(3), initialisation()
    moved = [
        changed(one, lambda name, pair: (pair.a - start.factors[name].a, pair.b)) for one in given_
    ]
    expected = merge(moved, "ties", {"density": 0.4, "trim": "global"})
    found = merge(given_, "ties", {"density": 0.4, "factor_reference": "init"}, init=start)
    for module, pair in found.factors.items():
        a = start.factors[module].a + expected.factors[module].a
        torch.testing.assert_close(pair.a, a)
        torch.testing.assert_close(pair.b, expected.factors[module].b)
    # Without training there is nothing to trim.
    assert_same(merge([start, start], "ties", {"factor_reference": "init"}, init=start), start)


@pytest.mark.parametrize("density", [0, -0.1, 1.01, 20, float("nan")])
def test_densities_outside_the_range_are_refused(density):
    with pytest.raises(ConfigError, match="density"):
        merge(adapters(2), "ties", {"density": density})


def test_ties_takes_no_weights():
    with pytest.raises(ConfigError, match="no option 'weights'"):
        merge(adapters(2), "ties", {"weights": [0.5, 0.5]})


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(-(2.0**90), 2.0**90, width=32), min_size=1, max_size=60),
    st.integers(1, 7),
    st.data(),
)
def test_counting_finds_the_same_threshold_as_sorting(numbers, n_pieces, data):
    row = torch.tensor(numbers)
    position = data.draw(st.integers(1, len(numbers)))
    pieces = [Slice("m", "D", i, part[None, None]) for i, part in enumerate(row.chunk(n_pieces))]
    found = kth_magnitudes(lambda: iter(pieces), 1, position)
    assert found.item() == row.abs().kthvalue(position).values.item()


def test_the_position_of_the_threshold_is_the_authors():
    assert trim_position(1000, 0.2) == 800
    assert trim_position(1001, 0.2) == 801
    assert trim_position(5, 0.01) == 5  # the largest entry always stays
    assert trim_position(1000, 1) == 0


def test_blocks_of_rows_do_not_change_the_result(monkeypatch):
    given_ = adapters(3)
    config = {"space": "product", "density": 0.4, "rank": 24}
    whole = merge(given_, "ties", config)
    monkeypatch.setattr("bench.merging.slices.BLOCK_ELEMENTS", 40)
    assert_same(merge(given_, "ties", config), whole)


def test_factors_type_is_kept():
    assert isinstance(next(iter(merge(adapters(2), "ties").factors.values())), Factors)
