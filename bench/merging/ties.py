"""TIES: trim small entries, elect one sign per coordinate, merge the entries that agree.

Source: Yadav et al., "TIES-Merging: resolving interference when merging models", NeurIPS 2023, and
its authors' code, with these differences. The threshold is found by counting, without the flattened
adapters in memory. A coordinate whose entries cancel exactly takes the majority sign of all others, as
there; if these balance too, it becomes 0 (the code would keep its negative entries), so that
negating all inputs negates the result. Keeping everything is no special value of the threshold.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch

from bench.merging.adapter import Adapter
from bench.merging.configs import TiesConfig
from bench.merging.merged import Part, Setting, canonical
from bench.merging.slices import Slice, Slices, merge_slices

__all__ = ["Election", "kth_magnitudes", "merge_ties", "trim_position", "trimming"]

SELECTING = 2**16
"""Tensors with fewer entries find their threshold by selection, which is faster there."""

Prepare = Callable[[Slice], torch.Tensor]


def merge_ties(
    adapters: Sequence[Adapter], config: TiesConfig, setting: Setting
) -> Iterator[tuple[str, Part]]:
    """Merge by TIES in factor or product space.

    In factor space the metadata note ``kept`` holds the share of entries that trimming kept, of A and
    of B: a common threshold may spare one of the two.

    Yields:
        Module name and factors.
    """
    ordered, _ = canonical(adapters, adapters)
    slices = Slices(ordered, config.space, setting.init)
    trim = trimming(slices, config)
    election = Election(slices, trim, config.merge)
    kept: dict[str, list[int]] = {}

    def rule(piece: Slice) -> torch.Tensor:
        values = trim(piece)
        if piece.part != "D":
            counts = kept.setdefault(piece.part, [0, 0])
            counts[0] += int(values.count_nonzero())
            counts[1] += values.numel()
        return election.merge(values)

    yield from merge_slices(slices, rule, config.scale, config.rank, setting)
    if kept:
        setting.notes["kept"] = {part: n / total for part, (n, total) in kept.items()}
        setting.warnings.extend(
            f"trimming left nothing of {part}, so that the merge is no update at all; use trim=tensor, "
            "factor_reference=init or a larger density"
            for part, (n, _) in kept.items()
            if not n
        )


class Election:
    """Elects the sign of every coordinate and merges the entries that have it.

    Attributes:
        n_balanced: coordinates seen so far whose entries cancel exactly without being all zero.
    """

    def __init__(self, slices: Slices, prepare: Prepare, how: str) -> None:
        """Keep what a majority vote over all coordinates would need; it is counted if one is asked.

        Args:
            slices: the adapters.
            prepare: gives the trimmed or dropped entries of a slice, float32 (M, rows, columns).
            how: ``mean``, ``sum`` or ``max`` of the agreeing entries.
        """
        self._slices, self._prepare, self._how = slices, prepare, how
        self._majority: float | None = None
        self.n_balanced = 0

    def merge(self, values: torch.Tensor) -> torch.Tensor:
        """Merge float32 (M, rows, columns), which is overwritten, into (rows, columns)."""
        sign = values.sum(0).sign_()
        # Zero sums of entries that are not all zero: one of these is positive.
        balanced = (1 - sign.abs()).mul_(values.amax(0))
        if bool(balanced.any()):
            where = balanced > 0
            self.n_balanced += int(where.count_nonzero())
            sign[where] = self.majority()
        agreeing = values.mul_(sign).clamp_min_(0)
        if self._how == "max":
            return agreeing.amax(0).mul_(sign)
        total = agreeing.sum(0).mul_(sign)
        return total if self._how == "sum" else total.div_(agreeing.sign_().sum(0).clamp_min_(1))

    def majority(self) -> float:
        """The more frequent sign of all coordinates: 1.0, -1.0, or 0.0 if they balance."""
        if self._majority is None:
            total = 0
            for piece in self._slices:
                total += int(self._prepare(piece).sum(0).sign_().sum(dtype=torch.int64))
            self._majority = float(np.sign(total))
        return self._majority


def trim_position(n: int, density: float) -> int:
    """Rank (1-based, ascending magnitude) of the smallest entry that is kept, 0 for all.

    As in the authors' code: the ``(n - floor(density n))``-th smallest magnitude, itself kept.
    """
    return n - int(density * n) if density < 1 else 0


def _as_they_are(piece: Slice) -> torch.Tensor:
    return piece.values


def trimming(slices: Slices, config: TiesConfig, prepare: Prepare = _as_they_are) -> Prepare:
    """What trims the entries of a slice, float32 (M, rows, columns).

    Args:
        slices: the adapters.
        config: density and scope.
        prepare: gives the entries of a slice before they are trimmed.
    """
    if config.density == 1:
        return prepare

    def prepared(pieces: Iterable[Slice]) -> Iterator[Slice]:
        return (replace(piece, values=prepare(piece)) for piece in pieces)

    n_adapters = len(slices.adapters)
    if config.scope == "global":
        n = sum(piece.values[0].numel() for piece in _shapes(slices))
        position = trim_position(n, config.density)
        found = kth_magnitudes(lambda: prepared(slices), n_adapters, position)
        return lambda piece: _cut(prepare(piece), found)
    if config.space == "factor":

        def of_tensor(piece: Slice) -> torch.Tensor:
            values = prepare(piece)
            return _cut(values, _own_thresholds(replace(piece, values=values), config.density))

        return of_tensor
    by_module: dict[str, torch.Tensor] = {}

    def of_module(piece: Slice) -> torch.Tensor:
        if piece.module not in by_module:
            a, b = slices.adapters[0].factors[piece.module]
            by_module[piece.module] = kth_magnitudes(
                lambda: prepared(slices.of(piece.module)),
                n_adapters,
                trim_position(len(b) * a.shape[1], config.density),
            )
        return _cut(prepare(piece), by_module[piece.module])

    return of_module


def _cut(values: torch.Tensor, thresholds: torch.Tensor) -> torch.Tensor:
    for row, threshold in zip(values, thresholds, strict=True):
        # hardshrink keeps what is larger than its bound; the threshold itself is to be kept.
        below = float(torch.nextafter(threshold, torch.zeros(())))
        torch.nn.functional.hardshrink(row, below, out=row)
    return values


def _own_thresholds(piece: Slice, density: float) -> torch.Tensor:
    position = trim_position(piece.values[0].numel(), density)
    if piece.values[0].numel() < SELECTING:
        return piece.values.flatten(1).abs().kthvalue(position, dim=1).values
    return kth_magnitudes(lambda: iter([piece]), len(piece.values), position)


def _shapes(slices: Slices) -> Iterator[Slice]:
    """The slices of one adapter without computing products: only their numbers of entries count."""
    for module in slices.adapters[0].modules:
        a, b = slices.adapters[0].factors[module]
        if slices.space == "factor":
            yield Slice(module, "A", 0, a[None])
            yield Slice(module, "B", 0, b[None])
        else:
            yield Slice(module, "D", 0, a.new_empty(1).expand(1, len(b), a.shape[1]))


def kth_magnitudes(
    pieces: Callable[[], Iterator[Slice]], n_adapters: int, position: int
) -> torch.Tensor:
    """Exact k-th smallest magnitude over all slices of each adapter, by two counting passes.

    Non-negative float32 numbers are ordered like their bit patterns, so a histogram of the upper 16
    bits finds the bin, and one of the lower 16 bits within that bin the number.

    Args:
        pieces: gives all slices, anew at each call.
        n_adapters: M.
        position: k, 1-based.

    Returns:
        Float32 (M,).
    """
    upper = np.zeros((n_adapters, 2**15), dtype=np.int64)
    for piece in pieces():
        for m, (high, _) in enumerate(_halves(piece)):
            upper[m] += torch.bincount(high, minlength=2**15).numpy()
    bins = [int(np.searchsorted(row.cumsum(), position)) for row in upper]
    lower = np.zeros((n_adapters, 2**16), dtype=np.int64)
    for piece in pieces():
        for m, (high, low) in enumerate(_halves(piece)):
            inside = low[high == bins[m]].to(torch.int32) & 0xFFFF
            lower[m] += torch.bincount(inside, minlength=2**16).numpy()
    found = np.zeros(n_adapters, dtype=np.int32)
    for m, bin_ in enumerate(bins):
        left = position - upper[m, :bin_].sum()
        found[m] = bin_ << 16 | int(np.searchsorted(lower[m].cumsum(), left))
    return torch.from_numpy(found.view(np.float32))


def _halves(piece: Slice) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
    """Upper and lower 16 bits of each adapter's magnitudes, int16; the upper are at least 0."""
    for row in piece.values.flatten(1):
        pair = row.contiguous().view(torch.int16).view(-1, 2)
        first, second = (1, 0) if sys.byteorder == "little" else (0, 1)
        yield pair[:, first] & 0x7FFF, pair[:, second]
