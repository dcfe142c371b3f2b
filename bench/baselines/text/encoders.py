"""Text encoders: from a name to a checked local folder, and its loading.

A name is one of three things: ``all-minilm-l6-v2`` (an asset), a folder with safetensors, or a
Hugging Face id (downloaded once). Nothing heavy is imported before something has to be loaded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from bench import assets
from bench.errors import ConfigError, MissingExtraError, ResultError, require_packages, unknown_name
from bench.io import hash_json, read_json
from bench.pretrained.hub import download
from bench.pretrained.model_folder import POOLING_FILE, check_folder, folder_hash
from bench.pretrained.quiet import quiet_transformers
from bench.registry import Named, Registry

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "BUILT_IN",
    "DEFAULT_ENCODER",
    "DTYPES",
    "POOLINGS",
    "Encoder",
    "Pooling",
    "encoder_content",
    "encoder_here",
    "load_encoder_model",
    "require_encoder",
    "resolve_encoder",
]

POOLINGS: Registry[Callable[..., Any]] = Registry(
    "pooling",
    {
        "cls": "bench.baselines.text.passes:first_token",
        "mean": "bench.baselines.text.passes:mean_of_tokens",
    },
)
"""How the states of a text's tokens become one vector, see :func:`bench.baselines.text.passes.pool`."""

Pooling = Annotated[str, Named(POOLINGS)]
"""How the last layer's token vectors become one: the first token's, or the mean of all."""
BUILT_IN = ("all-minilm-l6-v2",)
"""Encoders that are assets: ``bench assets pull NAME``."""
DEFAULT_ENCODER = BUILT_IN[0]
DTYPES = ("float32", "bfloat16", "float16")
"""Number formats of :func:`load_encoder_model`."""

_PACKAGES = ("huggingface_hub", "tokenizers", "transformers")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


@dataclass(frozen=True, slots=True)
class Encoder:
    """A text encoder on this machine.

    Attributes:
        name: as the user gave it.
        folder: local folder with configuration, safetensors and tokenizer.
        content_hash: SHA-256 (64 hex digits) of weights, configuration and tokenizer.
        pooling: what suits it: ``cls`` if its ``1_Pooling/config.json`` says so, else ``mean``.
    """

    name: str
    folder: Path
    content_hash: str
    pooling: Pooling


def require_encoder(name: str) -> None:
    """Fail early if an encoder cannot be used; loads and downloads nothing.

    Raises:
        MissingExtraError: the packages or the asset are not installed; the message names the
            command.
        ConfigError: a name of no known form, or a folder that is not there or not whole.
    """
    require_packages("text encoders", *_PACKAGES)
    kind = _kind(name)
    if kind == "built-in":
        assets.path(name)
    elif kind == "folder":
        check_folder(_local(name), name)


def resolve_encoder(name: str, *, progress: Callable[[str], None] | None = None) -> Encoder:
    """Find an encoder, and download it if this has not been done yet.

    Args:
        name: ``all-minilm-l6-v2``, a folder, or a Hugging Face id, which may end in ``@REVISION``
            (a branch, tag or commit). Of an id without revision, the version that was downloaded
            first stays in use.
        progress: called with one line of text before anything that takes long.

    Raises:
        MissingExtraError: packages or the asset are absent.
        ConfigError: a name of no known form, or a model that is not whole or cannot be read.
        BenchError: the download failed.
    """
    require_encoder(name)
    kind = _kind(name)
    if kind == "hub":
        folder = download(name, progress or (lambda _line: None))
    else:
        folder = assets.path(name) if kind == "built-in" else _local(name)
    return Encoder(name, folder, folder_hash(folder, name), _stated_pooling(folder))


def encoder_content(setting: str, name: str) -> dict[str, str]:
    """For :meth:`bench.methods.Method.content_hashes`: the hash of an encoder that is a folder.

    Args:
        setting: what names it in the configuration.
        name: the encoder, as configured.
    """
    folder = _local(name)
    if name in BUILT_IN or not folder.is_dir():
        return {}
    # The pooling that a folder states is a file of its own and decides vectors as the weights do.
    return {setting: hash_json([folder_hash(folder, name), _stated_pooling(folder)])}


def encoder_here(name: str) -> Encoder | None:
    """An encoder that is on this machine under its name; None = it would be downloaded or installed."""
    try:
        return None if _kind(name) == "hub" else resolve_encoder(name)
    except MissingExtraError:
        return None


