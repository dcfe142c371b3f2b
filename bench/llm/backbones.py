"""Backbones: from the name of a causal language model to a checked local folder, and its loading.

A name is one of four things: ``smollm2-135m`` (an asset), a folder with safetensors, a GGUF file
(converted once), or a Hugging Face id (downloaded once). Whatever it was, everybody downstream sees
a folder and a content hash. Nothing heavy is imported before something has to be converted or loaded.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench import assets
from bench.data.cache import content_sha256
from bench.errors import ConfigError, MissingExtraError, require_packages, unknown_name
from bench.io import atomic_folder, cache_root, hash_json, lock, require_free_space
from bench.llm.gguf import CONVERSION_VERSION, convert_gguf, read_header
from bench.memory import release_accelerators
from bench.pretrained.hub import cached, download
from bench.pretrained.model_folder import check_folder, folder_hash
from bench.pretrained.quiet import quiet_transformers
from bench.sealed import intact, seal

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "ATTENTIONS",
    "BUILT_IN",
    "DTYPES",
    "QUANTISATIONS",
    "Backbone",
    "backbone_content",
    "find_backbone",
    "load_model",
    "load_tokenizer",
    "require_backbone",
    "resolve_backbone",
]

BUILT_IN = ("smollm2-135m",)
"""Backbones that are assets: ``bench assets pull NAME``."""
DTYPES = ("float32", "bfloat16", "float16")
"""Number formats of :func:`load_model`."""
ATTENTIONS = ("sdpa", "eager", "flash_attention_2")
"""Attention implementations of :func:`load_model`."""
QUANTISATIONS = ("8bit", "4bit")
"""Ways to load weights packed, on CUDA."""

_PACKAGES = ("accelerate", "gguf", "jinja2", "peft", "transformers")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class Backbone:
    """A causal language model on this machine.

    Attributes:
        name: as the user gave it.
        folder: local folder with configuration, safetensors and tokenizer.
        content_hash: SHA-256 (64 hex digits) of what decides its outputs: weights, configuration
            and tokenizer; of a GGUF file, the file and the version of its conversion.
    """

    name: str
    folder: Path
    content_hash: str


def require_backbone(name: str) -> None:
    """Fail early if a backbone cannot be used; loads, converts and downloads nothing.

    Raises:
        MissingExtraError: the packages or the asset are not installed; the message names the
            command.
        ConfigError: a name of no known form, or a folder or file that is not there or not whole.
    """
    require_packages("language models", *_PACKAGES)
    kind = _kind(name)
    if kind == "built-in":
        assets.path(name)
    elif kind == "gguf":
        read_header(_local(name))
    elif kind == "folder":
        check_folder(_local(name), name)


def resolve_backbone(name: str, *, progress: Callable[[str], None] | None = None) -> Backbone:
    """Find a backbone, and download or convert it if this has not been done yet.

    Args:
        name: ``smollm2-135m``, a folder, a ``.gguf`` file, or a Hugging Face id, which may end in
            ``@REVISION`` (a branch, tag or commit). Of an id without revision, the version that
            was downloaded first stays in use.
        progress: called with one line of text before anything that takes long.

    Raises:
        MissingExtraError: packages or the asset are absent.
        ConfigError: a name of no known form, or a model that is not whole or cannot be read.
        BenchError: the download failed.
    """
    require_backbone(name)
    say = progress or (lambda _line: None)
    kind = _kind(name)
    if kind in ("built-in", "gguf"):
        file = assets.path(name) if kind == "built-in" else _local(name)
        return _from_gguf(name, file, say)
    folder = _local(name) if kind == "folder" else download(name, say)
    return Backbone(name, folder, folder_hash(folder, name))


def find_backbone(name: str) -> Backbone | None:
    """Look a backbone up on this machine; downloads, converts and loads nothing.

    Args:
        name: as for :func:`resolve_backbone`.

    Returns:
        The backbone, or None if its packages, its asset or its files in the hub's cache are
        absent. The folder of a GGUF file that was not converted yet does not exist.

    Raises:
        ConfigError: a name of no known form, or a folder or file that is not there or not whole.
    """
    try:
        require_backbone(name)
    except MissingExtraError:
        return None
    kind = _kind(name)
    if kind in ("built-in", "gguf"):
        return _of_gguf(name, assets.path(name) if kind == "built-in" else _local(name))
    folder = _local(name) if kind == "folder" else cached(name)
    return None if folder is None else Backbone(name, folder, folder_hash(folder, name))


def backbone_content(setting: str, name: str) -> dict[str, str]:
    """For :meth:`bench.methods.Method.content_hashes`: the hash of a backbone that is a path.

    Args:
        setting: what names it in the configuration.
        name: the backbone, as configured.
    """
    there = _kind(name) in ("folder", "gguf") and _local(name).exists()
    found = find_backbone(name) if there else None
    return {} if found is None else {setting: found.content_hash}


def load_tokenizer(backbone: Backbone) -> PreTrainedTokenizerBase:
    """Load a backbone's fast tokenizer; decoding its tokens gives back the text unchanged.

    Raises:
        ConfigError: it has no fast tokenizer, or its files cannot be read.
    """
    from transformers import AutoTokenizer

    with quiet_transformers():
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(
                backbone.folder,
                local_files_only=True,
                trust_remote_code=False,
                clean_up_tokenization_spaces=False,
            )
        except (OSError, ValueError, KeyError) as error:
            raise _unreadable("tokenizer", backbone, error) from error
    if not tokenizer.is_fast:
        raise ConfigError(
            f"backbone {backbone.name!r}: {backbone.folder} has no fast tokenizer; prompts are cut "
            "at exact places, which needs one. Add its tokenizer.json."
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_model(
    backbone: Backbone,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
    quantisation: str | None = None,
) -> PreTrainedModel:
    """Load a backbone for inference or as the frozen base of an adapter.

    Its sampling defaults (temperature, repetition penalty ...) are dropped: what an engine
    generates is decided by the engine. Code that comes with a model is never run.

    Args:
        backbone: what to load.
        device: ``cpu``, ``cuda``, ``cuda:N`` or ``mps``.
        dtype: one of :data:`DTYPES`: number format of the weights and of the arithmetic.
        attention: one of :data:`ATTENTIONS`.
        quantisation: one of :data:`QUANTISATIONS`, or None; needs CUDA and bitsandbytes.

    Returns:
        The model in evaluation mode, with every parameter frozen.

    Raises:
        ConfigError: an unknown value, a combination that cannot work, or a folder whose weights do
            not fit its configuration.
        MissingExtraError: flash_attn or bitsandbytes is asked for and not installed.
    """
    _check_loading(device, dtype, attention, quantisation)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, GenerationConfig

    number_format = getattr(torch, dtype)
    settings: dict[str, Any] = {
        "dtype": number_format,
        "attn_implementation": attention,
        "use_safetensors": True,
        "local_files_only": True,
        "trust_remote_code": False,
        # What does not fit is listed by name, and refused below.
        "output_loading_info": True,
        "ignore_mismatched_sizes": True,
    }
    if device != "cpu":
        release_accelerators()
        settings["device_map"] = {"": device}  # reads straight into the device's memory
    if quantisation:
        settings["quantization_config"] = _packing(quantisation, number_format)
    with quiet_transformers():
        try:
            model: Any
            model, report = AutoModelForCausalLM.from_pretrained(backbone.folder, **settings)
        except ImportError as error:
            raise MissingExtraError(f"backbone {backbone.name!r}: {error}") from error
        except SafetensorError as error:
            raise ConfigError(
                f"backbone {backbone.name!r}: a weight file in {backbone.folder} is damaged "
                f"({error}). Copy or download the model again."
            ) from error
        except (OSError, ValueError, KeyError) as error:
            raise _unreadable("model", backbone, error) from error
    lost = sorted([*report["missing_keys"], *(name for name, *_ in report["mismatched_keys"])])
    if lost:
        raise ConfigError(
            f"backbone {backbone.name!r}: the weights in {backbone.folder} lack {len(lost)} tensors "
            f"that config.json asks for, or have them in another shape, the first {lost[0]}. They "
            "would have been drawn at random. Copy or download the model again."
        )
    ids = {
        key: getattr(model.generation_config, key)
        for key in ("bos_token_id", "eos_token_id", "pad_token_id")
    }
    model.generation_config = GenerationConfig(**ids)
    model.requires_grad_(False)
    return model.eval()


def _kind(name: str) -> str:
    """``built-in``, ``gguf``, ``folder`` or ``hub``, judged by the name and by what is on disk."""
    if name in BUILT_IN:
        return "built-in"
    place = _local(name)
    if place.suffix.lower() == ".gguf" and (place.is_file() or not _HUB_ID.fullmatch(name)):
        if place.is_file():
            return "gguf"
        raise ConfigError(f"backbone {name!r}: there is no file {place}. Check its path.")
    if place.is_dir():
        return "folder"
    if _HUB_ID.fullmatch(name):
        return "hub"
    if "/" in name or "\\" in name or name.startswith((".", "~")):
        raise ConfigError(
            f"backbone {name!r}: there is no folder {place}. Give a folder with config.json, "
            "safetensors weights and a tokenizer, a .gguf file, or a Hugging Face id like "
            "Qwen/Qwen2-7B-Instruct."
        )
    error = unknown_name("backbone", name, BUILT_IN)
    raise ConfigError(
        f"{error} A backbone is also a folder with safetensors, a .gguf file, or a Hugging Face id "
        "like Qwen/Qwen2-7B-Instruct."
    )


def _local(name: str) -> Path:
    return Path(name).expanduser()


def _of_gguf(name: str, file: Path) -> Backbone:
    """What the file becomes, converted or not."""
    digest = content_sha256(file)
    content_hash = hash_json({"gguf_sha256": digest, "conversion": CONVERSION_VERSION})
    folder = cache_root() / "backbones" / f"{digest[:24]}-v{CONVERSION_VERSION}"
    return Backbone(name, folder, content_hash)


def _from_gguf(name: str, file: Path, say: Callable[[str], None]) -> Backbone:
    backbone = _of_gguf(name, file)
    folder = backbone.folder
    # Gigabytes: digests of files that have not changed are remembered. Folders of earlier versions
    # hold none and are converted again.
    if not intact(folder, digest=content_sha256):
        with lock(folder):
            if not intact(folder, digest=content_sha256):
                # Four bits become sixteen; while it is written nothing else is on the disk.
                require_free_space(folder.parent, 4 * file.stat().st_size)
                say(f"converting {file.name} to safetensors, once (up to a minute)")
                with atomic_folder(folder, replace=True) as partial:
                    convert_gguf(file, partial)
                    seal(partial)
    return backbone


def _check_loading(device: str, dtype: str, attention: str, quantisation: str | None) -> None:
    """Refuse unknown values and combinations that cannot work, before anything is read."""
    for what, value, known in (
        ("dtype", dtype, DTYPES),
        ("attention", attention, ATTENTIONS),
        ("quantisation", quantisation, (None, *QUANTISATIONS)),
    ):
        if value not in known:
            raise unknown_name(what, str(value), map(str, known))
    on_cuda = re.fullmatch(r"cuda(:\d+)?", device) is not None
    if not on_cuda and device not in ("cpu", "mps"):
        raise ConfigError(f"device {device!r}: expected cpu, cuda, cuda:N or mps.")
    if quantisation and not on_cuda:
        raise ConfigError(
            f"quantisation={quantisation} needs an NVIDIA GPU (device cuda), found device {device}. "
            "Leave quantisation out, or use --dtype bfloat16 to halve the memory."
        )
    if attention == "flash_attention_2" and (not on_cuda or dtype == "float32"):
        raise ConfigError(
            "attention=flash_attention_2 needs device cuda and dtype bfloat16 or float16, found "
            f"device {device} and dtype {dtype}. Use attention=sdpa."
        )
    for wanted, package in (
        (quantisation, "bitsandbytes"),
        (attention == "flash_attention_2", "flash_attn"),
    ):
        if wanted and importlib.util.find_spec(package) is None:
            raise MissingExtraError(
                f"{package} is not installed, which {'attention' if wanted is True else 'quantisation'}"
                f"={attention if wanted is True else quantisation} needs: "
                f"pip install {package.replace('_', '-')}."
            )
    import torch

    if on_cuda and not torch.cuda.is_available():
        raise ConfigError(
            f"device {device!r}: torch {torch.__version__} sees no CUDA device. Use device cpu, or "
            "install a CUDA build of torch."
        )


def _packing(quantisation: str, compute: Any) -> Any:
    """The settings of bitsandbytes: LLM.int8(), or NF4 with doubly quantised constants (QLoRA)."""
    from transformers import BitsAndBytesConfig

    if quantisation == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=compute,
    )


def _unreadable(what: str, backbone: Backbone, error: Exception) -> ConfigError:
    return ConfigError(
        f"backbone {backbone.name!r}: transformers cannot load the {what} in {backbone.folder}: "
        f"{error}. Choose a causal language model that transformers knows without code of its own."
    )
