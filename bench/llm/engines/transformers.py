"""The reference engine: PyTorch and transformers, on a processor or an accelerator."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.errors import ConfigError, MethodError
from bench.llm.engines.base import Choice, Generation, TokenIds
from bench.llm.engines.cached import constrained, greedy
from bench.llm.engines.choices import ListWalk
from bench.llm.engines.head import token_log_probs
from bench.llm.engines.tree import Piece, Tree, build_forest, build_tree, split
from bench.llm.engines.updates import Update, attached, read_updates, stamp
from bench.llm.llama import LayerLora, Llama, is_known
from bench.llm.own_forward import row_log_probs, takes_tree_mask, tree_log_probs
from bench.memory import release_accelerators

__all__ = ["TransformersEngine"]

_ADAPTERS_KEPT = 8
_LOGITS_BYTES = 1 << 30
"""Most bytes of the logits (float32) of one tree, by a model's own forward pass."""


class TransformersEngine:
    """Scores and generates with a model of transformers.

    Branches are scored in one pass over the packed trees of several users for the families that
    :class:`bench.llm.llama.Llama` knows, and by the model's own forward pass, tree by tree, for all
    others (:mod:`bench.llm.own_forward`); the results are the same up to rounding.

    Args:
        model: causal language model in evaluation mode. Linear layers with one input are stored
            stacked from now on (their weights become views); its outputs do not change.
        batch_tokens: most tokens processed together, >= 1; bounds the memory. One prompt with one
            branch may exceed it.
    """

    name = "transformers"

    def __init__(self, model: Any, *, batch_tokens: int = 4096) -> None:
        if batch_tokens < 1:
            raise ConfigError(f"batch_tokens is {batch_tokens}; expected 1 or more.")
        self.tokens_processed = 0
        self._model = model
        self._batch_tokens = batch_tokens
        self._vocabulary: int = model.get_input_embeddings().weight.shape[0]
        self._longest: int | None = getattr(model.config, "max_position_embeddings", None)
        self._llama = Llama(model) if is_known(model) else None
        self._takes_mask = self._llama is None and takes_tree_mask(model)
        self._adapters: OrderedDict[tuple[str, int, int], _Adapter] = OrderedDict()

    def branch_log_probs(
        self,
        prompts: Sequence[TokenIds],
        branches: Sequence[Sequence[TokenIds]],
        *,
        adapter: Path | None,
    ) -> list[NDArray[np.float64]]:
        """Sum of the token log-probabilities of every branch; see :class:`Engine`."""
        sums = [np.zeros(len(own), dtype=np.float64) for own in branches]
        for piece, tree, values in self._answers(prompts, branches, None, adapter):
            np.add.at(sums[piece.user][piece.start : piece.stop], tree.owners, values)
        return sums

    def branch_choice(
        self,
        prompts: Sequence[TokenIds],
        branches: Sequence[Sequence[TokenIds]],
        choices: Sequence[int],
        *,
        adapter: Path | None,
    ) -> list[NDArray[np.float32]]:
        """Log-probabilities of given next tokens after every branch; see :class:`Engine`."""
        self._check_ids(np.asarray(choices, dtype=np.int64), "choices")
        found = [np.empty((len(own), len(choices)), dtype=np.float32) for own in branches]
        for piece, _tree, values in self._answers(prompts, branches, choices, adapter):
            part = found[piece.user][piece.start : piece.stop]
            part[:] = values.reshape(part.shape)
        return found

    def generate(
        self,
        prompts: Sequence[TokenIds],
        *,
        max_new_tokens: Sequence[int],
        stop: Sequence[int],
        adapter: Path | None,
    ) -> list[Generation]:
        """Greedy continuation of every prompt; see :class:`Engine`."""
        for user, (prompt, budget) in enumerate(zip(prompts, max_new_tokens, strict=True)):
            if budget < 1:
                raise ConfigError(f"max_new_tokens of prompt {user} is {budget}; expected >= 1.")
            self._check(user, prompt, budget)
        found: dict[int, Generation] = {}

        def write(batch: list[int]) -> int:
            answers, n_read = greedy(
                self._model,
                [prompts[i] for i in batch],
                [max_new_tokens[i] for i in batch],
                frozenset(stop),
            )
            found.update(zip(batch, answers, strict=True))
            return n_read

        self._decode(prompts, dict(enumerate(max_new_tokens)), write, adapter)
        return [found[i] for i in range(len(prompts))]

    def generate_list(
        self,
        prompts: Sequence[TokenIds],
        choices: Sequence[Sequence[Choice]],
        *,
        n_titles: int,
        separator: str,
        adapter: Path | None,
    ) -> list[Generation]:
        """Greedy lists of distinct titles, by the tokens of the choices; see :class:`Engine`."""
        walks = [ListWalk(own, n_titles) for own in choices]
        for user, (prompt, own, walk) in enumerate(zip(prompts, choices, walks, strict=True)):
            self._check(user, prompt, walk.longest)
            for choice in own:
                self._check_ids(choice.followed, f"a title of prompt {user}")
                self._check_ids(choice.last, f"a title of prompt {user}")

        def write(batch: list[int]) -> int:
            return constrained(self._model, [prompts[i] for i in batch], [walks[i] for i in batch])

        budgets = {i: walk.longest for i, walk in enumerate(walks) if not walk.complete}
        self._decode(prompts, budgets, write, adapter)
        return [Generation(np.array(walk.tokens, dtype=np.int32), "stop") for walk in walks]

    def close(self) -> None:
        """Free the model; the engine is not used afterwards."""
        self._model = self._llama = None
        self._adapters.clear()
        release_accelerators()

    def _decode(
        self,
        prompts: Sequence[TokenIds],
        budgets: dict[int, int],
        write: Callable[[list[int]], int],
        adapter: Path | None,
    ) -> None:
        """Call ``write`` with batches of prompts of similar length that fit into ``batch_tokens``.

        Args:
            prompts: token sequences.
            budgets: for every prompt that is continued its largest number of new tokens.
            write: continues some of them; returns how many tokens the model read.
            adapter: PEFT folder, or None for the base.
        """
        order = sorted(budgets, key=lambda i: (-len(prompts[i]), -budgets[i], i))
        with torch.inference_mode(), attached(self._model, self._updates(adapter)):
            while order:
                longest, budget, n = len(prompts[order[0]]), budgets[order[0]], 1
                while n < len(order):
                    budget = max(budget, budgets[order[n]])
                    if (n + 1) * (longest + budget) > self._batch_tokens:
                        break
                    n += 1
                self.tokens_processed += write(order[:n])
                order = order[n:]

    def _answers(
        self,
        prompts: Sequence[TokenIds],
        branches: Sequence[Sequence[TokenIds]],
        choices: Sequence[int] | None,
        adapter: Path | None,
    ) -> list[tuple[Piece, Tree, NDArray[np.float32]]]:
        """Every piece with its tree and the log-probability of each of the tree's questions."""
        for user, (prompt, own) in enumerate(zip(prompts, branches, strict=True)):
            self._check(user, prompt, max(map(len, own), default=0))
            for branch in own:
                self._check_ids(branch, f"a branch of prompt {user}")
        loaded = self._load(adapter)
        found = []
        batch_tokens = self._batch_tokens
        if self._llama is None:
            batch_tokens = min(batch_tokens, _LOGITS_BYTES // (4 * self._vocabulary))
        with torch.inference_mode():
            for batch in split(prompts, branches, batch_tokens):
                pieces = []
                for piece in batch:
                    own = branches[piece.user][piece.start : piece.stop]
                    tree = build_tree(prompts[piece.user], own, choices)
                    if tree.asked:
                        pieces.append((piece, tree))
                        as_rows = self._llama is None and not self._takes_mask
                        self.tokens_processed += tree.size_in_rows if as_rows else tree.size
                for (piece, tree), values in zip(
                    pieces, self._forest_answers([t for _, t in pieces], loaded), strict=True
                ):
                    found.append((piece, tree, values))
        return found

    def _forest_answers(
        self, trees: Sequence[Tree], adapter: _Adapter | None
    ) -> list[NDArray[np.float32]]:
        if not trees:
            return []
        if self._llama is None:
            with attached(self._model, None if adapter is None else adapter.updates):
                if self._takes_mask:
                    return [tree_log_probs(self._model, tree) for tree in trees]
                return [row_log_probs(self._model, tree, self._batch_tokens) for tree in trees]
        forest = build_forest(trees)
        hidden = self._llama.states(forest, None if adapter is None else adapter.stacked)
        head = self._model.get_output_embeddings().weight
        rows, targets = (torch.from_numpy(a).to(head.device) for a in (forest.rows, forest.targets))
        values = token_log_probs(hidden, head, rows, targets).cpu().numpy()
        return np.split(values, np.cumsum([len(tree.asked) for tree in trees])[:-1])

    def _check(self, user: int, prompt: TokenIds, more: int) -> None:
        if not len(prompt):
            raise ConfigError(f"prompt {user} is empty; expected at least one token.")
        self._check_ids(prompt, f"prompt {user}")
        if self._longest is not None and len(prompt) + more > self._longest:
            raise MethodError(
                f"prompt {user} has {len(prompt)} tokens and up to {more} follow; the model reads "
                f"at most {self._longest}. Lower max_history or max_prompt_tokens."
            )

    def _check_ids(self, ids: NDArray[Any], what: str) -> None:
        if len(ids) and not (ids.min() >= 0 and ids.max() < self._vocabulary):
            raise ConfigError(
                f"{what} holds token ids from {ids.min()} to {ids.max()}; the model knows 0 to "
                f"{self._vocabulary - 1}. Use the tokenizer of the same backbone."
            )

    def _load(self, folder: Path | None) -> _Adapter | None:
        """The adapter of a folder, read again only if its file has changed."""
        if folder is None:
            return None
        key = stamp(folder)
        if key not in self._adapters:
            self._adapters[key] = _Adapter(read_updates(folder, self._model), self._llama)
        self._adapters.move_to_end(key)
        while len(self._adapters) > _ADAPTERS_KEPT:
            self._adapters.popitem(last=False)
        return self._adapters[key]

    def _updates(self, folder: Path | None) -> dict[str, Update] | None:
        adapter = self._load(folder)
        return None if adapter is None else adapter.updates


class _Adapter:
    """Updates by module, and stacked for a model of the known families."""

    def __init__(self, updates: dict[str, Update], llama: Llama | None) -> None:
        self.updates = updates
        self.stacked: list[LayerLora] | None = None if llama is None else llama.stack(updates)
