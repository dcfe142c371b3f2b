"""Adapters as PEFT folders: ``adapter_config.json`` with ``adapter_model.safetensors``.

A third file, ``bench_adapter.json``, is ours and optional: what is known about an adapter's origin. Of
its keys, ``init_hash`` and ``base_hash`` are read; foreign adapters have none.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import ConfigError, DataError
from bench.io import atomic_folder, read_json, sha256_file, write_json, write_text
from bench.merging.adapter import Adapter, AdapterConfig, Factors
from bench.merging.card import describe
from bench.merging.peft_config import CONFIG_FILE, WEIGHTS_FILE, parse_peft_config, peft_config

if TYPE_CHECKING:
    import torch

__all__ = ["METADATA_FILE", "read_adapter", "write_adapter", "write_files"]

METADATA_FILE = "bench_adapter.json"
PREFIX = "base_model.model."
_SUFFIXES = {".lora_A.weight": 0, ".lora_B.weight": 1}
_SHOWN = 3


def read_adapter(folder: Path) -> Adapter:
    """Read a PEFT folder.

    Args:
        folder: holds ``adapter_config.json`` and ``adapter_model.safetensors``.

    Returns:
        The adapter, on the CPU, in the dtype of the file; named after the folder.

    Raises:
        DataError: a file is absent or damaged, or values are not finite; the message names it.
        ConfigError: a variant of LoRA that cannot be merged, or weights that are stored as a pickle.
    """
    weights = _existing_weights(folder)
    metadata_path = folder / METADATA_FILE
    metadata = read_json(metadata_path) if metadata_path.exists() else {}
    if not isinstance(metadata, dict):
        raise DataError(f"{metadata_path}: expected a JSON object. Delete it if it is not ours.")
    config = parse_peft_config(read_json(folder / CONFIG_FILE), folder / CONFIG_FILE, metadata)
    factors = _pair_up(_load(weights), config, weights)
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
        f"{PREFIX}{module}{suffix}": pair[i].contiguous()
        for module, pair in adapter.factors.items()
        for suffix, i in _SUFFIXES.items()
    }
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(folder / CONFIG_FILE, peft_config(config, adapter.modules))
    own = {**adapter.metadata, "init_hash": config.init_hash, "base_hash": config.base_hash}
    write_json(folder / METADATA_FILE, own)
    write_text(folder / "README.md", describe(adapter))


def _existing_weights(folder: Path) -> Path:
    if not folder.is_dir():
        raise DataError(f"{folder}: no such folder; expected a PEFT adapter (with {CONFIG_FILE}).")
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).exists()]
    pickled = [path.name for path in (folder / "adapter_model.bin",) if path.exists()]
    if WEIGHTS_FILE in missing and pickled:
        raise ConfigError(
            f"{folder / pickled[0]}: weights stored as a pickle are not opened, they may run code. "
            f"Save the adapter as {WEIGHTS_FILE} (PEFT's default)."
        )
    if missing:
        raise DataError(
            f"{folder}: no {' and no '.join(missing)}; expected the folder that PEFT's save_pretrained "
            "writes."
        )
    return folder / WEIGHTS_FILE


def _load(path: Path) -> dict[str, torch.Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise DataError(
            f"{path}: not a readable safetensors file ({error}). Copy or train the adapter again."
        ) from error


def _pair_up(
    tensors: dict[str, torch.Tensor], config: AdapterConfig, path: Path
) -> dict[str, Factors]:
    import torch

    halves: dict[str, list[Any]] = {}
    strange = []
    for name, tensor in tensors.items():
        suffix = next((suffix for suffix in _SUFFIXES if name.endswith(suffix)), None)
        if suffix is None or not name.startswith(PREFIX) or tensor.ndim != 2:
            strange.append(f"{name} {tuple(tensor.shape)}")
            continue
        if not bool(torch.isfinite(tensor).all()):
            raise DataError(f"{path}: {name} holds values that are not finite; train it again.")
        module = name.removeprefix(PREFIX).removesuffix(suffix)
        halves.setdefault(module, [None, None])[_SUFFIXES[suffix]] = tensor
    if strange:
        more = f" and {len(strange) - _SHOWN} more" if len(strange) > _SHOWN else ""
        raise ConfigError(
            f"{path}: {', '.join(sorted(strange)[:_SHOWN])}{more}: not factors of linear layers "
            "(embeddings, convolutions, biases and saved modules cannot be merged)."
        )
    lonely = sorted(module for module, pair in halves.items() if None in pair)
    if lonely or not halves:
        found = f"module {lonely[0]} has one factor" if lonely else "no factors"
        raise DataError(
            f"{path}: {found}; expected lora_A and lora_B for every adapted module of {config.r} ranks."
        )
    return {module: Factors(*pair) for module, pair in halves.items()}
