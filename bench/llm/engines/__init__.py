"""Engines: what runs a language model. None is imported before it is made."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from bench.llm.engines.base import Choice, Engine, Generation, TokenIds
from bench.registry import Registry

if TYPE_CHECKING:
    from bench.llm.backbones import Backbone

__all__ = ["ENGINES", "Choice", "Engine", "Generation", "TokenIds", "make_engine"]

ENGINES: Registry[Callable[..., Engine]] = Registry(
    "engine",
    {
        "transformers": "bench.llm.engines:transformers_engine",
        "vllm": "bench.llm.engines:vllm_engine",
    },
)
"""Functions that load a backbone; each takes it and the keyword arguments of :func:`make_engine`."""


def make_engine(
    name: str,
    backbone: Backbone,
    *,
    device: str = "cpu",
    dtype: str = "float32",
    attention: str = "sdpa",
    quantisation: str | None = None,
    batch_tokens: int = 4096,
) -> Engine:
    """Load a backbone into an engine.

    Args:
        name: name in :data:`ENGINES`.
        backbone: the model to load.
        device: torch device.
        dtype: ``float32``, ``bfloat16`` or ``float16``.
        attention: attention implementation of transformers, for the model's own forward pass.
        quantisation: ``8bit``, ``4bit`` or None; needs an accelerator.
        batch_tokens: most tokens processed together.

    Raises:
        ConfigError: no engine of that name.
        MissingExtraError: the engine's packages are not installed.
    """
    return ENGINES.load(name)(
        backbone,
        device=device,
        dtype=dtype,
        attention=attention,
        quantisation=quantisation,
        batch_tokens=batch_tokens,
    )


def transformers_engine(backbone: Backbone, *, batch_tokens: int, **settings: Any) -> Engine:
    """transformers, with an own forward pass for the families that it knows."""
    from bench.llm.backbones import load_model
    from bench.llm.engines.transformers import TransformersEngine

    return TransformersEngine(load_model(backbone, **settings), batch_tokens=batch_tokens)


def vllm_engine(backbone: Backbone, *, batch_tokens: int, **settings: Any) -> Engine:
    """vLLM, of an extra and an environment of its own."""
    from bench.llm.engines.vllm import VllmEngine
    from bench.llm.engines.vllm_options import options_from_environment

    options = options_from_environment()
    return VllmEngine(backbone, **settings, batch_tokens=batch_tokens, options=options)
