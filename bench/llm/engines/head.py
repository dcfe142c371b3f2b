"""Log-probabilities of single tokens from final hidden states, without the full table of logits.

The vocabulary is walked in blocks: a block of logits stays in the processor's cache while its
exponentials are summed, so that the memory is a few megabytes whatever the number of rows. The
logits of the tokens that are asked for are computed apart, in float32.
"""

from __future__ import annotations

import torch
from torch import Tensor

from bench.llm.engines.sizes import padded

__all__ = ["token_log_probs"]

_BLOCK_BYTES = 1 << 20
_ROWS = 1024
_SMALLEST = 1e-30
"""Sums of exponentials below this are taken again with the largest logit subtracted."""


def token_log_probs(hidden: Tensor, weight: Tensor, rows: Tensor, tokens: Tensor) -> Tensor:
    """Log-probabilities (nats) of ``tokens`` under the softmax over the vocabulary.

    Args:
        hidden: ``(n, d)``, final hidden states.
        weight: ``(vocabulary, d)``, output embedding, of the same dtype.
        rows: int64 ``(k,)``: row of ``hidden`` of every question.
        tokens: int64 ``(k,)``: token asked for.

    Returns:
        float32, shape ``(k,)``.
    """
    parts = torch.split(hidden, _ROWS)
    normalisers = torch.cat([_log_sums(padded(part), weight)[: len(part)] for part in parts])
    logits = torch.cat(
        [
            torch.linalg.vecdot(hidden[r].float(), weight[t].float())
            for r, t in zip(torch.split(rows, _ROWS), torch.split(tokens, _ROWS), strict=True)
        ]
    )
    return logits.sub_(normalisers[rows])


def _log_sums(hidden: Tensor, weight: Tensor) -> Tensor:
    """Logarithm of the sum of the exponentials of every row's logits, float32 ``(n,)``."""
    block = max(256, _BLOCK_BYTES // (2 * len(hidden)))
    sums = torch.zeros(len(hidden), dtype=torch.float32, device=hidden.device)
    for part in torch.split(weight, block):
        sums += (hidden @ part.t()).float().exp_().sum(dim=-1)
    result = sums.log()
    # Logits are rarely beyond +-60; if they are, the largest one must be taken out first.
    unsafe = (~sums.isfinite()) | (sums < _SMALLEST)
    if bool(unsafe.any()):
        own = hidden[unsafe]
        parts = [
            torch.logsumexp((own @ part.t()).float(), dim=-1) for part in torch.split(weight, block)
        ]
        result[unsafe] = torch.logsumexp(torch.stack(parts), dim=0)
    return result
