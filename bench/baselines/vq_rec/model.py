"""VQ-Rec's model: items are means of code vectors, read by SASRec's encoder.

Source: Hou, He, McAuley, Zhao, "Learning Vector-Quantized Item Representation for Transferable
Sequential Recommenders", WWW 2023, and its released model class, whose names of parameters are kept.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.sequence_encoder import EncoderConfig, SequenceEncoder, initialise

__all__ = [
    "Alignment",
    "VQRecModel",
    "apply_alignment",
    "fake_codes",
    "flat_ids",
    "released_alignment",
]

_ALIGNMENT_TEMPERATURE = 0.7
_SINKHORN_ROUNDS = 3


def flat_ids(codes: NDArray[np.int64], n_codes: int) -> NDArray[np.int64]:
    """Rows of the code table for items and padding.

    Args:
        codes: shape ``(n_items, m)``, in [0, n_codes).
        n_codes: codes per block.

    Returns:
        Shape ``(n_items + 1, m)``: ``1 + code + (n_codes + 1) * block``; row 0 (padding) is zeros.
        The first row of every block of the table is used by no item.
    """
    blocks = np.arange(codes.shape[1]) * (n_codes + 1)
    return np.concatenate([np.zeros((1, codes.shape[1]), dtype=np.int64), 1 + codes + blocks])


def fake_codes(ids: Tensor, n_codes: int, *, probability: float) -> Tensor:
    """Semi-synthetic negatives: codes of real items, some replaced by random ones of their block.

    The released code also sets the codes of the first fake item of every batch to those of padding;
    that is not done here.

    Args:
        ids: rows of the code table, shape ``(b, m)``, none of padding.
        n_codes: codes per block.
        probability: of replacing a code.

    Returns:
        Rows of the code table, shape ``(b, m)``. Draws from torch's generator.
    """
    first = 1 + torch.arange(ids.shape[1], device=ids.device) * (n_codes + 1)
    drawn = first + torch.randint(n_codes, ids.shape, device=ids.device)
    replaced = torch.rand(ids.shape, device=ids.device) < probability
    return torch.where(replaced, drawn, ids)


class VQRecModel(SequenceEncoder):
    """Items by their codes (``content``: rows of the code table).

    Args:
        config: sizes.
        n_blocks: codes per item, m.
        n_codes: codes per block, k.
    """

    def __init__(self, config: EncoderConfig, *, n_blocks: int, n_codes: int) -> None:
        super().__init__(config)
        self.pq_code_embedding = nn.Embedding(n_blocks * (n_codes + 1), config.hidden_size)
        initialise(self.pq_code_embedding)
        self.aligned: Tensor | None = None

    @property
    def table(self) -> Tensor:
        """The code table, or ``aligned`` if that stands in for it."""
        return self.pq_code_embedding.weight if self.aligned is None else self.aligned

    def code_vectors(self, ids: Tensor) -> Tensor:
        """Means of table rows: ``(n, m)`` -> ``(n, hidden_size)``."""
        return functional.embedding_bag(ids, self.table, mode="mean")

    def item_vectors(self) -> Tensor:
        return self.code_vectors(self.content[1:])

    def input_vectors(self, items: Tensor) -> Tensor:
        distinct, place = torch.unique(items, return_inverse=True)
        return functional.embedding(place, self.code_vectors(self.content[distinct]))


class Alignment(nn.Module):
    """Learns which pre-trained code vector stands for which code of a new index, block by block.

    The paper's section 3.3.2 learns a permutation of the codes of every block. As released, nothing is
    learnt: the 0/1 matrix comes from ``ceil``, whose gradient is zero, and rows choose on their own, so
    that it is no permutation. Here the gradient passes straight through to the doubly stochastic
    matrix, the unused first row of a block takes no part, and :meth:`permutation` solves the
    assignment.

    Args:
        n_blocks: blocks, m.
        n_codes: codes per block, k.
    """

    def __init__(self, n_blocks: int, n_codes: int) -> None:
        super().__init__()
        self.trans_matrix = nn.Parameter(torch.randn(n_blocks, n_codes, n_codes))

    def forward(self) -> Tensor:
        """0/1 matrices with one 1 per row, ``(m, k, k)``, with the gradient of the soft ones."""
        soft = _sinkhorn(self.trans_matrix, gumbel=self.training)
        hard = _row_maxima(soft)
        return hard + soft - soft.detach()

    @torch.no_grad()
    def permutation(self) -> Tensor:
        """The best bijection of every block, as 0/1 matrices ``(m, k, k)``."""
        soft = _sinkhorn(self.trans_matrix, gumbel=False)
        matrices = torch.zeros_like(soft)
        for block, weights in enumerate(soft.double().cpu().numpy()):
            rows, columns = linear_sum_assignment(weights, maximize=True)
            matrices[block, torch.from_numpy(rows), torch.from_numpy(columns)] = 1.0
        return matrices


def apply_alignment(matrices: Tensor, table: Tensor) -> Tensor:
    """The code table with the used rows of every block replaced by their matches.

    Args:
        matrices: ``(m, k, k)``, or ``(m, k + 1, k + 1)`` to move the unused rows as well.
        table: ``(m * (k + 1), hidden_size)``.
    """
    blocks = table.view(len(matrices), -1, table.shape[1])
    unmoved = blocks.shape[1] - matrices.shape[1]
    moved = torch.bmm(matrices, blocks[:, unmoved:])
    return torch.cat((blocks[:, :unmoved], moved), dim=1).view_as(table)


def released_alignment(n_blocks: int, n_codes: int) -> Tensor:
    """What the released code ends with: a random Gumbel sample, ``(m, k + 1, k + 1)``, no permutation.

    Its first epochs change nothing, because their gradient is zero, and are left out.
    """
    drawn = torch.randn(n_blocks, n_codes + 1, n_codes + 1)
    return _row_maxima(_sinkhorn(drawn, gumbel=True))


def _sinkhorn(scores: Tensor, *, gumbel: bool) -> Tensor:
    """Nearly doubly stochastic matrices: rows, then columns, are scaled to sum 1, three times."""
    if gumbel:
        # Exponential draws: -log of them is Gumbel noise.
        scores = scores - torch.empty_like(scores).exponential_().clamp_min(1e-30).log()
    scores = scores / _ALIGNMENT_TEMPERATURE
    for _ in range(_SINKHORN_ROUNDS):
        scores = scores - scores.logsumexp(dim=2, keepdim=True)
        scores = scores - scores.logsumexp(dim=1, keepdim=True)
    return scores.exp()


def _row_maxima(weights: Tensor) -> Tensor:
    best = weights.argmax(dim=2, keepdim=True)
    return torch.zeros_like(weights).scatter_(2, best, 1.0)
