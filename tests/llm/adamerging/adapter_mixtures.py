"""Mixtures of adapters: made at random, adapted to questions, folded into one adapter."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.llm.adamerging import AdaptationSpec, Question, adapt, question_entropy
from bench.llm.weighted_adapters import Mixture
from bench.merging import Adapter, read_adapter
from bench.merging.registry import fold_weights
from bench.methods import QuietProgress

LOG = logging.getLogger("test")


def mean_entropy(mixture: Mixture, questions: list[Question]) -> float:
    with torch.no_grad(), mixture.attached():
        return float(np.mean([float(question_entropy(mixture, q)[0]) for q in questions]))


def adapted(mixture: Mixture, questions: list[Question], folder: Path, **changes: Any):
    spec = AdaptationSpec(**{"steps": 10, "batch_requests": 3, "learning_rate": 0.1, **changes})
    return adapt(
        mixture,
        questions,
        spec,
        seed=0,
        checkpoints=folder,
        progress=QuietProgress(),
        log=LOG,
        checkpoint_seconds=0.0,
    )


def folded(mixture: Mixture, adapters: list[Path]) -> Adapter:
    return fold_weights([read_adapter(a) for a in adapters], mixture.weights_by_module())


def set_logits(mixture: Mixture, values: Any) -> None:
    with torch.no_grad():
        mixture.logits.copy_(torch.as_tensor(values))


def random_mixture(model: Any, adapters: list[Path], **settings: Any) -> Mixture:
    mixture = Mixture(model, adapters, **settings)
    generator = torch.Generator().manual_seed(1)
    set_logits(mixture, 2 * torch.randn(mixture.logits.shape, generator=generator))
    return mixture
