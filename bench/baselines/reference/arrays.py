"""Array operations shared by the reference rows."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bench.methods import DomainView

__all__ = ["item_counts"]


def item_counts(domain: DomainView) -> NDArray[np.int64]:
    """How often every item occurs in the training sequences; int64, shape ``(n_items,)``."""
    return np.bincount(domain.sequences.items, minlength=domain.n_items).astype(np.int64)
