"""The loss of packed sequences under a causal language model with PEFT's LoRA layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from bench.llm.batching import Packed
from bench.llm.llama import Llama, is_known

__all__ = ["loss_function", "plain_loss"]


def loss_function(
    model: Any, *, gradient_checkpointing: bool = False
) -> Callable[[Packed], Tensor]:
    """Make the function from packed sequences to their summed loss (float32 scalar, nats).

    Args:
        model: causal language model with the layers of :func:`bench.llm.lora.attach_lora`.
        gradient_checkpointing: keep only the input of every layer and compute the layer again in the
            backward pass.
    """
    model.train()  # dropout of the adapter
    if is_known(model):
        return Llama(model, gradient_checkpointing=gradient_checkpointing).loss
    if gradient_checkpointing:
        model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    return lambda packed: plain_loss(model, packed)


def plain_loss(model: Any, packed: Packed) -> Tensor:
    """Summed loss by the model's own forward on a right-padded batch with full logits."""
    device = model.get_input_embeddings().weight.device
    lengths = np.diff(packed.bounds)
    real = np.arange(lengths.max(initial=1)) < lengths[:, None]
    tokens = np.zeros(real.shape, dtype=np.int64)
    tokens[real] = packed.tokens
    mask = torch.from_numpy(real).to(device)
    logits = model(
        input_ids=torch.from_numpy(tokens).to(device), attention_mask=mask, use_cache=False
    ).logits[mask]
    chosen = logits[torch.from_numpy(packed.predicting).to(device)].float()
    return F.cross_entropy(chosen, torch.from_numpy(packed.labels).to(device), reduction="sum")
