"""The checkpoint of a training: numbers and moments in one safetensors file, written whole or not at all."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bench.io import write_bytes

__all__ = ["read_checkpoint", "write_checkpoint"]


def write_checkpoint(
    path: Path,
    identity: str,
    values: Tensor,
    optimiser: torch.optim.Optimizer,
    report: Mapping[str, Any],
) -> None:
    """Write what a training continues from.

    Args:
        path: the file; replaced.
        identity: hash of all that decides the training.
        values: the one trained tensor.
        optimiser: AdamW of it, after at least one step.
        report: JSON values that belong to it.
    """
    from safetensors.torch import save

    moments = optimiser.state[values]
    tensors = {
        "values": values.detach(),
        "exp_avg": moments["exp_avg"],
        "exp_avg_sq": moments["exp_avg_sq"],
        "step": moments["step"],
    }
    metadata = {"identity": identity, "report": json.dumps(report)}
    write_bytes(path, save({n: t.cpu().contiguous() for n, t in tensors.items()}, metadata))


def read_checkpoint(
    path: Path,
    identity: str,
    values: Tensor,
    optimiser: torch.optim.Optimizer,
    log: logging.Logger,
) -> dict[str, Any] | None:
    """Put ``values`` and the optimiser where a checkpoint of this very training left them.

    Args:
        path: the file; may be missing.
        identity: what it must have been written with.
        values: the one trained tensor, changed in place.
        optimiser: AdamW of it.
        log: is told of a file that is damaged or belongs to another training.

    Returns:
        The report in it; None if there is no such checkpoint.
    """
    from safetensors import SafetensorError, safe_open

    if not path.exists():
        return None
    try:
        with safe_open(path, framework="pt", device=str(values.device)) as stream:
            metadata = stream.metadata() or {}
            tensors: dict[str, Tensor] = {n: stream.get_tensor(n) for n in stream.keys()}  # noqa: SIM118
    except SafetensorError as error:
        log.warning("ignoring %s: %s; training starts anew", path, error)
        return None
    if metadata.get("identity") != identity:
        log.warning("ignoring %s: it belongs to another training", path)
        return None
    with torch.no_grad():
        values.copy_(tensors["values"])
    optimiser.state[values] = {name: tensors[name] for name in ("step", "exp_avg", "exp_avg_sq")}
    report: dict[str, Any] = json.loads(metadata["report"])
    return report
