"""Short trainings of a tiny adapter, and examples that it can learn."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from llm_examples import LOG, make_examples

from bench.llm.backbones import Backbone
from bench.llm.examples import Examples
from bench.llm.lora import LoraSpec, named_arrays, write_init
from bench.llm.training import TrainingReport, TrainingSpec, train_adapter
from bench.merging import read_adapter
from bench.methods import QuietProgress

# peft asks transformers for a property under its old name.
PEFT_WARNING = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

LORA = LoraSpec(r=4, alpha=8)
FAST = TrainingSpec(epochs=2, learning_rate=0.02, batch_sequences=4)


def train(
    backbone: Backbone,
    examples: Examples,
    folder: Path,
    training: TrainingSpec = FAST,
    *,
    lora: LoraSpec = LORA,
    name: str = "out",
    order_seed: int = 0,
    dtype: str = "float32",
    progress: QuietProgress | None = None,
    checkpoint_seconds: float = 1e9,
    **base: object,
) -> TrainingReport:
    if not (folder / "init").exists():
        write_init(backbone, lora, 0, folder / "init")
    return train_adapter(
        backbone,
        examples,
        lora,
        training,
        init=folder / "init",
        order_seed=order_seed,
        out=folder / name,
        checkpoints=folder / "checkpoints",
        device="cpu",
        dtype=dtype,
        progress=progress or QuietProgress(),
        log=LOG,
        checkpoint_seconds=checkpoint_seconds,
        **base,
    )


def weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def arrays(folder: Path) -> dict[str, np.ndarray]:
    """The factors of a folder under PEFT's names."""
    return named_arrays(read_adapter(folder))


def planted(n: int = 16, n_items: int = 4) -> Examples:
    """Prompts whose last token decides the three tokens of the answer."""
    rng = np.random.default_rng(0)
    sequences = []
    for i in range(n):
        last = i % n_items
        history = rng.integers(10, 10 + n_items, 5).tolist()
        answer = [30 + 7 * last, 40 + (last * 5) % n_items, 2]
        sequences.append([*history, 10 + last, 9, *answer])
    return make_examples(sequences, [7] * n)
