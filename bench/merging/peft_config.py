"""``adapter_config.json`` of a LoRA adapter: checked once, for whoever reads an adapter.

PEFT's own merge is silently wrong for some variants of LoRA. Each key that changes what the factors
mean is either a field of :class:`PeftLora` or refused by name; the others only matter for training.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench.errors import ConfigError, DataError, ResultError
from bench.io import read_json
from bench.merging.adapter import AdapterConfig
from bench.merging.patterns import expression_fault, values_of

__all__ = ["CONFIG_FILE", "PICKLE_FILE", "WEIGHTS_FILE", "PeftLora", "peft_config", "read_peft"]

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PICKLE_FILE = "adapter_model.bin"
"""What PEFT wrote before it wrote safetensors."""

REFUSED = {
    "use_dora": "DoRA adds a magnitude per row",
    "use_qalora": "QA-LoRA pools the input",
    "use_bdlora": "block-diagonal factors",
    "lora_bias": "B has a bias of its own",
    "modules_to_save": "whole modules are stored beside the factors",
    "target_parameters": "parameters are adapted, not modules",
    "trainable_token_indices": "rows of the embedding are stored beside the factors",
    "layer_replication": "layers are repeated",
    "alora_invocation_tokens": "the adapter acts only behind certain tokens",
    "arrow_config": "the adapter routes to others",
    "kasa_config": "KaSA cuts the base weights and puts a diagonal between the factors",
    "monteclora_config": "MonteCLoRA draws noise on top of the factors",
    "megatron_config": "factors are split over devices",
    "fan_in_fan_out": "weights are stored transposed (Conv1D)",
}
"""Keys that must be absent, null, false or empty, and what they mean."""

PLAIN_INITS = ("true", "false", "gaussian", "orthogonal", "lora", "eva", "mica")
"""Initialisations that leave the base weights as they are: EVA draws A from the inputs, MiCA takes
a frozen B from the base weights; both add s B A, as LoRA does."""

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

_SHOWN = 80

Rank = Annotated[int, Field(ge=1, le=2**20)]
# Beside a scaling that is larger by far more than this, float32 holds nothing of another module's update.
Alpha = Annotated[float, Field(gt=0, le=2**40, allow_inf_nan=False)]
Names = str | list[str] | None


class PeftLora(BaseModel):
    """The keys of ``adapter_config.json`` that are read, with PEFT's names and meanings.

    Attributes:
        r: rank of the modules that no key of ``rank_pattern`` matches.
        lora_alpha: numerator of the scaling of those that no key of ``alpha_pattern`` matches; PEFT's
            default is 8.
        use_rslora: whether the scaling is ``alpha / sqrt(r)`` and not ``alpha / r``.
        rank_pattern: ranks by regular expression over the ends of module names; the first match counts.
        alpha_pattern: alphas likewise.
        base_model_name_or_path: the base model.
        init_lora_weights: what training started from.
        bias: which biases were trained; only ``none`` is accepted.
    """

    model_config = ConfigDict(strict=True, frozen=True, extra="ignore")

    r: Rank
    lora_alpha: Alpha = 8.0
    use_rslora: bool | None = False
    rank_pattern: dict[str, Rank] | None = None
    alpha_pattern: dict[str, Alpha] | None = None
    base_model_name_or_path: str | None = None
    init_lora_weights: bool | str | None = True
    bias: str | None = None
    task_type: str | None = None
    target_modules: Names = None
    exclude_modules: Names = None
    layers_to_transform: int | list[int] | None = None
    layers_pattern: Names = None
    revision: str | None = None
    auto_mapping: dict[str, Any] | None = None

    @field_validator("rank_pattern", "alpha_pattern")
    @classmethod
    def _are_expressions(cls, value: Mapping[str, Any] | None) -> Mapping[str, Any] | None:
        for key in value or ():
            if fault := expression_fault(key):
                raise ValueError(f"regular expressions as keys, {_shown(key)} is none ({fault})")
        return value

    @property
    def largest_rank(self) -> int:
        """No module has a larger rank."""
        return max(self.r, *(self.rank_pattern or {}).values(), 1)

    @property
    def repeated(self) -> dict[str, Any]:
        """The values of :data:`REPEATED` that are given."""
        found = {key: getattr(self, key) for key in REPEATED}
        return {key: value for key, value in found.items() if value is not None}

    def ranks_and_scalings(self, modules: Sequence[str]) -> list[tuple[int, float]]:
        """For each module the rank that it should have, and the factor s of its update s B A.

        Raises:
            ConfigError: matching the patterns takes too long.
        """
        ranks = values_of(self.rank_pattern, modules, self.r)
        alphas = values_of(self.alpha_pattern, modules, self.lora_alpha)
        return [
            (rank, alpha / (math.sqrt(rank) if self.use_rslora else rank))
            for rank, alpha in zip(ranks, alphas, strict=True)
        ]


def read_peft(folder: Path) -> PeftLora:
    """Read and check ``adapter_config.json`` of a PEFT folder.

    Raises:
        DataError: the file is absent or no JSON object, or a value is not what PEFT writes; the message
            names file and key.
        ConfigError: not LoRA, or a variant that is not supported; the message says which key.
    """
    path = folder / CONFIG_FILE
    try:
        values = read_json(path)
    except ResultError as error:
        raise DataError(
            f"{error} Expected the {CONFIG_FILE} that PEFT's save_pretrained writes."
        ) from error
    if not isinstance(values, dict):
        raise DataError(f"{path}: holds {type(values).__name__}, expected the JSON object of PEFT.")
    if values.get("peft_type") != "LORA":
        raise ConfigError(
            f"{path}: has peft_type {_shown(values.get('peft_type'))}, not 'LORA'; only LORA adapters "
            "are read."
        )
    for key, meaning in REFUSED.items():
        if values.get(key):
            raise ConfigError(
                f"{path}: sets {key} to {_shown(values[key])} ({meaning}), which is not supported. Use "
                "adapters trained with plain LoRA."
            )
    try:
        found = PeftLora.model_validate(values)
    except ValidationError as error:
        raise DataError(f"{path}: {explain(error)}. Copy the adapter again.") from error
    _check_meaning(found, path)
    return found


def explain(error: ValidationError) -> str:
    """What a checked file holds and what was expected, field by field, in one line."""
    parts = []
    for item in error.errors(include_url=False):
        field = ".".join(map(str, item["loc"]))
        expected = item["msg"].removeprefix("Input should be ").removeprefix("Value error, ")
        found = "is missing" if item["type"] == "missing" else f"is {_shown(item['input'])}"
        parts.append(f"{field} {found}; expected {expected}")
    return "; ".join(dict.fromkeys(parts[:3]))


def _check_meaning(found: PeftLora, path: Path) -> None:
    if found.bias not in (None, "none"):
        raise ConfigError(
            f"{path}: sets bias to {_shown(found.bias)}; adapters that train biases cannot be merged. "
            "Train with bias='none'."
        )
    init = found.init_lora_weights
    if init is not None and str(init).lower() not in PLAIN_INITS:
        raise ConfigError(
            f"{path}: init_lora_weights is {_shown(init)}, which changes the base weights; convert the "
            "adapter with path_initial_model_for_weight_conversion of PEFT's save_pretrained first."
        )


def _shown(value: object) -> str:
    """A value for a message: cut, however large it is."""
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python writes no integer of more than 4,300 digits
        return f"a {type(value).__name__} too large to show"
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def peft_config(config: AdapterConfig, modules: tuple[str, ...]) -> dict[str, Any]:
    """The content of ``adapter_config.json`` for an adapter, as PEFT and vLLM read it.

    Args:
        config: rank, scaling, base and repeated keys.
        modules: names of the adapted modules; they are the targets if no repeated key says so.
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
