"""How fast this machine computes: two quick measurements, once per process."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

__all__ = ["REFERENCE_GPU", "Machine", "measure_machine"]

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
    """

    name: str
    products: float
    passes: float | None = None


REFERENCE_GPU = Machine("one 80 GB GPU (989 TFLOP/s in bfloat16, H100 class)", 989e12)
"""What GPU hours are given for, where no GPU is at hand."""


@lru_cache
def measure_machine(device: str, dtype: str, threads: int) -> Machine | None:
    """Rates of a device, as if nothing else ran on it; takes about half a second.

    Args:
        device: torch device string.
        dtype: number format of the products.
        threads: CPU threads.

    Returns:
        The rates, or None where this machine has no such device or torch is absent.
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
    return Machine(f"{device} of this machine", _rates(torch, device, dtype)[0])


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
