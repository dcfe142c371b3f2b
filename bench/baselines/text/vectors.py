"""Texts to vectors: one pass of a frozen encoder, kept in the cache by content."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from bench.baselines.text.encoders import (
    DEFAULT_ENCODER,
    DTYPES,
    POOLINGS,
    Encoder,
    Pooling,
    load_encoder_model,
    resolve_encoder,
)
from bench.errors import ConfigError, ResultError, unknown_name
from bench.io import (
    atomic_folder,
    cache_root,
    hash_json,
    lock,
    read_json,
    require_free_space,
    write_json,
)
from bench.methods.base import Progress, QuietProgress
from bench.pretrained.quiet import quiet_transformers
from bench.sealed import intact, seal

__all__ = ["encode_texts", "encode_with", "unit_rows"]

# Raise it whenever the vectors of the same texts and encoder can change.
_FORMAT = 1
# Tokens of one forward pass: enough to fill the matrix products, few enough for a CPU's cache.
_BATCH_TOKENS = {"cpu": 2048}
_BATCH_TOKENS_ELSEWHERE = 32_768
_FEWEST_TOKENS = 3


def encode_texts(
    texts: Sequence[str],
    *,
    encoder: str = DEFAULT_ENCODER,
    pooling: Pooling | None = None,
    max_tokens: int = 64,
    device: str = "cpu",
    dtype: str = "float32",
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """Vectors of texts, from the cache or from one pass of the encoder.

    The vectors are as pooled: **no norm is taken**. Whoever wants cosines, or what
    sentence-transformers' ``encode`` gives for a model with a ``Normalize`` module, applies
    :func:`unit_rows`. Equal texts are encoded once and have equal vectors. Batches hold texts of one
    length in tokens, so that there is no padding, and a vector does not depend on other texts
    beyond rounding.

    Args:
        texts: n texts; tokens beyond ``max_tokens`` are cut off, special tokens included.
        encoder: name as for :func:`~bench.baselines.text.encoders.resolve_encoder`.
        pooling: how token vectors become one, None = what suits the encoder.
        max_tokens: 3 or more, at most what the encoder can read.
        device: torch device string; no part of the cache's key.
        dtype: ``float32``, ``bfloat16`` or ``float16``: number format of the encoder's arithmetic.
        progress: shown while an encoder runs.

    Returns:
        float32, shape ``(n, d)``, read-only; memory-mapped from
        ``cache_root()/text-vectors/ENCODER-KEY/vectors.npy``, where KEY is a hash of encoder
        content, pooling, ``max_tokens``, ``dtype`` and texts.

    Raises:
        ConfigError: an unknown encoder, pooling or dtype, or ``max_tokens`` out of range.
        MissingExtraError: packages or the asset are absent; the message names the command.
        BenchError: a download failed, or the disk is full.
        ResultError: the stored vectors are damaged.
    """
    shown = progress or QuietProgress()
    found = resolve_encoder(encoder, progress=shown.status)
    chosen = pooling or found.pooling
    POOLINGS.require(chosen)
    if dtype not in DTYPES:
        raise unknown_name("dtype", dtype, DTYPES)
    if max_tokens < _FEWEST_TOKENS:
        raise ConfigError(f"max_tokens={max_tokens}: expected {_FEWEST_TOKENS} or more.")
    key: dict[str, Any] = {
        "format": _FORMAT,
        "encoder": found.content_hash,
        "pooling": chosen,
        "max_tokens": max_tokens,
        "dtype": dtype,
        "n_texts": len(texts),
        "texts": _texts_hash(texts),
    }
    source = POOLINGS.source_sha256(chosen)
    if source is not None:  # other code of a plugin gives other vectors
        key["pooling_sha256"] = source
    label = Path(encoder).name.lower()[:40] or "encoder"
    folder = cache_root() / "text-vectors" / f"{label}-{hash_json(key)[:24]}"
    vectors = _stored(folder)
    if vectors is not None:
        return vectors
    with lock(folder):
        vectors = _stored(folder)
        if vectors is None:
            model, tokenizer = load_encoder_model(found, device=device, dtype=dtype)
            _check_length(found, max_tokens, model, tokenizer)
            require_free_space(folder.parent, 4 * len(texts) * int(model.config.hidden_size))
            with atomic_folder(folder, replace=True) as partial:
                file = partial / "vectors.npy"
                made = encode_with(
                    model,
                    tokenizer,
                    texts,
                    pooling=chosen,
                    max_tokens=max_tokens,
                    progress=shown,
                )
                np.save(file, made, allow_pickle=False)
                write_json(partial / "vectors.json", {**key, "name": encoder})
                seal(partial)
            vectors = _stored(folder)
    if vectors is None:
        raise ResultError(
            f"{folder}: what was written there cannot be read back. Check the disk, delete the "
            "folder and try again."
        )
    return vectors


def unit_rows(vectors: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows divided by their Euclidean norm: float32, shape as given; rows of zeros stay zeros."""
    values = np.asarray(vectors, dtype=np.float32)
    norms = np.sqrt(np.einsum("nd,nd->n", values, values, dtype=np.float64))
    norms[norms == 0] = 1
    unit: NDArray[np.float32] = values / norms[:, None].astype(np.float32)
    return unit


