"""What a training of LLM-Rec costs, from the sizes of its domains alone."""

from __future__ import annotations

from collections.abc import Sequence

from bench.baselines.llm_rec.config import LLMRecConfig
from bench.baselines.text import DEFAULT_ENCODER
from bench.methods import DomainSize

__all__ = ["training_seconds", "training_tokens"]

# MiniLM's word pieces per byte of a title, and the separator behind it.
_BYTES_PER_TOKEN, _SEPARATOR = 4.0, 1.0
# Tokens that one thread trains MiniLM on per second: 1,390 on the four Amazon domains, 1,580 on
# amazon-toys with ml-1m, in bfloat16; float32 takes three times as long.
_TOKENS_PER_SECOND = {"bfloat16": 1450.0, "float32": 480.0}


def training_tokens(sizes: Sequence[DomainSize], config: LLMRecConfig) -> int:
    """Tokens that are encoded over the whole training, a batch's equal titles counted apart.

    Args:
        sizes: of every domain.
        config: budget and limits.
    """
    rows, tokens = 0, 0.0
    for size in sizes:
        n_titles = max(1, sum(size.titles.values()))
        title = (
            sum(
                count * min(config.title_tokens, n_bytes / _BYTES_PER_TOKEN + _SEPARATOR)
                for n_bytes, count in size.titles.items()
            )
            / n_titles
        )
        own = sum((length - 1) * count for length, count in size.sequences.items() if length >= 2)
        history = sum(
            count * min(before, config.max_history)
            for length, count in size.sequences.items()
            for before in range(1, length)
        )
        rows += own
        tokens += title * (history + own * (1 + config.negatives))
    if not rows:
        return 0
    seen = config.epochs * rows if config.steps is None else config.steps * config.batch_size
    return round(tokens * seen / rows)


def training_seconds(
    tokens: int, config: LLMRecConfig, *, device: str, dtype: str, threads: int
) -> float | None:
    """Wall seconds of encoding and training on ``tokens``; None = not known for this model or device."""
    if config.encoder != DEFAULT_ENCODER or config.lora_rank or device != "cpu":
        return None
    return tokens / _TOKENS_PER_SECOND[dtype] / threads
