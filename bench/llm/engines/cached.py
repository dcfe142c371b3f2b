"""Generation through a model's own forward pass and its key-value cache, in left-padded batches."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.llm.engines.base import Generation, TokenIds
from bench.llm.engines.choices import ListWalk

__all__ = ["constrained", "greedy"]


def greedy(
    model: Any,
    prompts: Sequence[TokenIds],
    budgets: Sequence[int],
    stop: Collection[int],
) -> tuple[list[Generation], int]:
    """Most probable next token, again and again, for one batch.

    Args:
        model: causal language model of transformers.
        prompts: the rows.
        budgets: most new tokens of every row, >= 1.
        stop: tokens that end a row; not part of the answer.

    Returns:
        The answers, and how many tokens the model read.
    """
    answers: list[list[int]] = [[] for _ in prompts]
    stopped = [False] * len(prompts)

    def choose(rows: Sequence[int], logits: Tensor) -> list[int | None]:
        chosen: list[int | None] = logits.argmax(dim=-1).tolist()
        for place, (row, token) in enumerate(zip(rows, chosen, strict=True)):
            stopped[row] = token in stop
            if token is not None and not stopped[row]:
                answers[row].append(token)
            if stopped[row] or len(answers[row]) == budgets[row]:
                chosen[place] = None
        return chosen

    n_read = _decode(model, prompts, choose)
    return [
        Generation(np.array(answer, dtype=np.int32), "stop" if ended else "length")
        for answer, ended in zip(answers, stopped, strict=True)
    ], n_read


def constrained(model: Any, prompts: Sequence[TokenIds], walks: Sequence[ListWalk]) -> int:
    """Most probable allowed token, again and again, for one batch; finishes the walks.

    Args:
        model: causal language model of transformers.
        prompts: the rows.
        walks: the list of every row, none of them complete.

    Returns:
        How many tokens the model read.
    """

    def choose(rows: Sequence[int], logits: Tensor) -> list[int | None]:
        allowed = [walks[row].allowed for row in rows]
        widest = max(map(len, allowed))
        # Rows with fewer choices repeat one; the first of equals is taken.
        padded = torch.tensor([own + own[:1] * (widest - len(own)) for own in allowed])
        best = logits.gather(1, padded.to(logits.device)).argmax(dim=-1).tolist()
        following: list[int | None] = []
        for row, own, place in zip(rows, allowed, best, strict=True):
            token = own[place] if place < len(own) else own[0]
            walks[row].take(token)
            following.append(None if walks[row].complete else token)
        return following

    return _decode(model, prompts, choose)


def _decode(
    model: Any,
    prompts: Sequence[TokenIds],
    choose: Callable[[Sequence[int], Tensor], Sequence[int | None]],
) -> int:
    """Read prompts and what is chosen after them, token by token, in one left-padded batch.

    Rows leave the batch as soon as they are finished.

    Args:
        model: causal language model of transformers.
        prompts: the rows.
        choose: from some rows and their next-token logits ``(n, vocabulary)`` to the token that each
            of them goes on with, or None if it is finished.

    Returns:
        How many tokens the model read.
    """
    device = model.get_input_embeddings().weight.device
    longest = max(map(len, prompts))
    ids = np.zeros((len(prompts), longest), dtype=np.int64)
    real = np.zeros((len(prompts), longest), dtype=np.int64)
    for row, prompt in enumerate(prompts):
        ids[row, longest - len(prompt) :] = prompt
        real[row, longest - len(prompt) :] = 1
    mask = torch.from_numpy(real).to(device)
    positions = (mask.cumsum(-1) - 1).clamp_(min=0)
    n_read = int(real.sum())
    done = model(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=mask,
        position_ids=positions,
        use_cache=True,
        logits_to_keep=1,
    )
    positions = positions[:, -1:]
    cache = done.past_key_values
    rows = list(range(len(prompts)))
    while True:
        chosen = choose(rows, done.logits[:, -1])
        alive = [place for place, token in enumerate(chosen) if token is not None]
        if not alive:
            return n_read
        if len(alive) < len(rows):
            keep = torch.tensor(alive, device=device)
            cache.batch_select_indices(keep)
            mask, positions = mask[keep], positions[keep]
            rows = [rows[place] for place in alive]
        mask = torch.cat((mask, mask.new_ones(len(rows), 1)), dim=-1)
        positions = positions + 1
        n_read += len(rows)
        done = model(
            input_ids=torch.tensor([[chosen[place]] for place in alive], device=device),
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
        )
