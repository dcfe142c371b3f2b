"""An encoder's architecture as JSON, so that fine-tuned weights load without what they began with."""

from __future__ import annotations

from typing import Any

import torch

from bench.pretrained.quiet import quiet_transformers

__all__ = ["describe_backbone", "empty_backbone"]


def describe_backbone(model: Any) -> dict[str, Any]:
    """The configuration of an encoder of transformers, JSON-serialisable."""
    described: dict[str, Any] = model.config.to_diff_dict()
    return described


def empty_backbone(described: dict[str, Any]) -> Any:
    """An encoder of that configuration with random weights (torch's generator), without a pooler."""
    from transformers import AutoConfig, AutoModel

    values = dict(described)
    with quiet_transformers():
        config = AutoConfig.for_model(values.pop("model_type"), **values)
        model: Any = AutoModel.from_config(config, dtype=torch.float32)
    if hasattr(model, "pooler"):
        model.pooler = None
    return model
