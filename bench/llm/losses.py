"""Cross-entropy against a frozen vocabulary projection without keeping logits.

With 49,152 tokens in the vocabulary, the logits of 2,000 positions are 400 MB in float32, their
gradient as much again. Here a chunk of positions is projected, its softmax is taken in place, the
gradient with respect to the hidden states follows by one product, and the chunk's memory is used for
the next one. The projection is frozen, so it needs no gradient.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

__all__ = ["chunked_cross_entropy"]

# Bytes of one chunk of logits: few enough to stay in a cache of the last level, many enough for the
# products to run at full speed.
_CHUNK_BYTES = 24 * 2**20
# Probabilities below this lose digits, or all of them, in float32 and bfloat16.
_SMALL = 1e-30


def chunked_cross_entropy(
    hidden: Tensor, weight: Tensor, labels: Tensor, *, chunk_bytes: int = _CHUNK_BYTES
) -> Tensor:
    """Sum over positions of ``-log softmax(weight @ hidden)[label]``.

    Gradients reach ``hidden`` alone. Products run in the dtype of ``hidden``; so do the logits, whose
    softmax is computed in float32 inside the kernel and stored in that dtype.

    Args:
        hidden: (n, d), the last hidden states of the labelled positions.
        weight: (V, d), the vocabulary projection, same dtype; its gradient is not computed.
        labels: int64 (n,), in [0, V).
        chunk_bytes: most bytes of logits in memory, > 0.

    Returns:
        float32 scalar, in nats; 0 for n = 0.
    """
    loss: Tensor = _ChunkedCrossEntropy.apply(  # type: ignore[no-untyped-call]
        hidden, weight, labels, chunk_bytes
    )
    return loss


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Computes the gradient in the forward pass, while the softmax of the chunk is at hand."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, chunk_bytes: int
    ) -> Tensor:
        n, vocabulary = len(hidden), len(weight)
        rows = max(1, min(n, chunk_bytes // (vocabulary * hidden.element_size())))
        total = torch.zeros((), dtype=torch.float32, device=hidden.device)
        wants_gradient = ctx.needs_input_grad[0]
        gradient = torch.empty_like(hidden) if wants_gradient else hidden
        logits_memory = hidden.new_empty(rows, vocabulary)
        softmax_memory = hidden.new_empty(rows, vocabulary)
        projection = weight.detach().t()
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            target = labels[part, None]
            logits = logits_memory[: len(target)]
            softmax = softmax_memory[: len(target)]
            torch.mm(hidden[part].detach(), projection, out=logits)
            torch.softmax(logits, dim=-1, out=softmax)
            total += _negative_log(logits, softmax, target)
            if wants_gradient:
                # Not scatter_add_, which copies all of the softmax twice in bfloat16.
                rows_of = torch.arange(len(target), device=hidden.device)
                minus_one = softmax.new_full((len(target),), -1.0)
                softmax.index_put_((rows_of, target[:, 0]), minus_one, accumulate=True)
                torch.mm(softmax, weight.detach(), out=gradient[part])
        if wants_gradient:
            ctx.save_for_backward(gradient)
        return total

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * outputs[0].to(gradient.dtype), None, None, None


def _negative_log(logits: Tensor, softmax: Tensor, target: Tensor) -> Tensor:
    """Sum of ``-log softmax[target]``, also if that probability is below the dtype's range.

    ``log sum exp(logits)`` is ``logits[j] - log softmax[j]`` for every j: the label's own does, and
    if it is too small, the likeliest.
    """
    probability = softmax.gather(1, target).float()
    losses = -probability.log()
    lost = torch.nonzero(probability[:, 0] < _SMALL)[:, 0]
    if len(lost):
        rows, labels = logits[lost], target[lost]
        best = rows.argmax(dim=-1, keepdim=True)
        gap = rows.gather(1, best).float() - rows.gather(1, labels).float()
        losses[lost] = gap - softmax[lost].gather(1, best).float().log()
    return losses.sum()
