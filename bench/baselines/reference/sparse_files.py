"""Sparse matrices as ``.npy`` files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import scipy.sparse as sp

__all__ = ["load_sparse", "save_sparse"]


def save_sparse(folder: Path, name: str, matrix: sp.csr_array) -> None:
    """Write a CSR matrix as ``NAME-data.npy``, ``-indices``, ``-indptr`` and ``-shape``."""
    np.save(folder / f"{name}-data.npy", matrix.data)
    np.save(folder / f"{name}-indices.npy", matrix.indices)
    np.save(folder / f"{name}-indptr.npy", matrix.indptr)
    np.save(folder / f"{name}-shape.npy", np.asarray(matrix.shape, dtype=np.int64))


def load_sparse(folder: Path, name: str) -> sp.csr_array:
    """Read what :func:`save_sparse` wrote."""
    data, indices, indptr, shape = (
        np.load(folder / f"{name}-{part}.npy", allow_pickle=False)
        for part in ("data", "indices", "indptr", "shape")
    )
    return sp.csr_array((data, indices, indptr), shape=tuple(shape.tolist()))
