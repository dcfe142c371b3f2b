"""What the vLLM engine can be told, and what is checked before vLLM starts. Imports no vLLM."""

from __future__ import annotations

import importlib.util
import os
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from bench.documents import DocumentError, parse_yaml
from bench.errors import ConfigError, DataError, MissingExtraError, ResultError
from bench.merging.peft_config import read_peft

__all__ = [
    "Route",
    "VllmOptions",
    "adapter_rank",
    "check_installed",
    "check_settings",
    "options_from_environment",
    "rank_capacity",
]

Route = Literal["forced", "replay", "prompt"]
"""How a likelihood is read."""

OPTIONS = "BENCH_VLLM"
"""Environment variable with options of this machine: a YAML mapping, no part of any identity."""

_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Adapter ranks that vLLM can reserve memory for."""
_GIB = 2**30


class VllmOptions(BaseModel):
    """How vLLM uses the machine; None leaves the choice to vLLM, except where said.

    Attributes:
        gpu_memory_utilization: share of an accelerator's memory to take, in (0, 1].
        kv_cache_gib: memory of the key-value cache in GiB, > 0; None: what
            ``gpu_memory_utilization`` leaves, or 1 on the CPU.
        tensor_parallel_size: accelerators that share the model, >= 1.
        max_model_len: longest prompt with its answer, in tokens, >= 1; None: as far as the model
            goes. Lower it if the cache cannot hold one such sequence.
        max_num_seqs: most requests in one step, >= 1.
        block_size: tokens per block of the prefix cache; None: 32 on the CPU (vLLM's 128 would
            leave short prompts uncached).
        enforce_eager: whether to run without compiling and capturing graphs, which starts faster
            and runs slower; None: only on the CPU.
        max_lora_rank: rank to reserve memory for at the first adapter; a larger adapter restarts
            vLLM with what it needs.
        max_cpu_loras: adapters kept in host memory, >= 1.
        route: how likelihoods are read. ``forced``: forced decoding by a logits processor
            (the V1 model runner); ``replay``: by vLLM's own trace replay (the V2 runner);
            ``prompt``: ``prompt_logprobs``, without the prefix cache; ``auto``: ``forced`` on the
            CPU and ``replay`` elsewhere.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    gpu_memory_utilization: float = Field(default=0.9, gt=0, le=1)
    kv_cache_gib: float | None = Field(default=None, gt=0)
    tensor_parallel_size: int = Field(default=1, ge=1)
    max_model_len: int | None = Field(default=None, ge=1)
    max_num_seqs: int | None = Field(default=None, ge=1)
    block_size: int | None = Field(default=None, ge=1)
    enforce_eager: bool | None = None
    max_lora_rank: int = Field(default=16, ge=1, le=_RANKS[-1])
    max_cpu_loras: int = Field(default=8, ge=1)
    route: Literal["auto", "forced", "replay", "prompt"] = "auto"

    def arguments(self, device: str) -> dict[str, Any]:
        """The arguments of ``vllm.LLM`` that these options decide on a kind of device."""
        cpu = device == "cpu"
        cache = self.kv_cache_gib if self.kv_cache_gib is not None else (1.0 if cpu else None)
        chosen = {
            "max_model_len": self.max_model_len,
            "max_num_seqs": self.max_num_seqs,
            "block_size": self.block_size if self.block_size is not None else 32 if cpu else None,
            "kv_cache_memory_bytes": None if cache is None else int(cache * _GIB),
        }
        return {
            "gpu_memory_utilization": self.gpu_memory_utilization,
            "tensor_parallel_size": self.tensor_parallel_size,
            "enforce_eager": cpu if self.enforce_eager is None else self.enforce_eager,
            **{name: value for name, value in chosen.items() if value is not None},
        }

    def resolved_route(self, device: str) -> Route:
        """The route on a kind of device."""
        if self.route == "auto":
            return "forced" if device == "cpu" else "replay"
        return self.route


def check_settings(
    device: str, attention: str, quantisation: str | None, batch_tokens: int
) -> None:
    """Refuse what vLLM cannot serve.

    Raises:
        ConfigError: the value, and what to use instead.
    """
    if batch_tokens < 1:
        raise ConfigError(f"batch_tokens is {batch_tokens}; expected 1 or more.")
    if attention != "sdpa":
        raise ConfigError(
            f"attention is {attention!r}; vLLM chooses its own implementation. Leave attention at "
            "'sdpa', its default, or use engine=transformers."
        )
    if quantisation not in (None, "4bit") or (quantisation and device == "cpu"):
        raise ConfigError(
            f"quantisation is {quantisation!r} on {device}; vLLM quantises while loading to 4bit, "
            "on accelerators only. Use quantisation=4bit there, or engine=transformers."
        )


def check_installed(device: str) -> None:
    """Check that there is a vLLM for the kind of device.

    Raises:
        MissingExtraError: vLLM is not installed.
        ConfigError: it is a build for another kind of device.
    """
    found = importlib.util.find_spec("vllm")
    # A mere folder of that name on the path has no origin.
    if found is None or found.origin is None:
        raise MissingExtraError(
            "engine 'vllm' needs vLLM, which is not installed. Install it in an environment of its "
            "own with: pip install 'weavebench[vllm]' (see docs/vllm.md), or use "
            "engine=transformers."
        )
    from vllm.platforms import current_platform

    if current_platform.device_type != device:
        raise ConfigError(
            f"device is {device!r}; the installed vLLM serves {current_platform.device_type!r}. "
            f"Use that device (which accelerators: CUDA_VISIBLE_DEVICES), or engine=transformers."
        )


def adapter_rank(folder: Path) -> int:
    """Largest rank of an adapter's factors.

    Raises:
        ResultError: no adapter is there, or one that is no plain LoRA.
    """
    try:
        config = read_peft(folder)
    except (ConfigError, DataError) as error:
        raise ResultError(f"no LoRA adapter: {error} Expected a PEFT folder.") from error
    return config.largest_rank


def rank_capacity(rank: int) -> int:
    """Smallest rank that vLLM can reserve for and that holds ``rank``.

    Raises:
        ConfigError: there is none.
    """
    for one in _RANKS:
        if rank <= one:
            return one
    raise ConfigError(f"the adapter has rank {rank}; vLLM serves at most {_RANKS[-1]}.")


def options_from_environment() -> VllmOptions:
    """The options that ``BENCH_VLLM`` holds, for example ``{tensor_parallel_size: 2}``.

    Raises:
        ConfigError: it is no YAML mapping, or names an unknown option or a value out of range.
    """
    text = os.environ.get(OPTIONS, "")
    try:
        return VllmOptions.model_validate(parse_yaml(text) or {})
    except (DocumentError, ValidationError) as error:
        reason = "; ".join(str(error).splitlines()[:3])
        raise ConfigError(
            f"{OPTIONS}={text!r} cannot be used: {reason}. Expected a mapping such as "
            "'{tensor_parallel_size: 2, max_model_len: 4096}'; docs/vllm.md lists the options."
        ) from error
