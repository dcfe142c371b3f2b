"""Engines: what runs a language model. None is imported before it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.errors import unknown_name
from bench.llm.engines.base import Choice, Engine, Generation, TokenIds

if TYPE_CHECKING:
    from bench.llm.backbones import Backbone

__all__ = ["ENGINES", "Choice", "Engine", "Generation", "TokenIds", "make_engine"]

ENGINES = ("transformers", "vllm")
"""Names that :func:`make_engine` knows."""


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
        name: ``transformers`` or ``vllm``.
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
    settings: dict[str, Any] = {
        "device": device,
        "dtype": dtype,
        "attention": attention,
        "quantisation": quantisation,
    }
    if name == "transformers":
        from bench.llm.backbones import load_model
        from bench.llm.engines.transformers import TransformersEngine

        return TransformersEngine(load_model(backbone, **settings), batch_tokens=batch_tokens)
    if name == "vllm":
        from bench.llm.engines.vllm import VllmEngine
        from bench.llm.engines.vllm_options import options_from_environment

        options = options_from_environment()
        return VllmEngine(backbone, **settings, batch_tokens=batch_tokens, options=options)
    raise unknown_name("engine", name, ENGINES)
