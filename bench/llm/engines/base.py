"""What every engine can do: score branches after prompts, choose next tokens, write freely or from a list."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from numpy.typing import NDArray

__all__ = ["Choice", "Engine", "Generation", "TokenIds"]

TokenIds = NDArray[np.int32]
"""Token ids of one text, int32, shape ``(n_tokens,)``."""


@dataclass(frozen=True, slots=True, eq=False)
class Generation:
    """One generated answer.

    Attributes:
        tokens: int32, shape ``(n,)``: the new tokens, without the stop token.
        finished: ``stop`` if a stop token ended it, ``length`` if the budget did.
    """

    tokens: TokenIds
    finished: Literal["stop", "length"]


@dataclass(frozen=True, slots=True, eq=False)
class Choice:
    """A title that a constrained list may name.

    Engines that constrain by grammar read its text, others its tokens.

    Attributes:
        text: the title.
        followed: it and the separator, if more titles follow.
        last: it and what ends the list.
    """

    text: str
    followed: TokenIds
    last: TokenIds


class Engine(Protocol):
    """A language model that scores and generates under a base model or one of its LoRA adapters.

    ``adapter`` is a PEFT folder or None for the base alone; any number may alternate. Prompts hold
    at least one token. Results do not depend on what else is in a call beyond rounding (1e-4 in
    float32); the same call on the same machine with the same threads gives the same bits.

    Attributes:
        name: name of the engine, part of a run's identity.
        tokens_processed: tokens that went through the model so far, counted as the engine runs
            them: a shared prompt once, padding not at all.
    """

    name: str
    tokens_processed: int

    def branch_log_probs(
        self,
        prompts: Sequence[TokenIds],
        branches: Sequence[Sequence[TokenIds]],
        *,
        adapter: Path | None,
    ) -> list[NDArray[np.float64]]:
        """Sum of the token log-probabilities (nats) of every branch after its prompt.

        Args:
            prompts: n token sequences.
            branches: for every prompt its continuations, of any number and length; an empty one
                has log-probability 0.
            adapter: PEFT folder, or None for the base.

        Returns:
            One float64 array of shape ``(n_branches,)`` per prompt.
        """
        ...

    def branch_choice(
        self,
        prompts: Sequence[TokenIds],
        branches: Sequence[Sequence[TokenIds]],
        choices: Sequence[int],
        *,
        adapter: Path | None,
    ) -> list[NDArray[np.float32]]:
        """Log-probabilities (nats) of given next tokens after prompt and branch.

        Args:
            prompts: n token sequences.
            branches: for every prompt its continuations; an empty one asks right after the prompt.
            choices: token ids whose log-probability is wanted.
            adapter: PEFT folder, or None for the base.

        Returns:
            One float32 array of shape ``(n_branches, len(choices))`` per prompt.
        """
        ...

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_new_tokens: Sequence[int],
        stop: Sequence[int],
        adapter: Path | None,
    ) -> list[Generation]:
        """Greedy continuation of every prompt.

        Args:
            prompts: n token sequences.
            max_new_tokens: largest number of new tokens, per prompt.
            stop: token ids that end an answer; they are not part of it.
            adapter: PEFT folder, or None for the base.

        Returns:
            One :class:`Generation` per prompt.
        """
        ...

    def generate_list(
        self,
        prompts: Sequence[TokenIds],
        choices: Sequence[Sequence[Choice]],
        *,
        n_titles: int,
        separator: str,
        adapter: Path | None,
    ) -> list[Generation]:
        """Greedy lists of distinct titles, each constrained to the titles not yet named.

        Args:
            prompts: n token sequences.
            choices: for every prompt the titles to choose from; equal ones count once.
            n_titles: length of the list, >= 1; shorter if there are fewer titles.
            separator: text between two titles.
            adapter: PEFT folder, or None for the base alone.

        Returns:
            One :class:`Generation` per prompt; its tokens may hold what ends the list.
        """
        ...

    def close(self) -> None:
        """Free the model; the engine is not used afterwards."""
        ...
