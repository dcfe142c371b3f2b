"""A frozen model with several frozen adapters side by side, whose weights alone can be trained.

In every adapted layer l, h = W x + sum_m w_m^l s_m B_m^l A_m^l x with w^l = softmax(z^l / T). All
factors are frozen, so that a layer keeps no more for the backward pass than the numbers that the
weights multiply, one per rank and token. The model's own forward pass runs, with hooks on its linear
layers.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 - its usual name

from bench.errors import ConfigError
from bench.llm.engines.updates import Update, read_updates

__all__ = ["Mixture"]


class Mixture:
    """A frozen model with several frozen adapters, weighted layer by layer.

    Args:
        model: causal language model of transformers; used as it is, nothing in it is replaced.
        adapters: PEFT folders over the same layers, at least one.
        layer_wise: one w for every adapted layer, or one for all of them.
        temperature: T, > 0.

    Attributes:
        model: the model.
        logits: z, float32, shape ``(n_layers, M)`` or ``(1, M)``, on the model's device; the only
            numbers with a gradient.
        modules: names of the adapted layers, sorted.

    Raises:
        ConfigError: the adapters do not adapt the same layers.
        ResultError: an adapter does not fit the model.
    """

    def __init__(
        self,
        model: Any,
        adapters: Sequence[Path],
        *,
        layer_wise: bool = True,
        temperature: float = 1.0,
    ) -> None:
        read = [read_updates(folder, model) for folder in adapters]
        self.model = model
        self.modules = tuple(sorted(read[0]))
        for folder, updates in zip(adapters, read, strict=True):
            if set(updates) != set(self.modules):
                raise ConfigError(
                    f"{folder} adapts {len(updates)} layers, {adapters[0]} adapts "
                    f"{len(self.modules)}, not the same ones. Train them with the same targets."
                )
        self._stacks = [_Stack.of([updates[name] for updates in read]) for name in self.modules]
        self._temperature = temperature
        shape = (len(self.modules) if layer_wise else 1, len(adapters))
        device = model.get_input_embeddings().weight.device
        self.logits = torch.zeros(shape, device=device, requires_grad=True)
        self._rows: Sequence[Tensor] = ()

    def weights(self) -> Tensor:
        """The coefficients w, float32, shape ``(n_layers, M)``; every row sums to 1."""
        rows = torch.softmax(self.logits / self._temperature, dim=-1)
        return rows.expand(len(self.modules), -1)

    def weights_by_module(self) -> dict[str, list[float]]:
        """The coefficients by name of the layer."""
        rows: list[list[float]] = self.weights().detach().cpu().tolist()
        return dict(zip(self.modules, rows, strict=True))

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Let the model's forward pass add the weighted updates for as long as the block runs."""
        handles = [
            self.model.get_submodule(name).register_forward_hook(self._hook(place, stack))
            for place, (name, stack) in enumerate(zip(self.modules, self._stacks, strict=True))
        ]
        try:
            yield
        finally:
            self._rows = ()
            for handle in handles:
                handle.remove()

    def forward(
        self, tokens: Tensor, positions: Tensor | None, mask: Tensor | None, read: Tensor
    ) -> Tensor:
        """Logits of one row of tokens; call it while attached.

        Args:
            tokens: int64 ``(n,)``.
            positions: int64 ``(n,)``, or None for 0 to n - 1.
            mask: ``(n, n)``, what is added to the scores of attention, or None for causal.
            read: int64 ``(k,)``: places whose next-token logits are wanted.

        Returns:
            float32, shape ``(k, vocabulary)``.
        """
        self._rows = self.weights().unbind(0)
        done = self.model(
            input_ids=tokens[None],
            position_ids=None if positions is None else positions[None],
            attention_mask=None if mask is None else mask[None, None],
            use_cache=False,
            logits_to_keep=read,
        )
        logits: Tensor = done.logits[0].float()
        return logits

    def _hook(self, place: int, stack: _Stack) -> Any:
        def add_updates(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
            low = F.linear(inputs[0].to(stack.a.dtype), stack.a)
            # In float32, so that coefficients and their gradients are not rounded to bfloat16.
            shares = self._rows[place].index_select(0, stack.owner)
            low = (low.float() * shares).to(low.dtype)
            return output + F.linear(low, stack.b).to(output.dtype)

        return add_updates


@dataclass(frozen=True, slots=True)
class _Stack:
    """The factors of all adapters in one layer.

    Attributes:
        a: ``(R, d_in)``, R the sum of the ranks.
        b: ``(d_out, R)``, multiplied by the scalings.
        owner: int64 ``(R,)``: which adapter a rank belongs to.
    """

    a: Tensor
    b: Tensor
    owner: Tensor

    @classmethod
    def of(cls, updates: Sequence[Update]) -> _Stack:
        ranks = torch.tensor([len(u.a) for u in updates])
        owner = torch.arange(len(updates)).repeat_interleave(ranks)
        return cls(
            torch.cat([u.a for u in updates]),
            torch.cat([u.b for u in updates], dim=1),
            owner.to(updates[0].a.device),
        )
