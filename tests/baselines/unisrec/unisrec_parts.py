"""A small UniSRec, and a model on made-up text vectors."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional

from bench.baselines.training import isolated_randomness
from bench.baselines.unisrec.method import UniSRec, UniSRecConfig

N_ITEMS, TEXT, SIZE = 30, 12, 16


def small(**more: Any) -> UniSRecConfig:
    base = {"hidden_size": SIZE, "inner_size": 24, "max_history": 12, "validation_users": 100}
    return UniSRecConfig(**(base | more))


def texts(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, TEXT, generator=torch.Generator().manual_seed(seed))


def built(content: torch.Tensor, **more: Any) -> UniSRec:
    method = UniSRec(small(**more))
    with isolated_randomness(0):
        method.model = method.build(1, len(content), text_size=TEXT).eval()
    method.set_content(method.encoder, functional.pad(content, (0, 0, 1, 0)).numpy())
    return method
