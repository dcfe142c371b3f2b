"""Recipes of small adapters, and makers that write them without training."""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

from bench.llm.adapter_files import CONFIG, WEIGHTS
from bench.llm.adapters import AdapterSpec, AdapterStore, MixturePart

BEAUTY = MixturePart(domain="beauty", training_hash="1" * 64, n_examples=400)
SPORTS = MixturePart(domain="sports", training_hash="2" * 64, n_examples=400)


def recipe(*parts: MixturePart, **changes) -> AdapterSpec:
    values = {
        "backbone": "toy",
        "backbone_hash": "b" * 64,
        "mixture": parts or (BEAUTY,),
        "objective": "sequence",
        "label": "title",
        "template": "sequence",
        "template_hash": "t" * 64,
        "text": {"max_history": 15, "title_tokens": 24},
        "lora": {"r": 2, "alpha": 4.0},
        "training": {"epochs": 1, "learning_rate": 5e-4},
        "trainer_version": 1,
        **changes,
    }
    return AdapterSpec(**values)


def write(out: Path, value: float = 1.0, **config) -> None:
    save_file({"w": np.full((2, 3), value, dtype=np.float32)}, out / WEIGHTS)
    (out / CONFIG).write_text(json.dumps({"peft_type": "LORA", "r": 2, **config}))


class Maker:
    """Counts how often it makes something."""

    def __init__(self, value: float = 1.0, report=None, seconds: float = 0.0) -> None:
        self.calls = 0
        self.value = value
        self.report = {} if report is None else report
        self.seconds = seconds

    def __call__(self, out: Path, checkpoints: Path):
        self.calls += 1
        time.sleep(self.seconds)
        write(out, self.value)
        return self.report


def parents(store: AdapterStore) -> list[str]:
    a = store.obtain(recipe(BEAUTY), Maker(report={"tokens": 10, "seconds": 100.0}))
    b = store.obtain(recipe(BEAUTY, SPORTS), Maker(report={"tokens": 20, "seconds": 200.0}))
    return [a.adapter_id, b.adapter_id]
