"""What a model's own forward pass is asked for: the loss of packed sequences, the answers of a tree.

Works for every causal language model of transformers. The vocabulary projection, and whatever a family
does to its outcome, runs only at the tokens that are asked for: a hook in front of it picks them.

A tree of branches is one row of tokens under a mask of its own. Whether a model obeys such a mask is
tried on a few tokens (:func:`takes_tree_mask`); recurrent layers, ALiBi and windows over places in the
row do not, and their trees are read path by path, each behind the whole prompt.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F  # noqa: N812 - its usual name

from bench.llm.batching import Packed
from bench.llm.engines.tree import Forest, Tree, build_forest, build_tree, visible

__all__ = [
    "additive_mask",
    "plain_loss",
    "recompute_layers",
    "row_log_probs",
    "takes_tree_mask",
    "tree_log_probs",
]

_KINDS = {"full_attention", "sliding_attention"}
"""Kinds of layers for which a mask can say what a token sees."""

_ERROR_FLOAT32, _ERROR_SHORT = 1e-3, 0.2
"""Largest error of the trial, in standard deviations of a token's log-probabilities."""


def plain_loss(model: Any, packed: Packed) -> Tensor:
    """Summed loss of packed sequences, float32 scalar (nats)."""
    logits = _sequence_logits(model, packed.tokens, packed.bounds, packed.predicting)
    labels = torch.from_numpy(packed.labels).to(logits.device)
    return F.cross_entropy(logits.float(), labels, reduction="sum")


