"""Fixtures of AdaMerging's tests: a tiny model, random adapters of it, and questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.llm.adamerging import Question
from bench.llm.backbones import load_model, resolve_backbone
from bench.llm.lora import LoraSpec, write_init
from bench.merging import Adapter, Factors, read_adapter, write_adapter


@pytest.fixture(scope="module")
def adapters(tiny_llama: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Three random adapters of one initialisation, of ranks' worth of effect on the logits."""
    folder = tmp_path_factory.mktemp("adapters")
    backbone = resolve_backbone(str(tiny_llama))
    write_init(backbone, LoraSpec(r=4, alpha=8.0), 0, folder / "init")
    first = read_adapter(folder / "init")
    generator = torch.Generator().manual_seed(7)
    made = []
    for number in range(3):
        factors = {
            name: Factors(
                a + 0.1 * torch.randn(a.shape, generator=generator),
                0.2 * torch.randn(b.shape, generator=generator),
            )
            for name, (a, b) in first.factors.items()
        }
        made.append(folder / str(number))
        write_adapter(Adapter(factors, first.config), made[-1])
    return made


@pytest.fixture
def model(tiny_llama: Path) -> Any:
    return load_model(resolve_backbone(str(tiny_llama)), attention="eager")


@pytest.fixture(scope="module")
def questions() -> list[Question]:
    """Requests of random tokens whose answers share beginnings; the last has one answer of one token."""
    rng = np.random.default_rng(3)
    found = []
    for _ in range(6):
        prompt = rng.integers(3, 300, size=int(rng.integers(3, 12))).astype(np.int32)
        answers = [
            np.array([*rng.integers(3, 6, size=int(rng.integers(0, 4))), 300 + i], dtype=np.int32)
            for i in range(5)
        ]
        found.append(Question(prompt, answers, np.ones(5)))
    return found
