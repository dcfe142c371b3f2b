"""Adapters as PEFT folders: ``adapter_config.json`` with ``adapter_model.safetensors`` (or ``.bin``).

A third file, ``bench_adapter.json``, is ours and optional: what is known about an adapter's origin. Of
its keys, ``init_hash`` and ``base_hash`` are read; foreign adapters have none.

What is read is the same function in a plainer form: ranks and scalings of its own in a module
(``rank_pattern``, ``alpha_pattern``, rsLoRA) become one scaling, the ratio going on B in float32. What
is written is plain LoRA of one rank and scaling, because vLLM reads no patterns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from bench.errors import ConfigError, DataError, ResultError
from bench.io import atomic_folder, read_json, sha256_file, write_json, write_text
from bench.merging.adapter import Adapter, AdapterConfig, Factors, padded
from bench.merging.card import describe
from bench.merging.peft_config import (
    CONFIG_FILE,
    PICKLE_FILE,
    WEIGHTS_FILE,
    PeftLora,
    explain,
    peft_config,
    read_peft,
)

if TYPE_CHECKING:
    import torch

__all__ = ["METADATA_FILE", "PREFIX", "read_adapter", "write_adapter", "write_files"]

METADATA_FILE = "bench_adapter.json"
PREFIX = "base_model.model."
_SUFFIXES = {".lora_A.weight": 0, ".lora_B.weight": 1}
# Older files keep the adapter's name in the key; "default" is what PEFT calls the only one.
_KEY = re.compile(re.escape(PREFIX) + r"(.+)\.lora_([AB])(?:\.default)?\.weight")
_SHOWN = 3


class _Origin(BaseModel):
    """What is read of ``bench_adapter.json``."""

    model_config = ConfigDict(strict=True, extra="allow")

    init_hash: str | None = None
    base_hash: str | None = None


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT folder.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``, or the older
            ``adapter_model.bin``, of which nothing but tensors is read.

    Returns:
        The adapter, on the CPU, named after the folder; in the dtype of the file, in float32 if that
        holds several, one of less or more bits, or scalings that differ.

    Raises:
        DataError: a file is absent or damaged, or values are not finite; the message names it.
        ConfigError: a variant of LoRA that cannot be merged.
    """
    weights = _existing_weights(folder)
    own = _origin(folder / METADATA_FILE)
    peft = read_peft(folder)
    pairs = _pair_up(_load(weights), weights)
    factors, scaling = _one_scaling(pairs, peft, weights)
    r = max(len(pair.a) for pair in factors.values())
    config = AdapterConfig(
        r=r,
        # Exactly what the file says if it says it of all modules.
        alpha=peft.lora_alpha if scaling == peft.lora_alpha / r else scaling * r,
        base_model=peft.base_model_name_or_path or None,
        base_hash=own.base_hash,
        init_hash=own.init_hash,
        peft=peft.repeated,
    )
    metadata = own.model_dump(exclude_unset=True)
    return Adapter(
        factors, config, name=str(folder), sha256=sha256_file(weights), metadata=metadata
    )


def write_adapter(adapter: Adapter, folder: Path, *, replace: bool = False) -> None:
    """Write an adapter as a PEFT folder, whole or not at all.

    The folder loads in PEFT and in vLLM; ``README.md`` describes it.

    Args:
        adapter: what to write.
        folder: where.
        replace: whether an existing folder is replaced.

    Raises:
        ResultError: the folder exists and ``replace`` is false.
    """
    with atomic_folder(folder, replace=replace) as partial:
        write_files(adapter, partial)


def write_files(adapter: Adapter, folder: Path) -> None:
    """Write the files of an adapter into an existing folder, for callers that rename it themselves."""
    from safetensors.torch import save_file

    config = adapter.config
    tensors = {
        f"{PREFIX}{module}{suffix}": padded(pair, config.r)[i].contiguous()
        for module, pair in adapter.factors.items()
        for suffix, i in _SUFFIXES.items()
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, peft_config(config, adapter.modules))
    own = {**adapter.metadata, "init_hash": config.init_hash, "base_hash": config.base_hash}
    write_json(folder / METADATA_FILE, own)
    write_text(folder / "README.md", describe(adapter))


def _origin(path: Path) -> _Origin:
    if not path.exists():
        return _Origin()
    try:
        return _Origin.model_validate(read_json(path))
    except (ResultError, ValidationError) as error:
        why = explain(error) if isinstance(error, ValidationError) else str(error)
        raise DataError(f"{path}: {why}. Delete it if weavebench did not write it.") from error