def recompute_layers(model: Any) -> None:
    """Let a model of transformers keep only the input of every layer and compute it again backwards."""
    # Renamed in transformers 5; the old name warns.
    name = "activation_checkpointing_enable"
    enable = getattr(model, name, None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": False})
    for layer in model.modules():
        # What transformers checks, layer by layer. Only what recomputes is switched, so that no
        # dropout is.
        if hasattr(layer, "gradient_checkpointing"):
            layer.training = True


def tree_log_probs(model: Any, tree: Tree) -> NDArray[np.float32]:
    """Log-probabilities (nats) of everything that a tree asks for, in one pass under its mask.

    Args:
        model: causal language model for which :func:`takes_tree_mask` holds.
        tree: a prompt with its branches.

    Returns:
        float32, shape ``(n_asked,)``, in the tree's order.
    """
    forest = build_forest([tree])
    device = model.get_input_embeddings().weight.device
    logits = _logits_at(
        model,
        forest.read,
        input_ids=torch.from_numpy(forest.tokens).to(device)[None],
        position_ids=torch.from_numpy(forest.positions).to(device)[None],
        attention_mask=_masks(model, forest, device),
    )
    return _log_probs(logits, forest.rows, forest.targets)


def row_log_probs(model: Any, tree: Tree, batch_tokens: int) -> NDArray[np.float32]:
    """What :func:`tree_log_probs` returns, by any model: every path is read behind the whole prompt.

    Args:
        model: causal language model of transformers.
        tree: a prompt with its branches.
        batch_tokens: most tokens read together, padding included; one path may exceed it.
    """
    rows = [np.append(tree.prompt, [tree.tokens[n] for n in path]) for path in tree.paths or [[]]]
    # The first path that holds a node answers for it.
    places = {-1: (0, len(tree.prompt) - 1)}
    for row, path in enumerate(tree.paths):
        for depth, node in enumerate(path):
            places.setdefault(node, (row, len(tree.prompt) + depth))
    owners, offsets = np.array([places[node] for node in tree.asked]).reshape(-1, 2).T
    targets, found = np.array(tree.targets), np.empty(len(tree.asked), dtype=np.float32)
    size = max(1, batch_tokens // max(map(len, rows)))
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        bounds = np.cumsum([0, *map(len, part)])
        here = np.flatnonzero((owners >= start) & (owners < start + size))
        read, which = np.unique(bounds[owners[here] - start] + offsets[here], return_inverse=True)
        logits = _sequence_logits(model, np.concatenate(part).astype(np.int64), bounds, read)
        found[here] = _log_probs(logits, which, targets[here])
    return found


def takes_tree_mask(model: Any) -> bool:
    """Whether a model answers a tree under its mask as it answers the paths one by one.

    Tried on a few tokens; windows, which only show in long texts, are known from the configuration.
    """
    config = model.config.get_text_config()
    kinds = {*(getattr(config, "layer_types", None) or ())}
    kinds |= {*(getattr(config, "attention_layers", None) or ())}
    if config._attn_implementation not in ("sdpa", "eager") or kinds - _KINDS:
        return False
    weight = model.get_input_embeddings().weight
    ids = np.random.default_rng(0).integers(0, len(weight), 99, dtype=np.int32)
    # Equal tokens after different ones, behind a long branch that they must neither see nor be
    # moved away from the prompt by.
    a, b, c, d = ids[3:7]
    short = [np.array(own, dtype=np.int32) for own in ([a, b, c], [a, c], [d, b, c], [b, c])]
    tree = build_tree(ids[:3], [ids[7:35], *short], ids[35:].tolist())
    try:
        with torch.inference_mode():
            found = tree_log_probs(model, tree)
            expected = row_log_probs(model, tree, 1)
    except (AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError):
        return False
    spread = float(expected.reshape(-1, 64).std(axis=1).min())
    exact = weight.dtype == torch.float32 and getattr(model, "hf_quantizer", None) is None
    allowed = _ERROR_FLOAT32 if exact else _ERROR_SHORT
    return float(np.abs(found - expected).mean()) <= allowed * spread


def additive_mask(sees: NDArray[np.bool_], dtype: torch.dtype, device: torch.device) -> Tensor:
    """What is added to attention's scores: 0 if a token (row) sees another, else minus infinity."""
    mask = torch.zeros(sees.shape, dtype=dtype, device=device)
    return mask.masked_fill_(torch.from_numpy(~sees).to(device), float("-inf"))


def _masks(model: Any, forest: Forest, device: torch.device) -> Tensor | dict[str, Tensor]:
    """The mask of a forest, ``(1, 1, n, n)``; one per kind of layer if the kinds differ."""
    config = model.config.get_text_config()
    kinds = set(getattr(config, "layer_types", None) or ())
    window = getattr(config, "sliding_window", None)
    sees = visible(forest)
    full = additive_mask(sees, model.dtype, device)[None, None]
    if window is None or kinds == {"full_attention"}:
        return full
    sees &= forest.positions[:, None] - forest.positions < window
    near = additive_mask(sees, model.dtype, device)[None, None]
    return {"full_attention": full, "sliding_attention": near} if kinds else near


def _sequence_logits(
    model: Any, tokens: NDArray[np.int64], bounds: NDArray[np.int64], read: NDArray[np.int64]
) -> Tensor:
    """Logits at the places ``read`` of sequences laid end to end, by a right-padded batch."""
    device = model.get_input_embeddings().weight.device
    lengths = np.diff(bounds)
    real = np.arange(lengths.max(initial=1)) < lengths[:, None]
    ids = np.zeros(real.shape, dtype=np.int64)
    ids[real] = tokens
    return _logits_at(
        model,
        np.flatnonzero(real)[read],
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=torch.from_numpy(real).to(device),
    )


def _logits_at(model: Any, read: NDArray[np.int64], **inputs: Any) -> Tensor:
    """Logits ``(len(read), vocabulary)`` at some of a batch's tokens, counted row by row."""

    def pick(_head: Any, states: tuple[Tensor, ...]) -> Tensor:
        return states[0].flatten(0, 1)[torch.from_numpy(read).to(states[0].device)]

    # Every family's own scaling or capping of logits follows, token by token.
    handle = model.get_output_embeddings().register_forward_pre_hook(pick)
    try:
        logits: Tensor = model(**inputs, use_cache=False).logits
    finally:
        handle.remove()
    return logits


def _log_probs(
    logits: Tensor, rows: NDArray[np.int64], tokens: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Log-probability of one token per entry of ``rows``, from logits ``(n, vocabulary)``."""
    where, which = (torch.from_numpy(x).to(logits.device) for x in (rows, tokens))
    # In parts, so that a copy in float32 stays small.
    normalisers = torch.cat([part.float().logsumexp(dim=-1) for part in torch.split(logits, 64)])
    found: NDArray[np.float32] = (logits[where, which].float() - normalisers[where]).cpu().numpy()
    return found
