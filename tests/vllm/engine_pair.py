"""The same tiny random model in both engines, and adapters for it."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# This folder has the name of the package: a folder alone has no origin.
HAS_VLLM = getattr(importlib.util.find_spec("vllm"), "origin", None) is not None


@dataclass(frozen=True)
class Pair:
    """The same tiny model in both engines, and adapters for it."""

    reference: Any
    vllm: Any
    adapters: dict[str, Path | None]
    folder: Path


def lora_folder(model_folder: Path, out: Path, *, seed: int, **lora: Any) -> Path:
    """A random adapter, written by PEFT, whose effect on the tiny model is clearly visible."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in adapted.named_parameters():
            if "lora_" in name:
                parameter.copy_(0.05 * torch.randn(parameter.shape, generator=generator))
    adapted.save_pretrained(out)
    return out


def make_backbone(folder: Path) -> Any:
    from bench.llm.backbones import Backbone

    return Backbone(name=str(folder), folder=folder, content_hash="0" * 64)


def make_reference(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    from bench.llm.engines.transformers import TransformersEngine

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    return TransformersEngine(model.requires_grad_(False))
