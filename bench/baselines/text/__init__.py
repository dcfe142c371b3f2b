"""Item texts as vectors: which encoder, how it is loaded, and the cache of what it made."""

from bench.baselines.text.encoders import (
    BUILT_IN,
    DEFAULT_ENCODER,
    Encoder,
    Pooling,
    encoder_content,
    encoder_here,
    load_encoder_model,
    require_encoder,
    resolve_encoder,
)
from bench.baselines.text.vectors import encode_texts, unit_rows

__all__ = [
    "BUILT_IN",
    "DEFAULT_ENCODER",
    "Encoder",
    "Pooling",
    "encode_texts",
    "encoder_content",
    "encoder_here",
    "load_encoder_model",
    "require_encoder",
    "resolve_encoder",
    "unit_rows",
]
