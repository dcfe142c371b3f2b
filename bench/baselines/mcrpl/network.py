"""The network of MCRPL (Liu et al., ACM TOIS 42(4), 2024, section 4; code: Estadio-c/MCRPL).

It equals the authors' code, with three exceptions that change no score of a user with a history: batches
may be cut to their longest row, the last layer computes the last position alone, and a position that
sees nothing but padding sees itself (theirs averages over all padding, which depends on the width).
"""

from __future__ import annotations

import math
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.baselines.dropout import BitDropout
from bench.errors import MethodError

__all__ = ["DiffKind", "MCRPLNetwork", "Mixing", "diff_loss"]

Mixing = Literal["default", "a", "b"]
DiffKind = Literal["code", "cross"]

_MIXING_UNITS = 16
_DIFF_EPS = 1e-6


def diff_loss(shared: Tensor, domain: Tensor, kind: DiffKind) -> Tensor:
    """How much the two groups of prompts resemble each other; the length of a prompt does not count.

    Args:
        shared: float, shape ``(n, d)``, the shared prompts.
        domain: float, shape ``(n, d)``, the domain-dependent prompts.
        kind: ``cross`` = mean squared cosine between a shared and a domain-dependent prompt, which is
            what the paper describes (0 = orthogonal groups, 1 = all directions equal). ``code`` = what
            the authors' code computes, the mean over the d x d entries of ``(S'D)^2`` for the unit
            rows S and D: for two prompts each ``(2 + 2 cos(S1, S2) cos(D1, D2)) / d^2``, which depends
            on angles inside a group alone.

    Returns:
        Scalar; zero without prompts. Norms count as constants in the gradient, as in the code.
    """
    if shared.numel() == 0:
        return shared.new_zeros(())
    s, d = _unit_rows(shared), _unit_rows(domain)
    if kind == "cross":
        return (s @ d.t()).square().mean()
    # The squared Frobenius norm of S'D through the Gram matrices of the rows.
    return ((s @ s.t()) * (d @ d.t())).sum() / s.shape[1] ** 2


def _unit_rows(group: Tensor) -> Tensor:
    norms: Tensor = torch.linalg.vector_norm(group, dim=1, keepdim=True)
    return group / (norms.detach() + _DIFF_EPS)


def _plain_norm(x: Tensor) -> Tensor:
    """Layer norm without gain and bias: the authors create theirs anew in every forward pass."""
    return functional.layer_norm(x, x.shape[-1:])


class _WeightedMixing(nn.Module):
    """Strategy ``default``: a weighted mean of the prompts and the item, weights from a small MLP."""

    def __init__(self, size: int, dropout: float) -> None:
        super().__init__()
        self.hidden = nn.Linear(2 * size, _MIXING_UNITS)
        self.out = nn.Linear(_MIXING_UNITS, 1)
        self.dropout = BitDropout(dropout)

    def weights(self, prompts: Tensor, states: Tensor) -> Tensor:
        """Mixing weights, shape ``(b, t, n_prompts + 1, 1)``, the item last; they sum to 1."""
        # The first layer reads [vector; item]: its two halves are applied once per vector and once per
        # item instead of to every pair.
        of_vector, of_item = self.hidden.weight.chunk(2, dim=1)
        vectors = torch.cat(
            (
                (prompts @ of_vector.t()).expand(*states.shape[:2], -1, -1),
                (states @ of_vector.t())[:, :, None],
            ),
            dim=2,
        )
        item = states @ of_item.t() + self.hidden.bias
        hidden = self.dropout(functional.relu(vectors + item[:, :, None]))
        return torch.softmax(self.out(hidden), dim=2)

    def forward(self, prompts: Tensor, states: Tensor) -> Tensor:
        weights = self.weights(prompts, states)
        mixed: Tensor = weights[:, :, :-1, 0] @ prompts + weights[:, :, -1] * states
        return mixed


class _AttentionMixing(nn.Module):
    """Strategies ``a`` and ``b``: self-attention over prompts and item; the item's row, or the mean."""

    def __init__(self, size: int, *, mean: bool) -> None:
        super().__init__()
        self.attention = _Attention(size)
        self.mean = mean

    def forward(self, prompts: Tensor, states: Tensor) -> Tensor:
        stacked = torch.cat((prompts.expand(*states.shape[:2], -1, -1), states[:, :, None]), dim=2)
        queries = stacked if self.mean else stacked[:, :, -1:]
        out: Tensor = self.attention(queries, stacked, None)
        return out.mean(dim=2)


