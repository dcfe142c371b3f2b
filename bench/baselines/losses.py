"""Losses over the whole item vocabulary."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["full_softmax_loss"]

# Rows of logits held at once; at 20,000 items about 80 MB in fp32.
_CHUNK_ROWS = 1024


class _FullSoftmax(torch.autograd.Function):
    """Mean cross-entropy of ``hidden @ table.T + bias`` with the gradients computed on the way.

    The naive form keeps the logits, their log-softmax and the gradient of both: four passes of
    allocation over ``(n, n_items)``. Here one buffer is overwritten in place and the three products
    that need it follow at once, which halves the time on CPUs and the memory anywhere.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, table: Tensor, bias: Tensor | None, targets: Tensor
    ) -> Tensor:
        n = hidden.shape[0]
        total = hidden.new_zeros(())
        grad_hidden = torch.empty_like(hidden)
        grad_table = torch.zeros_like(table)
        grad_bias = torch.zeros_like(bias) if bias is not None else None
        buffer = hidden.new_empty(min(n, _CHUNK_ROWS), table.shape[0])
        for start in range(0, n, _CHUNK_ROWS):
            part = hidden[start : start + _CHUNK_ROWS]
            goal = targets[start : start + _CHUNK_ROWS, None]
            logits = buffer[: part.shape[0]]
            torch.mm(part, table.t(), out=logits)
            if bias is not None:
                logits.add_(bias)
            positive = logits.gather(1, goal)
            highest = logits.amax(dim=1, keepdim=True)
            logits.sub_(highest).exp_()
            normaliser = logits.sum(dim=1, keepdim=True)
            total += (normaliser.log() + highest - positive).sum()
            # From here on the buffer holds d loss / d logits = (softmax - one-hot) / n.
            logits.div_(normaliser * n)
            logits.scatter_add_(1, goal, logits.new_full((part.shape[0], 1), -1.0 / n))
            torch.mm(logits, table, out=grad_hidden[start : start + _CHUNK_ROWS])
            grad_table.addmm_(logits.t(), part)
            if grad_bias is not None:
                grad_bias += logits.sum(dim=0)
        if grad_bias is None:
            ctx.save_for_backward(grad_hidden, grad_table)
        else:
            ctx.save_for_backward(grad_hidden, grad_table, grad_bias)
        return total / n

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = grads
        grad_hidden, grad_table, *rest = ctx.saved_tensors
        grad_bias = rest[0] * scale if rest else None
        return grad_hidden * scale, grad_table * scale, grad_bias, None


def full_softmax_loss(
    hidden: Tensor, table: Tensor, targets: Tensor, bias: Tensor | None = None
) -> Tensor:
    """Mean softmax cross-entropy over all items, equal to ``cross_entropy(hidden @ table.T + bias)``.

    Args:
        hidden: float, shape ``(n, d)``, n >= 1.
        table: float, shape ``(n_items, d)``, item vectors.
        targets: int64, shape ``(n,)``, row of ``table`` that is right.
        bias: float, shape ``(n_items,)``, or None.

    Returns:
        Scalar tensor, nats, computed in float32 or wider. First-order gradients only (no double
        backward).
    """
    if hidden.dtype in (torch.bfloat16, torch.float16):
        hidden = hidden.float()
    # Under autocast the table is float32 too; the softmax over thousands of items stays in it.
    with torch.autocast(hidden.device.type, enabled=False):
        loss: Tensor = _FullSoftmax.apply(hidden, table, bias, targets)  # type: ignore[no-untyped-call]
    return loss
