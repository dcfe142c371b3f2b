"""Merging baselines: the single-domain adapters of target and sources, merged without training."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from functools import cache
from typing import ClassVar

from pydantic import create_model

from bench.llm.config import AdapterMethodConfig
from bench.llm.merge import Merge
from bench.llm.methods.branches import AdapterMethod, Branch, single_branches
from bench.merging.registry import make_config, merging_name
from bench.methods import Family

__all__ = ["SingleDomainMerge", "method_for"]


class SingleDomainMerge(AdapterMethod):
    """Merges one adapter per domain, the target's first."""

    family = Family.MERGING
    uses_sources: ClassVar[bool] = True
    merger: ClassVar[str]

    def branches(self, target: str, sources: Sequence[str]) -> tuple[Branch, ...]:
        return single_branches(target, sources)

    def merge(self, n_branches: int) -> Merge:
        return Merge(self.merger, self.config.merge.model_dump(mode="json"))


@cache
def method_for(merger: str) -> type[SingleDomainMerge]:
    """The method that merges single-domain adapters by one merger, with its options under ``merge``.

    Args:
        merger: name in :data:`bench.merging.MERGERS`.
    """
    options = make_config(merger)
    kind = type(options)
    name = "".join(part.title() for part in merging_name(merger).split("-"))
    config = create_model(
        f"{name}Config",
        __base__=AdapterMethodConfig,
        __module__=__name__,
        __doc__=f"As every adapter, and how they are merged.\n\nAttributes:\n    merge: options of {merger}.",
        merge=(kind, options),
    )
    config.profiles = {
        profile: {
            **values,
            **{f"merge.{key}": value for key, value in kind.profiles.get(profile, {}).items()},
        }
        for profile, values in AdapterMethodConfig.profiles.items()
    }
    # In the merger's module: the code behind a plugin's merger is part of what a run is.
    return type(
        name,
        (SingleDomainMerge,),
        {
            "__doc__": inspect.cleandoc(kind.__doc__ or ""),
            "__module__": kind.__module__,
            "name": merging_name(merger),
            "version": "1",
            "merger": merger,
            "Config": config,
        },
    )
