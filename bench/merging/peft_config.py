"""Reading ``adapter_config.json``: what a merge can represent, and refusals for everything else.

PEFT's own merge is silently wrong for some of these variants. Each key that changes what the factors
mean is either handled or refused by name; the others only matter for training or for finding modules.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.errors import ConfigError, DataError
from bench.merging.adapter import AdapterConfig

__all__ = ["CONFIG_FILE", "WEIGHTS_FILE", "parse_peft_config", "peft_config"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"

REFUSED = {
    "use_rslora": "rsLoRA scales by alpha / sqrt(r)",
    "use_dora": "DoRA adds a magnitude per row",
    "use_qalora": "QA-LoRA pools the input",
    "use_bdlora": "block-diagonal factors",
    "lora_bias": "B has a bias of its own",
    "modules_to_save": "whole modules are stored beside the factors",
    "rank_pattern": "modules have ranks of their own",
    "alpha_pattern": "modules have alphas of their own",
    "target_parameters": "parameters are adapted, not modules",
    "trainable_token_indices": "rows of the embedding are stored beside the factors",
    "layer_replication": "layers are repeated",
    "alora_invocation_tokens": "the adapter acts only behind certain tokens",
    "arrow_config": "the adapter routes to others",
    "megatron_config": "factors are split over devices",
    "fan_in_fan_out": "weights are stored transposed (Conv1D)",
}
"""Keys that must be absent, null, false or empty, and what they mean."""

PLAIN_INITS = (None, True, False, "gaussian", "orthogonal", "lora")
"""Initialisations that leave the base weights as they are."""

REPEATED = (
    "task_type",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
    "revision",
    "auto_mapping",
)
"""Keys that say which modules are adapted and how the model is loaded."""


def parse_peft_config(values: object, path: Path, own: Mapping[str, Any]) -> AdapterConfig:
    """Check the content of ``adapter_config.json``.

    Args:
        values: the parsed file.
        path: the file, for messages.
        own: content of ``bench_adapter.json``, or nothing; ``init_hash`` and ``base_hash`` are read.

    Raises:
        DataError: not a mapping, or no valid rank or alpha.
        ConfigError: not LoRA, or a variant that is not supported; the message says which key.
    """
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds {type(values).__name__}, expected the JSON object of PEFT.")
    if values.get("peft_type") != "LORA":
        raise ConfigError(
            f"{path}: peft_type is {values.get('peft_type')!r}; only LORA adapters can be merged."
        )
    for key, meaning in REFUSED.items():
        if values.get(key):
            raise ConfigError(
                f"{path}: {key} is {values[key]!r} ({meaning}), which merging does not support. Use "
                "adapters trained with plain LoRA."
            )
    if values.get("bias", "none") != "none":
        raise ConfigError(
            f"{path}: bias is {values['bias']!r}; adapters that train biases cannot be merged. Train "
            "with bias='none'."
        )
    init = values.get("init_lora_weights")
    if not any(init is plain or init == plain for plain in PLAIN_INITS):
        raise ConfigError(
            f"{path}: init_lora_weights is {init!r}, which changes the base weights; convert the "
            "adapter with path_initial_model_for_weight_conversion of PEFT's save_pretrained first."
        )
    r, alpha = (_positive(values.get(key), key, path) for key in ("r", "lora_alpha"))
    if r != int(r):
        raise DataError(f"{path}: r is {r!r}; expected a whole number.")
    return AdapterConfig(
        r=int(r),
        alpha=alpha,
        base_model=values.get("base_model_name_or_path") or None,
        base_hash=own.get("base_hash"),
        init_hash=own.get("init_hash"),
        peft={key: values[key] for key in REPEATED if values.get(key) is not None},
    )


def peft_config(config: AdapterConfig, modules: tuple[str, ...]) -> dict[str, Any]:
    """The content of ``adapter_config.json`` for an adapter, as PEFT and vLLM read it.

    Args:
        config: rank, scaling, base and repeated keys.
        modules: names of the adapted modules; they are the targets where no repeated key says so.
    """
    alpha = int(config.alpha) if config.alpha == int(config.alpha) else config.alpha
    return {
        "target_modules": list(modules),
        **config.peft,
        "alpha_pattern": {},
        "base_model_name_or_path": config.base_model,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "lora_dropout": 0.0,
        "modules_to_save": None,
        "peft_type": "LORA",
        "r": config.r,
        "rank_pattern": {},
        "use_dora": False,
        "use_rslora": False,
    }


def _positive(value: object, key: str, path: Path) -> float:
    if isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf:
        return float(value)
    raise DataError(f"{path}: {key} is {value!r}; expected a positive number.")
