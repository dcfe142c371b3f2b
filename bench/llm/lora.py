"""LoRA adapters on disk and in a model: settings, the shared initialisation, files in PEFT's format.

An adapter changes a frozen linear layer ``y = W x`` into ``y = W x + (alpha / r) B A x`` (Hu et al.
2022, LoRA, Eq. 3). ``A`` is drawn once per study and ``B`` starts at zero, so all branches begin at
the same point and their factors can be averaged later. The draw of a module depends on the seed and
on the module's name alone, not on the order in which modules are visited or on torch's generators.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from bench.errors import ConfigError, ResultError
from bench.io import hash_arrays, write_bytes, write_json
from bench.merging import Adapter
from bench.merging.folders import PREFIX
from bench.merging.peft_config import CONFIG_FILE, WEIGHTS_FILE

if TYPE_CHECKING:
    import torch
    from torch import nn

    from bench.llm.backbones import Backbone

__all__ = [
    "LoraSpec",
    "attach_lora",
    "initial_factors",
    "named_arrays",
    "target_modules",
    "write_adapter",
    "write_init",
]

_ADAPTER = "default"


class LoraSpec(BaseModel):
    """What an adapter looks like.

    Attributes:
        r: rank of the update, >= 1.
        alpha: numerator of the scaling ``alpha / r``, > 0.
        dropout: share of the inputs of ``A`` that are dropped in training, in [0, 1).
        targets: ``all-linear`` (every linear layer of the blocks, neither embeddings nor the
            vocabulary projection) or the last parts of the names of the layers to adapt.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    r: int = Field(default=16, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    targets: Literal["all-linear"] | tuple[str, ...] = "all-linear"

    @property
    def scaling(self) -> float:
        """The factor ``alpha / r`` before ``B A``."""
        return self.alpha / self.r


def target_modules(model: nn.Module, lora: LoraSpec) -> dict[str, tuple[int, int]]:
    """Names of the linear layers that an adapter changes.

    Args:
        model: a causal language model of transformers (it may lie on the meta device).
        lora: settings; ``targets`` decides.

    Returns:
        ``{full module name: (d_out, d_in)}``, in order of the name.

    Raises:
        ConfigError: a target names no linear layer of the model, or it has none.
    """
    from torch import nn

    head = model.get_output_embeddings()  # type: ignore[operator]
    linear = {
        name: (module.out_features, module.in_features)
        for name, module in sorted(model.named_modules())
        if isinstance(module, nn.Linear) and module is not head
    }
    if not linear:
        raise ConfigError(
            f"{type(model).__name__} has no linear layer that LoRA could adapt (GPT-2's are Conv1D). "
            "Use it without an adapter, or another backbone."
        )
    if lora.targets == "all-linear":
        return linear
    endings = {name.rpartition(".")[2] for name in linear}
    unknown = sorted(set(lora.targets) - endings)
    if unknown or not lora.targets:
        raise ConfigError(
            f"LoRA targets {list(lora.targets)}: {unknown or 'an empty list'} names no linear layer. "
            f"Expected 'all-linear' or some of {', '.join(sorted(endings))}."
        )
    return {n: shape for n, shape in linear.items() if n.rpartition(".")[2] in lora.targets}


def initial_factors(
    modules: Mapping[str, tuple[int, int]], lora: LoraSpec, init_seed: int
) -> dict[str, np.ndarray]:
    """Draw the shared initialisation: ``A`` Kaiming-uniform as in PEFT, ``B`` zero.

    Kaiming-uniform with ``a = sqrt(5)`` is uniform in ``[-1/sqrt(d_in), 1/sqrt(d_in))``. Unlike in
    PEFT, every module has a generator of its own, keyed by the seed and the module's name.

    Args:
        modules: as :func:`target_modules` returns them.
        lora: settings.
        init_seed: seed of the study's initialisation.

    Returns:
        float32 arrays under the names of PEFT's files: ``...lora_A.weight`` (r, d_in) and
        ``...lora_B.weight`` (d_out, r).
    """
    factors: dict[str, np.ndarray] = {}
    for name, (d_out, d_in) in sorted(modules.items()):
        digest = hashlib.sha256(f"lora-init:{init_seed}:{name}".encode()).digest()
        rng = np.random.Generator(np.random.Philox(key=np.frombuffer(digest[:16], dtype="<u8")))
        bound = 1.0 / math.sqrt(d_in)
        uniform = rng.random((lora.r, d_in)) * (2.0 * bound) - bound
        factors[f"{PREFIX}{name}.lora_A.weight"] = uniform.astype(np.float32)
        factors[f"{PREFIX}{name}.lora_B.weight"] = np.zeros((d_out, lora.r), dtype=np.float32)
    return factors


def write_init(backbone: Backbone, lora: LoraSpec, init_seed: int, folder: Path) -> str:
    """Write the initial adapter from which every branch of a study starts.

    Only the backbone's configuration is read, never its weights.

    Args:
        backbone: the model that is adapted.
        lora: settings.
        init_seed: seed of ``A``.
        folder: where the adapter goes, in PEFT's format; created when absent.

    Returns:
        SHA-256 of the factors.

    Raises:
        ConfigError: ``lora.targets`` names no linear layer.
    """
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(backbone.folder, trust_remote_code=False)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    modules = target_modules(model, lora)
    factors = initial_factors(modules, lora, init_seed)
    write_adapter(folder, factors, lora, modules, base=backbone.name)
    return hash_arrays(factors)


def write_adapter(
    folder: Path,
    factors: Mapping[str, np.ndarray],
    lora: LoraSpec,
    modules: Mapping[str, tuple[int, int]],
    *,
    base: str,
) -> None:
    """Write an adapter as PEFT reads it; equal factors give equal bytes.

    Args:
        folder: target folder; created when absent.
        factors: arrays under PEFT's names.
        lora: settings.
        modules: the adapted layers (:func:`target_modules`).
        base: name of the backbone, kept for information.
    """
    from peft import LoraConfig, TaskType
    from safetensors.numpy import save

    folder.mkdir(parents=True, exist_ok=True)
    config = LoraConfig(
        r=lora.r,
        lora_alpha=_number(lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=sorted({name.rpartition(".")[2] for name in modules}),
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base,
        inference_mode=True,
    )
    write_bytes(
        folder / WEIGHTS_FILE,
        save({n: np.ascontiguousarray(factors[n]) for n in sorted(factors)}, {"format": "pt"}),
    )
    write_json(folder / CONFIG_FILE, _plain(config.to_dict()))


def named_arrays(adapter: Adapter) -> dict[str, np.ndarray]:
    """The factors of an adapter as float32 arrays under PEFT's names."""
    return {
        f"{PREFIX}{module}.lora_{part}.weight": factor.float().numpy()
        for module, pair in adapter.factors.items()
        for part, factor in zip("AB", pair, strict=True)
    }


def attach_lora(
    model: nn.Module, lora: LoraSpec, factors: Mapping[str, np.ndarray]
) -> dict[str, torch.nn.Parameter]:
    """Put PEFT's LoRA layers into ``model`` with the given factors, float32 and trainable.

    PEFT draws no numbers here (its layers are made on the meta device), so torch's generators are
    left alone.

    Args:
        model: the base, changed in place; its own parameters must be frozen.
        lora: settings.
        factors: arrays under PEFT's names, for exactly the layers that ``lora`` adapts.

    Returns:
        The trainable parameters under PEFT's names, in order of the name.

    Raises:
        ResultError: the factors belong to other layers, another rank or another model.
    """
    import torch
    from peft import LoraConfig, TaskType, inject_adapter_in_model
    from peft.tuners.lora import LoraLayer

    modules = target_modules(model, lora)
    expected = {
        f"{PREFIX}{name}.lora_{factor}.weight": shape
        for name, (d_out, d_in) in modules.items()
        for factor, shape in (("A", (lora.r, d_in)), ("B", (d_out, lora.r)))
    }
    found = {name: array.shape for name, array in factors.items()}
    if found != expected:
        wrong = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise ResultError(
            f"the initial adapter does not fit: {len(wrong)} of {len(expected)} factors differ, first "
            f"{wrong[0]}: found {found.get(wrong[0])}, expected {expected.get(wrong[0])}. "
            "Write it again for this backbone and these LoRA settings."
        )
    config = LoraConfig(
        r=lora.r,
        lora_alpha=_number(lora.alpha),
        lora_dropout=lora.dropout,
        target_modules=sorted(modules),
        task_type=TaskType.CAUSAL_LM,
    )
    inject_adapter_in_model(config, model, adapter_name=_ADAPTER, low_cpu_mem_usage=True)
    parameters: dict[str, torch.nn.Parameter] = {}
    for name, module in sorted(model.named_modules()):
        if not isinstance(module, LoraLayer):
            continue
        device = module.get_base_layer().weight.device
        for factor in ("A", "B"):
            key = f"{PREFIX}{name}.lora_{factor}.weight"
            value = torch.from_numpy(factors[key].astype(np.float32)).to(device)
            parameters[key] = torch.nn.Parameter(value)
            getattr(module, f"lora_{factor}")[_ADAPTER].weight = parameters[key]
    return dict(sorted(parameters.items()))


def _number(value: float) -> float | int:
    """``32.0`` as ``32``, which is what other tools expect to find."""
    return int(value) if value == int(value) else value


def _plain(value: Any) -> Any:
    """A configuration as JSON: sets sorted, enumerations as their values."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(_plain(v) for v in value)
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return getattr(value, "value", value)
