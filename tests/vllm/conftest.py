"""Engines that start once per module: vLLM takes a minute for a model of any size."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from engine_pair import Pair, lora_folder, make_backbone, make_reference

# The tiny random model of the LLM room's tests.
sys.path.insert(0, str(Path(__file__).parents[1] / "llm"))


@pytest.fixture(scope="module", params=["llama", "qwen2"])
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Pair]:
    from tiny import tiny_backbone

    from bench.llm.engines.vllm import VllmEngine, VllmOptions

    root = tmp_path_factory.mktemp(request.param)
    # vLLM's attention on the CPU knows heads of 32 dimensions and more.
    folder = tiny_backbone(root / "model", request.param, hidden=128)
    adapters = {
        "base": None,
        "all-linear": lora_folder(
            folder, root / "a", seed=1, r=16, lora_alpha=32, target_modules="all-linear"
        ),
        "attention": lora_folder(
            folder, root / "b", seed=2, r=4, lora_alpha=12, target_modules=["q_proj", "v_proj"]
        ),
    }
    options = VllmOptions(kv_cache_gib=0.25, max_model_len=1024)
    engine = VllmEngine(make_backbone(folder), options=options)
    yield Pair(make_reference(folder), engine, adapters, folder)
    engine.close()
