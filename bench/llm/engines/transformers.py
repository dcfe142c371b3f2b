"""The reference engine: PyTorch and transformers, on a processor or an accelerator."""

from __future__ import annotations

import gc
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.errors import ConfigError, MethodError
from bench.llm.engines.base import Generation, TokenIds
from bench.llm.engines.cached import greedy, tree_log_probs
from bench.llm.engines.decoder import ForestDecoder, is_known
from bench.llm.engines.head import token_log_probs
from bench.llm.engines.lora_factors import Factors, attached, read_factors, stamp
from bench.llm.engines.tree import Piece, Tree, build_forest, build_tree, split

__all__ = ["TransformersEngine"]

_ADAPTERS_KEPT = 8


class TransformersEngine:
    """Scores and generates with a model of transformers.

    Branches are scored in one pass over the packed tree of every user
    (:mod:`bench.llm.engines.decoder`) for the families that it knows, and with a repeated
    key-value cache for all others; the results are the same up to rounding.

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
        self._decoder = ForestDecoder(model) if is_known(model) else None
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
        lengths = [len(p) + b for p, b in zip(prompts, max_new_tokens, strict=True)]
        order = sorted(range(len(prompts)), key=lambda i: (-len(prompts[i]), -lengths[i], i))
        found: dict[int, Generation] = {}
        with torch.inference_mode(), attached(self._model, self._factors(adapter)):
            while order:
                batch = [order[0]]
                widest = lengths[order[0]]
                for i in order[1:]:
                    widest = max(widest, len(prompts[order[0]]) + max_new_tokens[i])
                    if (len(batch) + 1) * widest > self._batch_tokens:
                        break
                    batch.append(i)
                order = order[len(batch) :]
                answers, n_read = greedy(
                    self._model,
                    [prompts[i] for i in batch],
                    [max_new_tokens[i] for i in batch],
                    frozenset(stop),
                )
                self.tokens_processed += n_read
                found.update(zip(batch, answers, strict=True))
        return [found[i] for i in range(len(prompts))]

    def close(self) -> None:
        """Free the model; the engine is not used afterwards."""
        self._model = self._decoder = None
        self._adapters.clear()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

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
        with torch.inference_mode():
            for batch in split(prompts, branches, self._batch_tokens):
                pieces = []
                for piece in batch:
                    own = branches[piece.user][piece.start : piece.stop]
                    tree = build_tree(prompts[piece.user], own, choices)
                    if tree.asked:
                        pieces.append((piece, tree))
                        self.tokens_processed += tree.size
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
        if self._decoder is None:
            with attached(self._model, None if adapter is None else adapter.factors):
                return [tree_log_probs(self._model, tree, self._batch_tokens) for tree in trees]
        forest = build_forest(trees)
        hidden = self._decoder(forest, None if adapter is None else adapter.stacked)
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
            self._adapters[key] = _Adapter(read_factors(folder, self._model), self._decoder)
        self._adapters.move_to_end(key)
        while len(self._adapters) > _ADAPTERS_KEPT:
            self._adapters.popitem(last=False)
        return self._adapters[key]

    def _factors(self, folder: Path | None) -> dict[str, Factors] | None:
        adapter = self._load(folder)
        return None if adapter is None else adapter.factors


class _Adapter:
    """Factors by module, and stacked for the decoder where there is one."""

    def __init__(self, factors: dict[str, Factors], decoder: ForestDecoder | None) -> None:
        self.factors = factors
        self.stacked = None if decoder is None else decoder.prepare(factors)
