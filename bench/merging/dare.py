"""DARE: drop entries of each adapter at random, rescale the rest, then merge.

Source: Yu et al., "Language models are super Mario", ICML 2024. The paper lets any method merge what
is left; with TIES its authors' code trims the rescaled adapters as well (``density`` below 1). The rescaled entries have the original
expectation. Masks are drawn from one stream per (seed, adapter, module, part, first row), so they
depend neither on the order of adapters and modules nor on any global state. An adapter is named by
its content, and equal adapters by their number among equals, so that they get different masks.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence

import torch

from bench.merging.adapter import Adapter
from bench.merging.configs import DareConfig, TiesConfig, WeightAverageConfig, check_weights
from bench.merging.merged import Part, Setting, canonical, key_bits
from bench.merging.slices import Slice, Slices, merge_slices
from bench.merging.ties import Election, trimming
from bench.merging.weight_average import merge_weight_average

__all__ = ["drop", "mask_keys", "merge_dare"]


def merge_dare(
    adapters: Sequence[Adapter], config: DareConfig, setting: Setting
) -> Iterator[tuple[str, Part]]:
    """Merge by DARE in factor or product space, linearly or with the election of TIES."""
    weights = check_weights(config.weights, len(adapters), 1 / len(adapters))
    setting.notes["drop_rate"] = config.p
    if config.p == 0 and config.inner == "linear" and config.scale == 1:
        plain = WeightAverageConfig(space=config.space, weights=weights, rank=config.rank)
        return merge_weight_average(adapters, plain, setting)
    ordered, row = canonical(adapters, weights)
    slices = Slices(ordered, config.space, setting.init)
    keys = mask_keys(ordered)
    seed = [setting.seed, config.draw] if config.draw else setting.seed

    def dropped(piece: Slice) -> torch.Tensor:
        return drop(piece, config.p, seed, keys)

    if config.inner == "ties":
        trim = TiesConfig(
            space=config.space, density=config.density, factor_reference=config.factor_reference
        )
        trimmed = trimming(slices, trim, dropped)
        election = Election(slices, trimmed, "mean")
        return merge_slices(
            slices,
            lambda piece: election.merge(trimmed(piece)),
            config.scale,
            config.rank,
            setting,
        )
    share = torch.tensor(row)[:, None, None]
    return merge_slices(
        slices,
        lambda piece: dropped(piece).mul_(share).sum(0),
        config.scale,
        config.rank,
        setting,
    )


def mask_keys(adapters: Sequence[Adapter]) -> list[tuple[str, int]]:
    """What names each adapter's masks: its key, and its number among adapters of that key."""
    seen: Counter[str] = Counter()
    keys = []
    for adapter in adapters:
        keys.append((adapter.merge_key, seen[adapter.merge_key]))
        seen[adapter.merge_key] += 1
    return keys


def drop(
    piece: Slice, p: float, seed: int | Sequence[int], keys: Sequence[tuple[str, int]]
) -> torch.Tensor:
    """Set a share ``p`` of each adapter's entries to zero and divide the others by ``1 - p``.

    Args:
        piece: the entries, changed in place.
        p: drop rate in [0, 1).
        seed: seed of the merge, and the number of the draw if it is not 0.
        keys: from :func:`mask_keys`, in the order of the slice.

    Returns:
        Float32 (M, rows, columns).
    """
    if p == 0:
        return piece.values
    bound = round(p * 2**31)
    for values, (name, number) in zip(piece.values, keys, strict=True):
        draws = torch.from_numpy(
            key_bits(
                values.numel(), "dare", seed, name, number, piece.module, piece.part, piece.row
            )
        )
        # All bits set where the draw is at least the bound, none elsewhere: a mask by sign.
        keep = draws.sub_(bound).bitwise_not_().bitwise_right_shift_(31)
        values.view(torch.int32).view(-1).bitwise_and_(keep)
    return piece.values.div_(1 - p)
