"""Where the training of a transferable model starts: weights of its authors, the sources, or nothing.

Settings that these functions read: ``pretrain`` (``sources`` or ``none``) and ``checkpoint``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.baselines.text.names import substitute_note
from bench.data.cache import content_sha256
from bench.errors import ConfigError
from bench.methods import DomainView

__all__ = [
    "ALONE",
    "checkpoint_content",
    "one_start",
    "require_checkpoint",
    "require_sources",
    "start_note",
]

ALONE: Mapping[str, Any] = {"pretrain": "none"}
"""The settings without a first stage: the method learns from its target alone."""


def one_start(values: Any) -> Any:
    """For a configuration's validator: a checkpoint replaces pre-training.

    Raises:
        ValueError: both are given.
    """
    if isinstance(values, dict) and values.get("checkpoint"):
        if values.get("pretrain") == "sources":
            raise ValueError("checkpoint and pretrain=sources are two starts; give one of them")
        return {**values, "pretrain": "none"}
    return values


def require_checkpoint(checkpoint: str | None) -> None:
    """Check that the file of a configured checkpoint is there.

    Raises:
        ConfigError: it is not.
    """
    if checkpoint and not Path(checkpoint).is_file():
        raise ConfigError(
            f"checkpoint {checkpoint}: no such file. Give the path of the authors' weights, or "
            "pre-train on the sources (without checkpoint)."
        )


def checkpoint_content(checkpoint: str | None) -> dict[str, str]:
    """For :meth:`bench.methods.Method.content_hashes`: the hash of a configured checkpoint."""
    there = checkpoint and Path(checkpoint).is_file()
    return {"checkpoint": content_sha256(Path(checkpoint))} if checkpoint and there else {}


def require_sources(name: str, target: DomainView, sources: Sequence[DomainView]) -> None:
    """Check that there is something to pre-train on.

    Raises:
        ConfigError: there is no source domain.
    """
    if not sources:
        raise ConfigError(
            f"{name} pre-trains on source domains, and {target.name} was given none. Name some with "
            "--sources, or leave pre-training out: --set pretrain=none."
        )


def start_note(config: Any, encoder: str, official: str) -> str:
    """What stands in for the authors' weights and for their text encoder, for the name of a row.

    Args:
        config: with ``pretrain`` and ``checkpoint``.
        encoder: name as configured.
        official: the authors' encoder.
    """
    start = "source pre-trained" if config.pretrain == "sources" else "no pre-training"
    parts = ["" if config.checkpoint else start, substitute_note(encoder, official)]
    return ", ".join(part for part in parts if part)
