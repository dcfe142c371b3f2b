"""Random numbers and optimisers in a fit that says that it has neither."""

from __future__ import annotations

import importlib
import inspect
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import wraps
from typing import Any
from unittest.mock import patch

import numpy as np

from bench.methods import Method

__all__ = ["counted_steps", "shifted_draws", "trained_silently"]

_SHIFT = 7_919
_NUMPY_CLASSES = ("RandomState", "PCG64", "PCG64DXSM", "MT19937", "Philox", "SFC64")


@contextmanager
def counted_steps(method_cls: type[Method]) -> Iterator[list[str]]:
    """Record the class of every PyTorch optimiser that makes a step in the block.

    PyTorch is loaded for it only if the method's module names it.
    """
    steps: list[str] = []
    optimizer = _optimizers(method_cls)
    if optimizer is None:
        yield steps
        return

    def note(one: Any, *_: Any) -> None:
        if type(one).__name__ not in steps:
            steps.append(type(one).__name__)

    handle = optimizer.register_optimizer_step_pre_hook(note)
    try:
        yield steps
    finally:
        handle.remove()


def trained_silently(label: str, steps: list[str]) -> str:
    """The sentence about a method that trains and does not declare it."""
    return (
        f"{label}: fit runs an optimiser ({', '.join(steps)}), but the capabilities do not say `trainable`: "
        "it would be shown as deterministic, and no further seed would be run. Set "
        "Capabilities(trainable=True) and make its generators of context.seed."
    )


def _optimizers(method_cls: type[Method]) -> Any:
    """PyTorch's module of optimisers, or None if the method cannot use it."""
    source = ""
    with suppress(OSError, TypeError, KeyError):
        source = inspect.getsource(sys.modules[method_cls.__module__])
    if "torch" in sys.modules or "torch" in source:
        with suppress(ImportError):
            return importlib.import_module("torch.optim.optimizer")
    return None


@contextmanager
def shifted_draws(method_cls: type[Method]) -> Iterator[None]:
    """Give every generator that is seeded in the block another seed than the code names.

    Covers ``random``, ``numpy.random`` and, if it is loaded, ``torch``, under their own names and
    under names that the method's modules imported.
    """
    places: dict[tuple[Any, str], Any] = {
        (random, "seed"): _shifting(random.seed),
        (random, "Random"): _shifted_class(random.Random, "seed"),
        (np.random, "seed"): _shifting(np.random.seed),
        (np.random, "default_rng"): _shifting(np.random.default_rng),
    }
    for name in _NUMPY_CLASSES:
        places[np.random, name] = _shifted_class(getattr(np.random, name), "__init__")
    torch = sys.modules.get("torch")
    if torch is not None:
        places[torch, "manual_seed"] = places[torch.random, "manual_seed"] = _shifting(
            torch.manual_seed
        )
        places[torch, "Generator"] = _shifted_class(torch.Generator, "manual_seed")
    top = method_cls.__module__.partition(".")[0]
    own = [m for n, m in list(sys.modules.items()) if n.partition(".")[0] == top]
    with ExitStack() as stack:
        originals = [(getattr(owner, name), made) for (owner, name), made in places.items()]
        for (owner, name), made in places.items():
            stack.enter_context(patch.object(owner, name, made))
        for module in own:
            for name, value in list(vars(module).items()):
                made = next((m for original, m in originals if value is original), None)
                if made is not None:
                    stack.enter_context(patch.object(module, name, made))
        yield


def _shift(seed: Any) -> Any:
    """Another seed of the same form; None (from the system) and generators stay."""
    if isinstance(seed, bool) or seed is None:
        return seed
    if isinstance(seed, (int, np.integer)):
        return (int(seed) + _SHIFT) % 2**32
    if isinstance(seed, (list, tuple, np.ndarray)) and len(seed):
        return [*seed, _SHIFT]
    return f"{seed}{_SHIFT}" if isinstance(seed, str) else seed


def _shifting(function: Callable[..., Any]) -> Callable[..., Any]:
    @wraps(function)
    def shifting(*args: Any, **kwargs: Any) -> Any:
        if "seed" in kwargs:
            kwargs["seed"] = _shift(kwargs["seed"])
        return function(*map(_shift, args[:1]), *args[1:], **kwargs)

    return shifting


def _shifted_class(original: type[Any], seeder: str) -> type[Any]:
    """A subclass whose seeding method shifts; instances of the original count as its own."""

    class _Meta(type(original)):  # type: ignore[misc]
        def __instancecheck__(cls, instance: object) -> bool:
            return isinstance(instance, original)

    def seeded(self: Any, *args: Any, **kwargs: Any) -> Any:
        return _shifting(getattr(super(made, self), seeder))(*args, **kwargs)

    made: type[Any] = _Meta(original.__name__, (original,), {seeder: seeded})
    return made
