"""GGUF files: what their header says, and their conversion into a folder with safetensors.

Reading a GGUF file through transformers takes many seconds each time, so it is converted once.
"""

from __future__ import annotations

import contextlib
import io
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from bench.errors import ConfigError
from bench.pretrained.quiet import quiet_transformers

__all__ = ["CONVERSION_VERSION", "GGUFHeader", "convert_gguf", "read_header"]

CONVERSION_VERSION = 1
"""Part of a converted model's identity: raised when the same file becomes another model."""

_MAGIC = b"GGUF"
_STRING, _ARRAY = 8, 9
_LONGEST = 1 << 30
_SCALARS = dict(enumerate(["B", "b", "H", "h", "I", "i", "f", "?"])) | {10: "Q", 11: "q", 12: "d"}

# llama.cpp's names of how a byte-level vocabulary cuts text before it merges. transformers rebuilds
# these by itself (it takes the rules of GPT-2 for any name it does not know) ...
_REBUILT_SPLITS = ("gpt-2", "llama-bpe", "qwen2", "tekken", "deepseek-r1-qwen")
# ... and these it does not know: digits apart, then the rules of GPT-2.
_DIGIT_SPLITS = ("smollm", "starcoder", "refact", "command-r", "codeshell")


@dataclass(frozen=True, slots=True)
class GGUFHeader:
    """What a GGUF file says about itself.

    Attributes:
        metadata: numbers, flags and strings by key; of arrays only their length.
        tensors: names of the tensors.
    """

    metadata: dict[str, Any]
    tensors: tuple[str, ...]


def read_header(file: Path) -> GGUFHeader:
    """Read metadata and tensor names (format versions 2 and 3, little-endian).

    Raises:
        ConfigError: not a GGUF file, another version of the format, or damaged.
    """
    with file.open("rb") as stream:
        if stream.read(4) != _MAGIC:
            raise ConfigError(
                f"{file} is not a GGUF file (it does not begin with 'GGUF'). Give a .gguf file of a "
                "causal language model, or a folder with safetensors."
            )
        try:
            version = _number(stream, "I")
            if version not in (2, 3):
                raise ConfigError(
                    f"{file}: GGUF format version {version}; versions 2 and 3 can be read. Convert "
                    "the model with a current llama.cpp."
                )
            n_tensors, n_keys = _number(stream, "Q"), _number(stream, "Q")
            metadata = {_string(stream): _value(stream) for _ in range(n_keys)}
            return GGUFHeader(metadata, tuple(_tensor_name(stream) for _ in range(n_tensors)))
        except (EOFError, KeyError, UnicodeDecodeError) as error:
            raise ConfigError(
                f"{file}: its GGUF header is damaged or cut off. Copy or download the file again."
            ) from error


def convert_gguf(file: Path, folder: Path) -> None:
    """Write the model of a GGUF file as configuration, bfloat16 safetensors and tokenizer.

    Quantised weights are unpacked in float32 and rounded to bfloat16 once, a relative error of at
    most 2^-8. It changes predictions far less than arithmetic in bfloat16 does (docs/backbones.md).

    Args:
        file: the GGUF file.
        folder: where the model goes; exists and is empty.

    Raises:
        ConfigError: a model, a tokenizer or a position scheme that would not be rebuilt exactly.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    header = read_header(file)
    _refuse_inexact(file, header)
    source: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True}
    # The bar of the unpacking goes to the error stream whatever transformers' settings are.
    with quiet_transformers(), contextlib.redirect_stderr(io.StringIO()):
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(file.parent, **source)
            model: Any
            model, report = AutoModelForCausalLM.from_pretrained(
                file.parent,
                **source,
                dtype=torch.float32,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
        except (KeyError, ValueError) as error:
            raise ConfigError(
                f"{file}: transformers cannot read this GGUF file ({error}). Use the model's "
                "original folder with safetensors."
            ) from error
    packed = [name for name, one in model.named_parameters() if not one.is_floating_point()]
    if report["missing_keys"] or report["mismatched_keys"] or packed:
        shapes = [name for name, *_ in report["mismatched_keys"]]
        lost = sorted([*report["missing_keys"], *shapes, *packed])
        raise ConfigError(
            f"{file}: {len(lost)} tensors were not read, the first {lost[0]}; it may be one part of "
            "a split file. Use the model's original folder with safetensors."
        )
    _restore_splits(tokenizer, header.metadata)
    # What reads the configuration later must not take the weights for packed ones.
    vars(model.config).pop("quantization_config", None)
    model.hf_quantizer = None
    tokenizer.model_max_length = model.config.max_position_embeddings
    model.to(torch.bfloat16)
    with quiet_transformers():
        model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
    for one in folder.iterdir():
        one.chmod((folder / "config.json").stat().st_mode)  # weights come out private


def _refuse_inexact(file: Path, header: GGUFHeader) -> None:
    """Refuse what transformers would convert without a word into a slightly different model."""
    metadata = header.metadata
    found = None
    architecture = metadata.get("general.architecture")
    scaling = metadata.get(f"{architecture}.rope.scaling.type", "none")
    if int(metadata.get("split.count", 1)) > 1:
        found = f"it is one of {metadata['split.count']} parts"
    elif scaling != "none" or any(name.startswith("rope_f") for name in header.tensors):
        found = "its rotary positions are scaled, which the conversion would lose"
    elif metadata.get("tokenizer.ggml.model") == "gpt2":
        splits = metadata.get("tokenizer.ggml.pre", "missing")
        if splits not in (*_REBUILT_SPLITS, *_DIGIT_SPLITS):
            known = ", ".join(sorted((*_REBUILT_SPLITS, *_DIGIT_SPLITS)))
            found = f"its tokenizer splits text by the rules {splits!r} (rebuilt exactly: {known})"
    if found:
        raise ConfigError(
            f"{file} cannot be used: {found}. Use the model's original folder with safetensors."
        )


def _restore_splits(tokenizer: Any, metadata: dict[str, Any]) -> None:
    """Cut digits apart before the rules of GPT-2, if the vocabulary was trained so."""
    from tokenizers import pre_tokenizers

    if metadata.get("tokenizer.ggml.pre") in _DIGIT_SPLITS:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [
                pre_tokenizers.Digits(individual_digits=True),
                pre_tokenizers.ByteLevel(add_prefix_space=False),
            ]
        )


def _read(stream: BinaryIO, n_bytes: int) -> bytes:
    # A damaged length must not become an allocation; real headers have megabytes at most.
    data = stream.read(n_bytes) if n_bytes <= _LONGEST else b""
    if len(data) != n_bytes:
        raise EOFError
    return data


def _number(stream: BinaryIO, code: str) -> Any:
    return struct.unpack("<" + code, _read(stream, struct.calcsize("<" + code)))[0]


def _string(stream: BinaryIO) -> str:
    return _bytes(stream).decode("utf-8")


def _bytes(stream: BinaryIO) -> bytes:
    return _read(stream, _number(stream, "Q"))


def _value(stream: BinaryIO) -> Any:
    kind = _number(stream, "I")
    if kind == _STRING:
        return _string(stream)
    if kind != _ARRAY:
        return _number(stream, _SCALARS[kind])
    item, length = _number(stream, "I"), _number(stream, "Q")
    if item == _STRING:
        for _ in range(length):
            _bytes(stream)
    else:
        _read(stream, length * struct.calcsize("<" + _SCALARS[item]))
    return length


def _tensor_name(stream: BinaryIO) -> str:
    name, n_dimensions = _string(stream), _number(stream, "I")
    _read(stream, 8 * n_dimensions + 4 + 8)  # sizes, type, place
    return name
