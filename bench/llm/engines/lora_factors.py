"""LoRA factors of a PEFT folder, added to a model without changing it.

The delta of an adapted linear layer is ``s B A x`` beside ``W x``, as in PEFT: the weights are never
merged, because rounding ``W + s B A`` to bfloat16 loses much of a small delta. The factors are cast
to the model's dtype.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.errors import BenchError, ResultError
from bench.io import read_json

__all__ = ["Factors", "attached", "read_factors", "stamp"]

_CONFIG, _WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX = "base_model.model."
_REMEDY = "Expected a LoRA folder as PEFT's save_pretrained writes it, trained on this backbone."


@dataclass(frozen=True, slots=True)
class Factors:
    """One adapted linear layer.

    Attributes:
        a: ``(r, d_in)``, in the model's dtype and on the layer's device.
        b: ``(d_out, r)``, multiplied by the scaling ``s``.
    """

    a: Tensor
    b: Tensor


def stamp(folder: Path) -> tuple[str, int, int]:
    """What tells one state of an adapter's folder from another: path, time and size.

    Raises:
        ResultError: the folder or its weights are missing.
    """
    weights = folder / _WEIGHTS
    try:
        status = weights.stat()
    except OSError:
        raise ResultError(f"{folder}: no adapter: {_WEIGHTS} is missing. {_REMEDY}") from None
    return str(folder.resolve()), status.st_mtime_ns, status.st_size


def read_factors(folder: Path, model: nn.Module) -> dict[str, Factors]:
    """Read an adapter for ``model``.

    Args:
        folder: PEFT folder.
        model: the causal language model it belongs to.

    Returns:
        The factors by name of the module they belong to.

    Raises:
        ResultError: no complete adapter; a kind of adapter other than plain (or rank-stabilised)
            LoRA; or one that does not fit the model.
    """
    stamp(folder)
    try:
        config = read_json(folder / _CONFIG)
    except (OSError, BenchError) as error:
        raise ResultError(f"{folder}: no adapter: {_CONFIG}: {error}. {_REMEDY}") from error
    _check_config(folder, config)
    try:
        tensors = load_file(folder / _WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ResultError(f"{folder / _WEIGHTS}: cannot be read: {error}. {_REMEDY}") from error
    modules = dict(model.named_modules())
    factors = {}
    for name in sorted(_module_names(folder, tensors)):
        a = tensors[f"{_PREFIX}{name}.lora_A.weight"]
        b = tensors[f"{_PREFIX}{name}.lora_B.weight"]
        layer = modules.get(name)
        weight = _weight(folder, name, layer)
        d_out, d_in = layer.out_features, layer.in_features  # type: ignore[union-attr]
        if a.ndim != 2 or b.ndim != 2 or (len(b), len(a), a.shape[1]) != (d_out, b.shape[1], d_in):
            raise ResultError(
                f"{folder}: {name} has factors of shape {tuple(a.shape)} and {tuple(b.shape)}; the "
                f"model's layer maps {d_in} to {d_out}. {_REMEDY}"
            )
        if not (a.isfinite().all() and b.isfinite().all()):
            raise ResultError(f"{folder}: {name} holds NaN or infinity. Train the adapter again.")
        dtype = weight.dtype if weight.dtype.is_floating_point else getattr(model, "dtype", None)
        scaled = b.float() * _scaling(config, name, rank=len(a))
        factors[name] = Factors(a.to(weight.device, dtype), scaled.to(weight.device, dtype))
    return factors


def _check_config(folder: Path, config: Any) -> None:
    found = config.get("peft_type") if isinstance(config, dict) else None
    if found != "LORA":
        raise ResultError(f"{folder}: {_CONFIG} has peft_type {found!r}, not 'LORA'. {_REMEDY}")
    if not isinstance(config.get("lora_alpha"), int | float):
        raise ResultError(f"{folder}: {_CONFIG} has no number lora_alpha. {_REMEDY}")
    unsupported = {
        "use_dora": config.get("use_dora"),
        "bias": config.get("bias") not in (None, "none"),
        "modules_to_save": config.get("modules_to_save"),
        "fan_in_fan_out": config.get("fan_in_fan_out"),
    }
    for option, is_set in unsupported.items():
        if is_set:
            raise ResultError(
                f"{folder}: {_CONFIG} sets {option} to {config[option]!r}; this engine runs plain "
                "LoRA on linear layers only. Train the adapter without it."
            )


def _module_names(folder: Path, tensors: Mapping[str, Tensor]) -> set[str]:
    """Names of the modules with both factors.

    Raises:
        ResultError: another tensor is there, a factor lacks its partner, or there is none.
    """
    pattern = re.compile(re.escape(_PREFIX) + r"(.+)\.lora_([AB])\.weight")
    found: dict[str, set[str]] = {}
    for key in tensors:
        match = pattern.fullmatch(key)
        if match is None:
            raise ResultError(f"{folder / _WEIGHTS}: unexpected tensor {key!r}. {_REMEDY}")
        found.setdefault(match[1], set()).add(match[2])
    alone = sorted(name for name, parts in found.items() if parts != {"A", "B"})
    if alone:
        raise ResultError(f"{folder / _WEIGHTS}: {alone[0]} has one factor of two. {_REMEDY}")
    if not found:
        raise ResultError(f"{folder / _WEIGHTS}: holds no factors. {_REMEDY}")
    return set(found)


def _weight(folder: Path, name: str, layer: nn.Module | None) -> Tensor:
    if layer is None:
        raise ResultError(f"{folder}: adapts {name}, which the model does not have. {_REMEDY}")
    # Quantised layers are subclasses of nn.Linear.
    if not isinstance(layer, nn.Linear) or name.endswith("lm_head"):
        raise ResultError(
            f"{folder}: adapts {name} ({type(layer).__name__}); this engine adapts linear layers "
            "inside the decoder only. Train the adapter with targets 'all-linear'."
        )
    return layer.weight


def _scaling(config: Mapping[str, Any], name: str, *, rank: int) -> float:
    """``alpha / r`` as PEFT finds it, with its patterns by module name."""
    alpha = float(config["lora_alpha"])
    for key, value in (config.get("alpha_pattern") or {}).items():
        if re.match(rf"(.*\.)?({key})$", name):
            alpha = float(value)
            break
    return alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


@contextmanager
def attached(model: nn.Module, factors: Mapping[str, Factors] | None) -> Iterator[None]:
    """Let the model's own forward pass add the deltas for as long as the block runs."""
    handles = []
    try:
        for name, layer in (factors or {}).items():
            handles.append(model.get_submodule(name).register_forward_hook(_hook(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(factors: Factors) -> Any:
    def add_delta(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].to(factors.a.dtype)
        delta = nn.functional.linear(nn.functional.linear(x, factors.a), factors.b)
        return output + delta.to(output.dtype)

    return add_delta