def load_encoder_model(
    encoder: Encoder, *, device: str = "cpu", dtype: str = "float32"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an encoder, for vectors or to train it further.

    A head that makes one vector of the first token (BERT's ``pooler``) is left out: many published
    checkpoints lack its weights, and no pooling here uses it. No global random state changes, and
    code that comes with a model is never run.

    Args:
        encoder: what to load.
        device: torch device string.
        dtype: one of :data:`DTYPES`: number format of the weights and of the arithmetic.

    Returns:
        the model in evaluation mode (gradients on, as loaded) and its fast tokenizer, which pads
        on the right.

    Raises:
        ConfigError: an unknown ``dtype``, a folder whose weights do not fit its configuration, a
            model with a decoder, or no fast tokenizer.
    """
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    import torch
    from safetensors import SafetensorError
    from transformers import AutoModel, AutoTokenizer

    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    with quiet_transformers(), torch.random.fork_rng(devices=[]):
        try:
            tokenizer: Any = AutoTokenizer.from_pretrained(encoder.folder, **local)
            model: Any
            model, report = AutoModel.from_pretrained(
                encoder.folder,
                dtype=getattr(torch, dtype),
                use_safetensors=True,
                # What does not fit is listed by name, and refused below.
                output_loading_info=True,
                ignore_mismatched_sizes=True,
                **local,
            )
        except SafetensorError as error:
            raise ConfigError(
                f"encoder {encoder.name!r}: a weight file in {encoder.folder} is damaged ({error}). "
                "Copy or download the model again."
            ) from error
        except (OSError, ValueError, KeyError) as error:
            raise ConfigError(
                f"encoder {encoder.name!r}: transformers cannot load {encoder.folder}: {error}. "
                "Choose an encoder that transformers knows without code of its own."
            ) from error
    _check_loaded(encoder, model, tokenizer, report)
    if hasattr(model, "pooler"):
        model.pooler = None
    tokenizer.padding_side = "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    return model.to(device).eval(), tokenizer


def _check_loaded(encoder: Encoder, model: Any, tokenizer: Any, report: Any) -> None:
    mismatched = (name for name, *_ in report["mismatched_keys"])
    lost = sorted(
        key for key in (*report["missing_keys"], *mismatched) if not key.startswith("pooler.")
    )
    if lost:
        raise ConfigError(
            f"encoder {encoder.name!r}: the weights in {encoder.folder} lack {len(lost)} tensors "
            f"that config.json asks for, or have them in another shape, the first {lost[0]}. They "
            "would have been drawn at random. Copy or download the model again."
        )
    if model.config.is_encoder_decoder:
        raise ConfigError(
            f"encoder {encoder.name!r}: {type(model).__name__} has a decoder as well; expected a "
            "model that turns tokens into one vector each, like BERT, MiniLM or Longformer."
        )
    if not tokenizer.is_fast:
        raise ConfigError(
            f"encoder {encoder.name!r}: {encoder.folder} has no fast tokenizer. Add its "
            "tokenizer.json."
        )


def _stated_pooling(folder: Path) -> Pooling:
    file = folder / POOLING_FILE
    if not file.is_file():
        return "mean"
    try:
        stated = read_json(file)
        return "cls" if stated.get("pooling_mode_cls_token") else "mean"
    except (ResultError, AttributeError) as error:
        raise ConfigError(
            f"{file}: expected a JSON object with the pooling of this encoder ({error}). Copy or "
            "download the model again, or delete the file and choose the pooling yourself."
        ) from error


def _kind(name: str) -> str:
    """``built-in``, ``folder`` or ``hub``, judged by the name and by what is on disk."""
    if name in BUILT_IN:
        return "built-in"
    if _local(name).is_dir():
        return "folder"
    if _HUB_ID.fullmatch(name):
        return "hub"
    if "/" in name or "\\" in name or name.startswith((".", "~")):
        return "folder"  # which is not there: check_folder says so
    error = unknown_name("encoder", name, BUILT_IN)
    raise ConfigError(
        f"{error} An encoder is also a folder with safetensors, or a Hugging Face id like "
        "google-bert/bert-base-uncased."
    )


def _local(name: str) -> Path:
    return Path(name).expanduser()
