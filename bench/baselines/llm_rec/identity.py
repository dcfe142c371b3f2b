"""What the shared model depends on: everything but the target."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from bench.baselines.llm_rec.config import LLMRecConfig

__all__ = ["training_key", "training_label"]


def training_key(
    version: str,
    config: LLMRecConfig,
    encoder_hash: str,
    training_hashes: Mapping[str, str],
    *,
    seed: int,
    dtype: str,
) -> dict[str, Any]:
    """All that decides the weights, as JSON.

    Args:
        version: of the method.
        config: settings.
        encoder_hash: content hash of the encoder that training starts from.
        training_hashes: of every domain, by name; which of them is the target does not matter.
        seed: of the run.
        dtype: number format.
    """
    return {
        "version": version,
        "settings": config.model_dump(mode="json", exclude=_unread(config)),
        "encoder": encoder_hash,
        "domains": dict(sorted(training_hashes.items())),
        "seed": seed,
        "dtype": dtype,
    }


def _unread(config: LLMRecConfig) -> set[str]:
    """Settings that training does not read, or that the key holds in another form."""
    unread = {"encoder", "validation_users"}
    if config.steps is not None:
        unread.add("epochs")
    if config.holdout_share == 0:
        unread.add("patience")
    if config.lora_rank == 0:
        unread |= {"lora_alpha", "lora_dropout"}
    return unread


def training_label(domains: Iterable[str]) -> str:
    """One line for people."""
    return f"llm-rec trained on {'+'.join(sorted(domains))}"
