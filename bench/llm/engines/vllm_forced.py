"""Forced decoding inside vLLM: a request emits tokens that are known beforehand.

vLLM takes log-probabilities from the logits *before* its logits processors touch them, so a request
whose next token is forced at every step reports the model's own log-probability of a given
continuation, over the whole vocabulary, and reads its prompt from the prefix cache like any other
request. vLLM imports this module itself, by the name in :data:`PROCESSOR`, in the process that
runs the model; nothing else may import it, because vLLM is an extra.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from vllm.v1.sample.logits_processor import LogitsProcessor
from vllm.v1.sample.logits_processor.builtin import process_dict_updates

__all__ = ["ForcedTokens"]


class ForcedTokens(LogitsProcessor):  # type: ignore[misc]  # vLLM is untyped here
    """Forces the tokens in ``SamplingParams.extra_args["forced_tokens"]``, one per step.

    Requests without them are left alone.
    """

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        self._device = device
        # Place in the batch -> tokens to force, and the tokens emitted so far. vLLM keeps the
        # latter list up to date; its length is the step, also after a preemption.
        self._requests: dict[int, tuple[Sequence[int], Sequence[int]]] = {}

    def is_argmax_invariant(self) -> bool:
        return False

    def update_state(self, batch_update: Any) -> None:
        process_dict_updates(
            self._requests,
            batch_update,
            lambda params, _prompt, emitted: (
                (forced, emitted)
                if (forced := (params.extra_args or {}).get("forced_tokens"))
                else None
            ),
        )

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        rows, columns = [], []
        for row, (forced, emitted) in self._requests.items():
            if len(emitted) < len(forced):
                rows.append(row)
                columns.append(forced[len(emitted)])
        if rows:
            where = torch.tensor([rows, columns], device=self._device)
            logits[where[0]] = float("-inf")
            logits[where[0], where[1]] = 0.0
        return logits