class _Attention(nn.Module):
    """One head of attention without biases; residual and plain layer norm."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        self.value = nn.Linear(size, size, bias=False)
        self.out = nn.Linear(size, size, bias=False)

    def forward(self, queries: Tensor, others: Tensor, hidden: Tensor | None) -> Tensor:
        """Shapes ``(..., q, d)`` and ``(..., k, d)``; ``hidden`` (..., q, k) is not attended to."""
        logits = self.query(queries) @ self.key(others).transpose(-1, -2)
        logits = logits / math.sqrt(queries.shape[-1])
        if hidden is not None:
            logits = logits.masked_fill(hidden, -1e9)
        context = torch.softmax(logits, dim=-1) @ self.value(others)
        return _plain_norm(self.out(context) + queries)


class _Layer(nn.Module):
    """Attention, then a two-layer perceptron without biases."""

    def __init__(self, size: int, inner_size: int) -> None:
        super().__init__()
        self.attention = _Attention(size)
        self.inner = nn.Linear(size, inner_size, bias=False)
        self.outer = nn.Linear(inner_size, size, bias=False)

    def forward(self, queries: Tensor, others: Tensor, hidden: Tensor) -> Tensor:
        x: Tensor = self.attention(queries, others, hidden)
        return _plain_norm(self.outer(functional.relu(self.inner(x))) + x)


class MCRPLNetwork(nn.Module):
    """MCRPL over union ids + 1 (0 is padding), left-padded.

    Args:
        n_items: items of all domains together.
        length: longest input.
        size: size of item vectors and states.
        n_layers: Transformer layers, >= 1.
        inner_size: width of the perceptrons.
        dropout: probability of dropout on item vectors and inside the mixing network.
        n_prompts: prompts of each group; 0 leaves a plain causal Transformer.
        mixing: how prompts enter an item vector: the authors' ``Strategy``.
    """

    def __init__(
        self,
        n_items: int,
        *,
        length: int,
        size: int,
        n_layers: int,
        inner_size: int,
        dropout: float,
        n_prompts: int,
        mixing: Mixing,
    ) -> None:
        super().__init__()
        self.items = nn.Embedding(n_items + 1, size)
        self.positions = nn.Embedding(length, size)
        self.dropout = BitDropout(dropout)
        self.shared_prompts = nn.Parameter(torch.empty(n_prompts, size))
        self.domain_prompts = nn.Parameter(torch.empty(n_prompts, size))
        self.mixing: nn.Module = (
            _WeightedMixing(size, dropout)
            if mixing == "default"
            else _AttentionMixing(size, mean=mixing == "b")
        )
        self.layers = nn.ModuleList(_Layer(size, inner_size) for _ in range(n_layers))
        self.head = nn.Linear(size, n_items)
        for parameter in self.parameters():
            if parameter.dim() > 1 and parameter.numel():
                nn.init.xavier_normal_(parameter)

    def inputs(self, items: Tensor) -> Tensor:
        """Item vectors with positions and prompts mixed in, shape ``(b, t, d)``.

        Args:
            items: int64, shape ``(b, t)``, left-padded, t at most ``length``.

        Raises:
            MethodError: rows are longer than the model's positions.
        """
        width, length = items.shape[1], len(self.positions.weight)
        if width > length:
            raise MethodError(
                f"mcrpl: histories of {width} positions; the model has {length} (max_history)."
            )
        # The last column has the last position, whatever the batch was cut to.
        states = self.dropout(self.items(items) + self.positions.weight[length - width :])
        prompts = torch.cat((self.shared_prompts, self.domain_prompts))
        mixed: Tensor = self.mixing(prompts, states)
        return mixed

    def forward(self, items: Tensor, *, last: bool = True) -> Tensor:
        """States of the last position, ``(b, d)``, or of all, ``(b, t, d)``; arguments as above."""
        x = self.inputs(items)
        width = items.shape[1]
        place = torch.arange(width, device=items.device)
        # Neither padding nor what comes later is seen; a position always sees itself.
        hidden = ((items == 0)[:, None, :] & (place[:, None] != place)) | (place[:, None] < place)
        for layer in self.layers[:-1]:
            x = layer(x, x, hidden)
        if last:
            state: Tensor = self.layers[-1](x[:, -1:], x, hidden[:, -1:])
            return state[:, 0]
        states: Tensor = self.layers[-1](x, x, hidden)
        return states

    def freeze_for_prompt_tuning(self) -> None:
        """Let only the domain-dependent prompts and the head learn, as the paper describes stage 2."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
        self.domain_prompts.requires_grad_(True)
        self.head.requires_grad_(True)
