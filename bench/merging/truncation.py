"""Factors of lower rank: exact from stacked factors, by subspace iteration from a dense matrix.

Both return balanced factors (A and B carry the square root of each singular value), which lose least
when they are stored in a short number format, and the Frobenius norm of what was cut.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch

from bench.merging.adapter import Factors

__all__ = ["Truncated", "truncate_dense", "truncate_factors"]

OVERSAMPLING = 16
MAX_ITERATIONS = 12
CONVERGED = 1e-5
"""Relative growth of the captured energy below which subspace iteration stops."""

BLOCK_ELEMENTS = 2**16
"""Entries compared at a time, few enough for a core's cache."""


class Truncated(NamedTuple):
    """Factors of a matrix, cut to a rank.

    Attributes:
        factors: float32 factors of exactly the rank asked for, padded with zeros if the matrix
            has fewer dimensions.
        error: Frobenius norm of the matrix minus the product of the factors.
        norm: Frobenius norm of the matrix.
    """

    factors: Factors
    error: float
    norm: float


def truncate_factors(a: torch.Tensor, b: torch.Tensor, rank: int) -> Truncated:
    """Cut B A to ``rank`` without forming it: QR of both factors, SVD of the small core.

    Args:
        a: float32 (R, d_in).
        b: float32 (d_out, R).
        rank: rank to keep, at least 1.

    Returns:
        The best approximation of this rank (Eckart and Young), its error and the norm of B A.
    """
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, sigma, vh = torch.linalg.svd(r_b.double() @ r_a.double().T, full_matrices=False)
    factors = _balanced(q_b @ u[:, :rank].float(), sigma[:rank], vh[:rank].float() @ q_a.T, rank)
    return Truncated(factors, float(sigma[rank:].norm()), float(sigma.norm()))


def truncate_dense(matrix: torch.Tensor, rank: int, generator: torch.Generator) -> Truncated:
    """Cut a dense matrix to ``rank`` by randomised subspace iteration.

    Halko, Martinsson and Tropp, "Finding structure with randomness", SIAM Review 53(2), 2011,
    algorithm 4.4, repeated until the captured energy stops growing; matrices with few dimensions go
    through an ordinary SVD. The error is measured on the matrix itself, not estimated.

    Args:
        matrix: float32 (d_out, d_in).
        rank: rank to keep, at least 1.
        generator: source of the start vectors.

    Returns:
        The approximation, its measured error and the norm of the matrix.
    """
    norm = float(matrix.norm())
    width = rank + OVERSAMPLING
    if norm == 0.0:
        return Truncated(_balanced(*_nothing(matrix), rank), 0.0, 0.0)
    if 2 * width >= min(matrix.shape):
        u, sigma, vh = torch.linalg.svd(matrix, full_matrices=False)
    else:
        u, sigma, vh = _subspace(matrix, rank, width, generator)
    factors = _balanced(u[:, :rank], sigma[:rank], vh[:rank], rank)
    return Truncated(factors, _distance(matrix, factors), norm)


def _subspace(
    matrix: torch.Tensor, rank: int, width: int, generator: torch.Generator
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    right = torch.randn(matrix.shape[1], width, generator=generator)
    captured = 0.0
    for _ in range(MAX_ITERATIONS):
        q = _orthonormal(matrix @ right)
        right, triangle = torch.linalg.qr(matrix.T @ q)
        # The singular values of Q' M tell how much of the matrix the subspace holds.
        before, captured = captured, float(_energy(triangle, rank))
        if captured - before <= CONVERGED * captured:
            break
    u, sigma, vh = torch.linalg.svd(triangle.T.double(), full_matrices=False)
    return q @ u.float(), sigma, vh.float() @ right.T


def _energy(triangle: torch.Tensor, rank: int) -> torch.Tensor:
    values: torch.Tensor = torch.linalg.svdvals(triangle)[:rank]
    return values.double().square().sum()


def _orthonormal(matrix: torch.Tensor) -> torch.Tensor:
    q: torch.Tensor = torch.linalg.qr(matrix).Q
    return q


def _nothing(matrix: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    return matrix.new_zeros(len(matrix), 0), matrix.new_zeros(0), matrix.new_zeros(0, len(matrix.T))


def _balanced(u: torch.Tensor, sigma: torch.Tensor, vh: torch.Tensor, rank: int) -> Factors:
    root = sigma.sqrt().float()
    a, b = root[:, None] * vh, u * root
    missing = rank - len(root)
    if missing > 0:
        a = torch.cat([a, a.new_zeros(missing, a.shape[1])])
        b = torch.cat([b, b.new_zeros(b.shape[0], missing)], dim=1)
    return Factors(a, b)


def _distance(matrix: torch.Tensor, factors: Factors) -> float:
    rows = max(1, BLOCK_ELEMENTS // matrix.shape[1])
    total = 0.0
    for block, b in zip(torch.split(matrix, rows), torch.split(factors.b, rows), strict=True):
        total += float(torch.addmm(block, b, factors.a, alpha=-1).norm()) ** 2
    return math.sqrt(total)
