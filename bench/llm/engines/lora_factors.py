"""LoRA factors of a PEFT folder, added to a model without changing it.

The delta of an adapted linear layer is ``s B A x`` beside ``W x``, as in PEFT: the weights are never
merged, because rounding ``W + s B A`` to bfloat16 loses much of a small delta. The factors are cast
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

__all__ = ["Factors", "attached", "read_factors", "stamp"]

_WEIGHTS = "adapter_model.safetensors"
_REMEDY = "Expected a LoRA folder as PEFT's save_pretrained writes it, trained on this backbone."


@dataclass(frozen=True, slots=True)
class Factors:
    """One adapted linear layer.

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
    weights = folder / _WEIGHTS
    try:
        status = weights.stat()
    except OSError:
        raise ResultError(f"{folder}: no adapter: {_WEIGHTS} is missing. {_REMEDY}") from None
    return str(folder.resolve()), status.st_mtime_ns, status.st_size


def read_factors(folder: Path, model: nn.Module) -> dict[str, Factors]:
    """Read an adapter for ``model``.

    Args:
        folder: PEFT folder.
        model: the causal language model it belongs to.

    Returns:
        The factors by name of the module they belong to.

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
    factors = {}
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
        factors[name] = Factors(a.to(weight.device, dtype), scaled.to(weight.device, dtype))
    return factors


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
def attached(model: nn.Module, factors: Mapping[str, Factors] | None) -> Iterator[None]:
    """Let the model's own forward pass add the deltas for as long as the block runs."""
    handles = []
    try:
        for name, layer in (factors or {}).items():
            handles.append(model.get_submodule(name).register_forward_hook(_hook(layer)))
        yield
    finally:
        for handle in handles:
            handle.remove()


def _hook(factors: Factors) -> Any:
    def add_delta(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        x = inputs[0].to(factors.a.dtype)
        delta = nn.functional.linear(nn.functional.linear(x, factors.a), factors.b)
        return output + delta.to(output.dtype)

    return add_delta