def _existing_weights(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a PEFT adapter (with {CONFIG_FILE}).")
    found = [name for name in (WEIGHTS_FILE, PICKLE_FILE) if (folder / name).exists()]
    missing = [] if (folder / CONFIG_FILE).exists() else [CONFIG_FILE]
    missing += [] if found else [WEIGHTS_FILE]
    if missing:
        raise DataError(
            f"{folder}: no {' and no '.join(missing)}; expected the folder that PEFT's save_pretrained "
            "writes."
        )
    return folder / found[0]


def _load(path: Path) -> Mapping[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    if path.name == PICKLE_FILE:
        from bench.checkpoints import read_state_dict

        return read_state_dict(path)
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError, TypeError, AttributeError, KeyError) as error:
        raise DataError(
            f"{path}: cannot be read: not a readable safetensors file ({error}). Copy or train the "
            "adapter again."
        ) from error


def _pair_up(tensors: Mapping[str, torch.Tensor], path: Path) -> dict[str, Factors]:
    """The factors by module, finite and of one dtype."""
    dtype = _one_dtype(tensors, path)
    halves: dict[str, dict[str, torch.Tensor]] = {}
    strange = []
    for name, given in tensors.items():
        match = _KEY.fullmatch(name)
        if match is None or given.ndim != 2:
            strange.append(f"unexpected tensor {name} {tuple(given.shape)}")
            continue
        tensor = given.to(dtype)
        if not bool(tensor.isfinite().all()):
            raise DataError(f"{path}: {name} holds NaN or infinity; train the adapter again.")
        pair = halves.setdefault(match[1], {})
        if match[2] in pair:
            raise DataError(f"{path}: holds lora_{match[2]} of module {match[1]} twice.")
        pair[match[2]] = tensor
    if strange:
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise ConfigError(
            f"{path}: {', '.join(sorted(strange)[:_SHOWN])}{more}: not factors of linear layers "
            "(embeddings, convolutions, biases and saved modules cannot be merged)."
        )
    lonely = sorted(module for module, pair in halves.items() if len(pair) < 2)
    if lonely or not halves:
        found = f"module {lonely[0]} has one factor of two" if lonely else "holds no factors"
        raise DataError(f"{path}: {found}; expected lora_A and lora_B for every adapted module.")
    return {module: Factors(pair["A"], pair["B"]) for module, pair in halves.items()}


def _one_dtype(tensors: Mapping[str, torch.Tensor], path: Path) -> torch.dtype:
    """The dtype of all tensors if it is one that is computed with, else float32."""
    import torch

    found = {tensor.dtype for tensor in tensors.values()}
    odd = [dtype for dtype in found if not dtype.is_floating_point or "x2" in str(dtype)]
    if odd:
        names = [name for name, tensor in tensors.items() if tensor.dtype == odd[0]]
        raise ConfigError(
            f"{path}: {min(names)} is of dtype {str(odd[0]).removeprefix('torch.')}; expected "
            "floating-point numbers, one for each entry. Save the adapter unquantised."
        )
    usual = found <= {torch.float32, torch.float16, torch.bfloat16}
    return found.pop() if usual and len(found) == 1 else torch.float32


def _one_scaling(
    pairs: Mapping[str, Factors], peft: PeftLora, path: Path
) -> tuple[dict[str, Factors], float]:
    """Factors for one scaling, which is the largest of a module's; B takes the ratio, in float32."""
    try:
        expected = peft.ranks_and_scalings(list(pairs))
    except ConfigError as error:
        raise ConfigError(f"{path.parent / CONFIG_FILE}: {error}") from None
    scalings = {}
    for (module, pair), (wanted, scaling) in zip(pairs.items(), expected, strict=True):
        found = (len(pair.a), *pair.b.shape[1:])
        if set(found) != {wanted}:
            raise ConfigError(
                f"{path}: module {module} has factors of shapes {tuple(pair.a.shape)} and "
                f"{tuple(pair.b.shape)}; expected ({wanted}, d_in) and (d_out, {wanted}), the rank "
                f"being {wanted} in {CONFIG_FILE}."
            )
        scalings[module] = scaling
    largest = max(scalings.values())
    if set(scalings.values()) == {largest}:
        return dict(pairs), largest
    return {
        module: Factors(pair.a.float(), pair.b.float() * (scalings[module] / largest))
        for module, pair in pairs.items()
    }, largest
