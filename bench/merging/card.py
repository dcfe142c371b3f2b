"""The ``README.md`` of a written adapter, and the rank that serving it needs."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from bench.merging.adapter import Adapter

__all__ = ["VLLM_RANKS", "describe", "vllm_rank"]

VLLM_RANKS = (8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for ``max_lora_rank`` in all releases since 0.8."""


def vllm_rank(r: int) -> int | None:
    """The smallest ``max_lora_rank`` of vLLM that serves rank ``r``; None if there is none."""
    return next((rank for rank in VLLM_RANKS if rank >= r), None)


def describe(adapter: Adapter) -> str:
    """A model card: where the adapter comes from and how to load it."""
    config = adapter.config
    base = config.base_model or "unknown"
    front = ["---", "library_name: peft", "tags: [lora]"]
    if config.base_model:
        front.append(f"base_model: {json.dumps(config.base_model)}")
    rank = vllm_rank(config.r)
    serving = (
        f"vLLM serves it with `--max-lora-rank {rank}`."
        if rank
        else f"vLLM serves ranks up to {VLLM_RANKS[-1]}: cut it with the option `rank` of the merge."
    )
    lines = [
        *front,
        "---",
        "",
        f"# LoRA adapter of {base}",
        "",
        f"Rank {config.r}, alpha {config.alpha:g} (scaling {config.scaling:g}), "
        f"{len(adapter.factors)} modules, {str(adapter.dtype).removeprefix('torch.')}. {serving}",
        "",
    ]
    if adapter.metadata.get("kind") == "merged" and "method" in adapter.metadata:
        lines += _origin(adapter.metadata)
    return "\n".join(lines)


def _origin(metadata: Mapping[str, Any]) -> list[str]:
    lines = [f"Merged by `{metadata['method']}` with", "", "```json"]
    lines += [json.dumps(metadata["config"], indent=2, sort_keys=True), "```", ""]
    lines += [f"and seed {metadata['seed']} from", ""]
    for given in metadata["inputs"]:
        lines.append(f"- `{given['name']}` (SHA-256 `{given['sha256'] or 'in memory'}`)")
    cut = metadata["truncation"]
    if cut:
        lines += ["", f"Relative Frobenius error of the truncation: {cut['relative_error']:.3g}."]
    lines += ["", *(f"Note: {sentence}" for sentence in metadata["warnings"])]
    return [*lines, ""] if metadata["warnings"] else lines
