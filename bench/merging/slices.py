"""Adapters as streams of small, equally shaped tensors, for methods that act entry by entry.

In factor space the slices are the factors; in product space they are blocks of rows of the updates,
made when they are needed, so that at no time more than one module is dense.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import torch

from bench.errors import ConfigError
from bench.merging.adapter import Adapter, Factors
from bench.merging.linear import relative_scaling, scaled_factors
from bench.merging.merged import Part, Setting, key_generator
from bench.merging.truncation import truncate_dense

__all__ = ["EntryRule", "Slice", "Slices", "merge_slices"]

BLOCK_ELEMENTS = 2**16
"""About the entries of one adapter in a block of rows; a few adapters' blocks fit in a core's cache,
where operations entry by entry are several times faster. Random masks depend on it."""


@dataclass(frozen=True, slots=True)
class Slice:
    """The same entries of all adapters.

    Attributes:
        module: name of the module.
        part: ``A`` or ``B`` (a factor), or ``D`` (rows of the update).
        row: first row of the slice within its part.
        values: float32 (M, rows, columns); may be changed in place.
    """

    module: str
    part: Literal["A", "B", "D"]
    row: int
    values: torch.Tensor


EntryRule = Callable[[Slice], torch.Tensor]
"""Merges the M tensors of a slice into one of its shape (rows, columns)."""


@dataclass(frozen=True)
class Slices:
    """All slices of some adapters, as often as they are asked for.

    Attributes:
        adapters: over the same modules, in factor space of the same rank.
        space: ``factor`` or ``product``.
        init: what factors are measured against; None is zero. Only A: B starts at zero.
    """

    adapters: Sequence[Adapter]
    space: Literal["factor", "product"]
    init: Adapter | None = None

    def of(self, module: str) -> Iterator[Slice]:
        """Slices of one module: A then B, or blocks of rows from the first to the last."""
        pairs = [
            scaled_factors(adapter, module, share)
            for adapter, share in zip(self.adapters, relative_scaling(self.adapters), strict=True)
        ]
        if self.space == "factor":
            a = torch.stack([pair.a for pair in pairs])
            yield Slice(module, "A", 0, a if self.init is None else a.sub_(self.start(module)))
            yield Slice(module, "B", 0, torch.stack([pair.b for pair in pairs]))
            return
        d_out, d_in = len(pairs[0].b), pairs[0].a.shape[1]
        rows = max(1, BLOCK_ELEMENTS // d_in)
        for start in range(0, d_out, rows):
            block = torch.empty(len(pairs), min(rows, d_out - start), d_in)
            for values, pair in zip(block, pairs, strict=True):
                torch.mm(pair.b[start : start + rows], pair.a, out=values)
            yield Slice(module, "D", start, block)

    def start(self, module: str) -> torch.Tensor:
        """What was subtracted from every A of the module, float32."""
        a = self.adapters[0].factors[module].a
        if self.init is None:
            return torch.zeros_like(a, dtype=torch.float32)
        found = self.init.factors[module].a.float()
        if found.shape != a.shape:
            raise ConfigError(
                f"{self.init.name}: A of module {module} has shape {tuple(found.shape)}, that of "
                f"{self.adapters[0].name} {tuple(a.shape)}; give the initialisation of these adapters."
            )
        return found

    def __iter__(self) -> Iterator[Slice]:
        for module in self.adapters[0].modules:
            yield from self.of(module)


def merge_slices(
    slices: Slices, rule: EntryRule, scale: float, rank: int | None, setting: Setting
) -> Iterator[tuple[str, Part]]:
    """Apply ``rule`` to every slice and put the modules together again.

    Args:
        slices: the adapters.
        rule: merges the tensors of one slice.
        scale: factor of the merged update; in factor space it goes on B alone.
        rank: rank of a result in product space; None is the sum of the ranks.
        setting: names the start vectors of the truncation by its seed.

    Yields:
        Module name and factors.
    """
    for module in slices.adapters[0].modules:
        if slices.space == "factor":
            merged = {piece.part: rule(piece) for piece in slices.of(module)}
            a = merged["A"] if slices.init is None else merged["A"] + slices.start(module)
            yield module, Part(Factors(a, merged["B"] * scale))
        else:
            pair = slices.adapters[0].factors[module]
            dense = torch.empty(len(pair.b), pair.a.shape[1])
            for piece in slices.of(module):
                block = rule(piece)
                dense[piece.row : piece.row + len(block)] = block.mul_(scale)
            cut = truncate_dense(
                dense,
                rank or sum(adapter.config.r for adapter in slices.adapters),
                key_generator("truncation", setting.seed, module),
            )
            yield module, Part(cut.factors, cut.error, cut.norm)
