"""The updates of a LoRA adapter, added to a model without changing it.

The update of an adapted linear layer is ``s B A x`` beside ``W x``, as in PEFT: the weights are never
merged, because rounding ``W + s B A`` to bfloat16 loses much of a small update. The factors are cast
to the model's dtype.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from bench.errors import ConfigError, DataError, ResultError
from bench.merging import read_adapter
from bench.merging.peft_config import WEIGHTS_FILE

__all__ = ["Update", "attached", "read_updates", "stamp"]

_REMEDY = "Expected a LoRA folder as PEFT's save_pretrained writes it, trained on this backbone."


@dataclass(frozen=True, slots=True)
class Update:
    """The update ``b (a x)`` of one adapted linear layer.

    Attributes:
        a: ``(r, d_in)``, in the model's dtype and on the layer's device.
        b: ``(d_out, r)``, multiplied by the scaling ``s``.
    """

    a: Tensor
    b: Tensor


def stamp(folder: Path) -> tuple[str, int, int]:
    """What tells one state of an adapter's folder from another: path, time and size.

    Raises:
        ResultError: the folder or its weights are missing.
    """
    weights = folder / WEIGHTS_FILE
    try:
        status = weights.stat()
    except OSError:
        raise ResultError(f"{folder}: no adapter: {WEIGHTS_FILE} is missing. {_REMEDY}") from None
    return str(folder.resolve()), status.st_mtime_ns, status.st_size


def read_updates(folder: Path, model: nn.Module) -> dict[str, Update]:
    """Read an adapter for ``model``.

    Args:
        folder: PEFT folder.
        model: the causal language model it belongs to.

    Returns:
        The updates by name of the module they belong to.

    Raises:
        ResultError: no complete adapter; a kind of adapter other than LoRA, see
            :func:`bench.merging.read_adapter`; or one that does not fit the model.
    """
    stamp(folder)
    try:
        adapter = read_adapter(folder)
    except (ConfigError, DataError) as error:
        raise ResultError(f"{error} {_REMEDY}") from error
    modules = dict(model.named_modules())
    updates = {}
    for name, (a, b) in adapter.factors.items():
        layer = modules.get(name)
        weight = _weight(folder, name, layer)
        d_out, d_in = layer.out_features, layer.in_features  # type: ignore[union-attr]
        if (len(b), a.shape[1]) != (d_out, d_in):
            raise ResultError(
                f"{folder}: {name} has factors of shape {tuple(a.shape)} and {tuple(b.shape)}; the "
                f"model's layer maps {d_in} to {d_out}. {_REMEDY}"
            )
        dtype = weight.dtype if weight.dtype.is_floating_point else getattr(model, "dtype", None)
        scaled = b.float() * adapter.scaling
        updates[name] = Update(a.to(weight.device, dtype), scaled.to(weight.device, dtype))
    return updates


def _weight(folder: Path, name: str, layer: nn.Module | None) -> Tensor:
    if layer is None:
        raise ResultError(f"{folder}: adapts {name}, which the model does not have. {_REMEDY}")
    # Quantised layers are subclasses of nn.Linear.
    if not isinstance(layer, nn.Linear) or name.endswith("lm_head"):
        raise ResultError(
            f"{folder}: adapts {name} ({type(layer).__name__}); this engine adapts linear layers "
            "inside the decoder only. Train the adapter with targets 'all-linear'."
        )
    return layer.weight


@contextmanager
def attached(model: nn.Module, updates: Mapping[str, Update] | None) -> Iterator[None]:
    """Let the model's own forward pass add the updates for as long as the block runs."""
    handles = []
    try:
        for name, layer in (updates or {}).items():
            handles.append(model.get_submodule(name).register_forward_hook(_hook(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(update: Update) -> Any:
    def add_update(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].to(update.a.dtype)
        found = nn.functional.linear(nn.functional.linear(x, update.a), update.b)
        return output + found.to(output.dtype)

    return add_update
