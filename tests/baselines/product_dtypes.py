"""In which precision a model computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.nn.modules.module import register_module_forward_hook


@contextmanager
def product_dtypes() -> Iterator[set[torch.dtype]]:
    """Collects the dtypes of what linear layers compute meanwhile."""
    seen: set[torch.dtype] = set()

    def watch(module: torch.nn.Module, _: Any, output: Any) -> None:
        if isinstance(module, torch.nn.Linear):
            seen.add(output.dtype)

    hook = register_module_forward_hook(watch)
    try:
        yield seen
    finally:
        hook.remove()
