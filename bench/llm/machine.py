"""How fast this machine computes: two quick measurements, once per process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["REFERENCE_GPU", "Machine", "accelerator_memory", "measure_machine"]

_SECONDS = 0.12
_SIDE = 1024
_DTYPES = ("float32", "bfloat16", "float16")


@dataclass(frozen=True, slots=True)
class Machine:
    """Rates of a processor or an accelerator.

    Attributes:
        name: for people.
        products: FLOP per second of large matrix products.
        passes: elements per second of ``silu(x) * y``, which stands for all that is no product;
            None for accelerators, whose speed is a share of their products.
        bandwidth: bytes per second of an accelerator's memory; None for processors.
        memory: bytes of an accelerator's memory; None for processors.
    """

    name: str
    products: float
    passes: float | None = None
    bandwidth: float | None = None
    memory: int | None = None


REFERENCE_GPU = Machine(
    "one 80 GB GPU (989 TFLOP/s in bfloat16, 3.35 TB/s, H100 class)",
    989e12,
    bandwidth=3.35e12,
    memory=80_000_000_000,
)
"""What GPU hours are given for, if no GPU is at hand."""

# silu reads and writes an element, the product reads two and writes one.
_TOUCHED = 5


def accelerator_memory(device: str) -> int | None:
    """Bytes of memory that an accelerator has; None for processors and for what is not there."""
    kind = device.partition(":")[0]
    try:
        import torch
    except ImportError:
        return None
    if kind == "cuda" and torch.cuda.is_available():
        return int(torch.cuda.get_device_properties(torch.device(device)).total_memory)
    if kind == "mps" and torch.backends.mps.is_available():
        return int(torch.mps.recommended_max_memory())
    return None


@lru_cache
def measure_machine(device: str, dtype: str, threads: int) -> Machine | None:
    """Rates of a device, as if nothing else ran on it; takes about half a second.

    Args:
        device: torch device string.
        dtype: number format of the products.
        threads: CPU threads.

    Returns:
        The rates, or None if this machine has no such device or torch is absent.
    """
    if dtype not in _DTYPES:
        return None
    try:
        import torch
    except ImportError:
        return None
    kind = device.partition(":")[0]
    if kind == "cpu":
        return Machine("this processor", *_processor_rates(torch, dtype, threads))
    backend = {"cuda": torch.cuda, "mps": torch.backends.mps}.get(kind)
    if backend is None or not backend.is_available():
        return None
    products, passes = _rates(torch, device, dtype)
    return Machine(
        f"{device} of this machine",
        products,
        bandwidth=_TOUCHED * getattr(torch, dtype).itemsize * passes,
        memory=accelerator_memory(device),
    )


def _processor_rates(torch: Any, dtype: str, threads: int) -> tuple[float, float]:
    """Rates of so many threads, at least those of one.

    On a busy machine threads that wait for each other can be slower than one, by a factor that says
    nothing about a quiet machine.
    """
    before = torch.get_num_threads()
    found = []
    try:
        for count in sorted({1, threads}):
            torch.set_num_threads(count)
            found.append(_rates(torch, "cpu", dtype))
    finally:
        torch.set_num_threads(before)
    products, passes = zip(*found, strict=True)
    return max(products), max(passes)


def _rates(torch: Any, device: str, dtype: str) -> tuple[float, float]:
    number_format = getattr(torch, dtype)
    synchronise = {"cuda": torch.cuda.synchronize, "mps": torch.mps.synchronize}.get(
        device.partition(":")[0], lambda: None
    )
    # Larger products on accelerators, which would only measure their latency otherwise.
    side = _SIDE if device == "cpu" else 4 * _SIDE
    with torch.inference_mode():
        x = torch.ones(side, side, dtype=number_format, device=device)
        products = _per_second(lambda: x @ x, synchronise)
        passes = _per_second(lambda: torch.nn.functional.silu(x) * x, synchronise)
    return 2.0 * side**3 * products, float(side**2) * passes


def _per_second(call: Callable[[], Any], synchronise: Callable[[], Any]) -> float:
    """Calls per second by the fastest one, which other programs disturbed least."""
    call()
    synchronise()
    best, calls, began = float("inf"), 0, time.perf_counter()
    while calls < 3 or time.perf_counter() - began < _SECONDS:
        start = time.perf_counter()
        call()
        synchronise()
        best = min(best, time.perf_counter() - start)
        calls += 1
    return 1.0 / best
