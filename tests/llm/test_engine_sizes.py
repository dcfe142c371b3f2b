"""Passes of ever new lengths meet products of few shapes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from test_engine_scoring import load, sample
from torch.utils._python_dispatch import TorchDispatchMode

from bench.llm.engines.sizes import padded, rounded
from bench.llm.engines.transformers import TransformersEngine

CPU = torch.device("cpu")


class Rows(TorchDispatchMode):
    """Notes the number of rows of every product of two matrices."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[int] = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if func in (torch.ops.aten.mm.default, torch.ops.aten.mm.out):
            self.seen.add(len(args[0]))
        if func in (torch.ops.aten.addmm.default, torch.ops.aten.addmm_.default):
            self.seen.add(len(args[1]))
        return func(*args, **(kwargs or {}))


def test_few_sizes_and_little_more_than_wanted() -> None:
    sizes = np.arange(1, 4097)
    found = np.array([rounded(int(n), CPU) for n in sizes])
    assert (found >= sizes).all()
    assert (found - sizes < np.maximum(16, sizes / 16)).all()
    assert len(set(found.tolist())) == 80
    assert np.mean(found[500:] / sizes[500:]) < 1.025
    assert all(rounded(int(n), torch.device("cuda")) == n for n in sizes)
    assert rounded(0, CPU) == 0


def test_padding_adds_zeros_below() -> None:
    rows = torch.randn(17, 3)
    assert torch.equal(padded(rows)[:17], rows)
    assert padded(rows).shape == (32, 3)
    assert not padded(rows)[17:].any()
    assert padded(torch.arange(40)).tolist() == [*range(40), *[0] * 8]
    assert len(padded(rows[:16])) == 16


def test_requests_of_any_length_are_computed_in_few_sizes(tiny_llama: Path) -> None:
    engine = TransformersEngine(load(tiny_llama), batch_tokens=600)
    rows = Rows()
    with rows:
        for seed in range(6):
            prompts, branches = sample(seed)
            engine.branch_log_probs(prompts, branches, adapter=None)
    assert len(rows.seen) > 2
    assert all(size == rounded(size, CPU) for size in rows.seen)
