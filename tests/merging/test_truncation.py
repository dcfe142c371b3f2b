"""Cutting ranks: as good as the best approximation, with the true error."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.merging.merged import key_generator
from bench.merging.truncation import truncate_dense, truncate_factors


def best_error(matrix: torch.Tensor, rank: int) -> float:
    return float(torch.linalg.svdvals(matrix.double())[rank:].norm())


@settings(max_examples=40, deadline=None)
@given(
    st.integers(1, 30), st.integers(1, 30), st.integers(1, 12), st.integers(1, 40), st.integers()
)
def test_factors_are_cut_to_the_best_approximation(d_out, d_in, inner, rank, seed):
    draw = torch.Generator().manual_seed(seed & (2**63 - 1))
    a, b = torch.randn(inner, d_in, generator=draw), torch.randn(d_out, inner, generator=draw)
    cut = truncate_factors(a, b, rank)
    dense = b.double() @ a.double()
    assert cut.factors.a.shape == (rank, d_in)
    assert cut.factors.b.shape == (d_out, rank)
    off = float((dense - cut.factors.b.double() @ cut.factors.a.double()).norm())
    scale = float(dense.norm())
    assert cut.norm == pytest.approx(scale, rel=1e-5)
    assert cut.error == pytest.approx(best_error(dense, rank), abs=1e-5 * scale)
    assert off == pytest.approx(best_error(dense, rank), abs=1e-5 * scale)


@pytest.mark.parametrize("spectrum", ["flat", "decaying", "low rank"])
@pytest.mark.parametrize("shape", [(300, 200), (120, 260), (40, 33)])
def test_dense_matrices_are_cut_as_well_as_by_a_full_svd(spectrum, shape):
    draw = torch.Generator().manual_seed(0)
    matrix = torch.randn(*shape, generator=draw)
    if spectrum == "decaying":
        u, s, vh = torch.linalg.svd(matrix, full_matrices=False)
        matrix = u @ torch.diag(torch.arange(1.0, len(s) + 1) ** -1.5) @ vh
    elif spectrum == "low rank":
        matrix = matrix[:, :9] @ torch.randn(9, shape[1], generator=draw)
    cut = truncate_dense(matrix, 16, key_generator("test"))
    off = float((matrix.double() - cut.factors.b.double() @ cut.factors.a.double()).norm())
    norm = float(matrix.norm())
    assert cut.error == pytest.approx(off, rel=1e-3, abs=1e-5 * norm)
    assert cut.norm == pytest.approx(norm)
    assert off <= best_error(matrix, 16) * 1.002 + 1e-5 * norm


def test_zeros_and_missing_dimensions_are_padded():
    cut = truncate_dense(torch.zeros(5, 7), 3, key_generator("test"))
    assert cut.factors.a.shape == (3, 7)
    assert not cut.factors.b.any()
    assert (cut.error, cut.norm) == (0.0, 0.0)
    matrix = torch.randn(4, 6)
    wide = truncate_dense(matrix, 9, key_generator("test"))
    assert wide.factors.b.shape == (4, 9)
    torch.testing.assert_close(wide.factors.b @ wide.factors.a, matrix)


def test_the_root_of_each_singular_value_goes_to_either_factor():
    cut = truncate_factors(torch.randn(5, 40), torch.randn(30, 5), 3).factors
    torch.testing.assert_close(cut.a.norm(dim=1), cut.b.norm(dim=0))


def test_start_vectors_come_from_the_generator_alone():
    matrix = torch.randn(200, 150)
    state = torch.get_rng_state()
    one, two = (truncate_dense(matrix, 4, key_generator("k", 1)).factors for _ in range(2))
    assert torch.equal(one.a, two.a)
    assert torch.equal(state, torch.get_rng_state())
