"""A model's folder: whether it is whole and safe to load, and a hash of what decides its outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from bench.data.cache import content_sha256
from bench.documents import DocumentError, parse_json
from bench.errors import ConfigError
from bench.io import hash_json

__all__ = ["FILE_PATTERNS", "POOLING_FILE", "check_folder", "folder_hash"]

_INDEX = "model.safetensors.index.json"
_CONFIGS = ("config.json", "generation_config.json")
_TOKENIZER = (
    "added_tokens.json",
    "chat_template.jinja",
    "chat_template.json",
    "merges.txt",
    "special_tokens_map.json",
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "vocab.json",
    "vocab.txt",
)
_VOCABULARIES = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
# How a text encoder's token vectors become one vector (sentence-transformers' file).
POOLING_FILE = "1_Pooling/config.json"
# Who wrote a configuration, not what it says.
_PROVENANCE = ("_name_or_path", "transformers_version")

FILE_PATTERNS = (
    *("model.safetensors", "model-*.safetensors", _INDEX, *_CONFIGS, *_TOKENIZER),
    POOLING_FILE,
)
"""Names of the files that make up a model; nothing else is downloaded."""


def check_folder(folder: Path, name: str) -> None:
    """Refuse a folder that is no whole model in safetensors.

    Args:
        folder: what to look at.
        name: what the user called it, for the message.

    Raises:
        ConfigError: no such folder, or its configuration, weights or tokenizer are missing, or its
            weights are pickled.
    """
    if not folder.is_dir():
        raise ConfigError(
            f"model {name!r}: there is no folder {folder}. Give a folder with config.json, "
            "safetensors weights and a tokenizer, or a Hugging Face id (OWNER/NAME)."
        )
    if not (folder / "config.json").is_file():
        if (folder / "adapter_config.json").is_file():
            raise ConfigError(
                f"model {name!r}: {folder} holds a LoRA adapter, not a whole model. Name the "
                "model it was trained on."
            )
        raise ConfigError(
            f"model {name!r}: {folder} has no config.json; expected a model as transformers' "
            "save_pretrained writes it. Name the folder that holds config.json."
        )
    for file in _weight_files(folder, name):
        if not file.is_file():
            raise ConfigError(
                f"model {name!r}: {file} is missing although {_INDEX} lists it. Copy or download "
                "the model again."
            )
    if not any((folder / file).is_file() for file in _VOCABULARIES):
        raise ConfigError(
            f"model {name!r}: {folder} has no tokenizer; expected one of "
            f"{', '.join(_VOCABULARIES)}. Save the model's tokenizer beside its weights."
        )


def folder_hash(folder: Path, name: str) -> str:
    """SHA-256 (64 hex digits) of a model: its weights, its configuration and its tokenizer.

    Reading the weights takes seconds per gigabyte; the digests of files that have not changed since
    the last reading are remembered.

    Args:
        folder: a folder that :func:`check_folder` accepts.
        name: what the user called it, for messages.

    Raises:
        ConfigError: a JSON file is damaged.
    """
    parts = {file.name: content_sha256(file) for file in _weight_files(folder, name)}
    for file in (folder / one for one in (*_CONFIGS, *_TOKENIZER)):
        if file.is_file():
            known = file.name in _CONFIGS
            parts[file.name] = _config_hash(file, name) if known else content_sha256(file)
    return hash_json(parts)


def _weight_files(folder: Path, name: str) -> list[Path]:
    """The safetensors files that transformers would read, in order of name."""
    single, index = folder / "model.safetensors", folder / _INDEX
    if single.is_file():
        return [single]
    if index.is_file():
        listed = set(_json(index, name).get("weight_map", {}).values())
        if not listed or any(Path(file).name != file for file in listed):
            raise ConfigError(
                f"model {name!r}: {index} lists no weight files, or files outside its folder. "
                "Copy or download the model again."
            )
        return [folder / file for file in sorted(listed)]
    pickled = sorted(f.name for pattern in ("*.bin", "*.pt", "*.pth") for f in folder.glob(pattern))
    if pickled:
        raise ConfigError(
            f"model {name!r}: {folder} has its weights in {pickled[0]} only. Such files are "
            "pickles, which can run code when they are read, and are refused. Choose a version with "
            "model.safetensors, or convert it where you trust it: transformers' "
            "from_pretrained(...).save_pretrained(...)."
        )
    raise ConfigError(
        f"model {name!r}: {folder} has no weights; expected model.safetensors or {_INDEX} "
        "(pickled weights are not read). Choose a version of the model that has them."
    )


def _json(file: Path, name: str) -> dict[str, Any]:
    try:
        value = parse_json(file.read_bytes())
    except DocumentError as error:
        raise ConfigError(
            f"model {name!r}: {file} is not valid JSON ({error}). Copy or download the model again."
        ) from error
    if not isinstance(value, dict):
        raise ConfigError(f"model {name!r}: {file} is not a JSON object. Get the model again.")
    return value


def _config_hash(file: Path, name: str) -> str:
    """Hash of what a configuration says, whatever its layout and whoever wrote it."""
    config = {key: value for key, value in _json(file, name).items() if key not in _PROVENANCE}
    return hash_json(config)