def _texts_hash(texts: Sequence[str]) -> str:
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode()
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def _stored(folder: Path) -> NDArray[np.float32] | None:
    """The vectors in ``folder``, or None if there are none; raises if they are damaged."""
    if not intact(folder, recorded=lambda: _recorded(folder)):
        return None
    file = folder / "vectors.npy"
    # mmap cannot map zero bytes; an empty array is simply read.
    mode: Literal["r"] | None = "r" if read_json(folder / "vectors.json")["n_texts"] else None
    vectors: NDArray[np.float32] = np.load(file, mmap_mode=mode, allow_pickle=False)
    vectors = vectors.view(np.ndarray)
    vectors.flags.writeable = False
    return vectors


def _recorded(folder: Path) -> dict[str, str]:
    """What earlier versions recorded."""
    return {"vectors.npy": read_json(folder / "vectors.json")["vectors_sha256"]}


def _check_length(encoder: Encoder, max_tokens: int, model: Any, tokenizer: Any) -> None:
    limits = (tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None))
    longest = min(limit for limit in limits if limit is not None)
    if max_tokens > longest:
        raise ConfigError(
            f"max_tokens={max_tokens}: encoder {encoder.name!r} reads at most {longest} tokens. "
            "Choose a smaller value or another encoder."
        )


def encode_with(
    model: Any,
    tokenizer: Any,
    texts: Sequence[str],
    *,
    pooling: Pooling,
    max_tokens: int,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """One pass of a loaded encoder, without the cache; see :func:`encode_texts`.

    Args:
        model: as :func:`~bench.baselines.text.encoders.load_encoder_model` gives it.
        tokenizer: likewise.
        texts: n texts; equal ones are encoded once.
        pooling: how token vectors become one.
        max_tokens: tokens that are read, special tokens included.
        progress: shown while the encoder runs.

    Returns:
        float32, shape ``(n, d)``; zeros for a text without tokens.
    """
    place = {text: at for at, text in enumerate(dict.fromkeys(texts))}
    vectors = np.zeros((len(place), int(model.config.hidden_size)), dtype=np.float32)
    if place:
        tokens = tokenizer(
            list(place),
            truncation=True,
            max_length=max_tokens,
            return_attention_mask=False,
            return_token_type_ids=False,
        )["input_ids"]
        batches = list(_batches(tokens, model.device.type))
        for rows in (progress or QuietProgress()).track(
            batches, total=len(batches), description=f"encode {len(place)} texts"
        ):
            ids = np.array([tokens[row] for row in rows], dtype=np.int64)
            vectors[rows] = _pooled(model, ids, pooling)
    rows_of = np.fromiter((place[text] for text in texts), dtype=np.int64, count=len(texts))
    return vectors[rows_of]


def _batches(tokens: Sequence[Sequence[int]], device: str) -> Iterator[NDArray[np.int64]]:
    """Rows of texts with equally many tokens, longest first; texts without tokens are left out."""
    lengths = np.fromiter(map(len, tokens), dtype=np.int64, count=len(tokens))
    budget = _BATCH_TOKENS.get(device, _BATCH_TOKENS_ELSEWHERE)
    for length in np.unique(lengths)[::-1]:
        rows = np.flatnonzero(lengths == length)
        step = max(1, budget // max(1, int(length)))
        if length:
            yield from (rows[start : start + step] for start in range(0, len(rows), step))


def _pooled(model: Any, ids: NDArray[np.int64], pooling: Pooling) -> NDArray[np.float32]:
    """One vector per row of token ids without padding; float32, shape ``(b, d)``."""
    import torch

    from bench.baselines.text.passes import pool

    # A Longformer logs that it pads to its window.
    with torch.inference_mode(), quiet_transformers():
        states = model(input_ids=torch.from_numpy(ids).to(model.device)).last_hidden_state
        pooled = pool(states, None, pooling)
    vectors: NDArray[np.float32] = pooled.cpu().numpy()
    return vectors
