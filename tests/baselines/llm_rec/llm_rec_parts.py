"""LLM-Rec on the tiny encoder: its parts by themselves, and the method after a short training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_catalogue import TITLES

from bench.baselines.llm_rec.config import LLMRecConfig
from bench.baselines.llm_rec.method import LLMRec
from bench.baselines.llm_rec.model import TextEncoder, TextWriter, title_table
from bench.baselines.text import load_encoder_model, resolve_encoder
from bench.methods import Progress, QuietProgress
from bench.testing import make_context, planted_task


class Parts:
    """An encoder, titles and a writer."""

    def __init__(self, folder: Path, *, pooling: Any = "cls", temperature: Any = None) -> None:
        backbone, self.tokenizer = load_encoder_model(resolve_encoder(str(folder)))
        self.model = TextEncoder(backbone, pooling=pooling, temperature=temperature)
        self.table = title_table(TITLES, self.tokenizer, title_tokens=40)
        self.writer = TextWriter(2, 0, 400)


QUICK = {
    "learning_rate": 3e-3,
    "max_history": 3,
    "steps": 4,
    "check_steps": 2,
    "batch_size": 32,
}


def fitted(
    folder: Path,
    scratch: Path,
    *,
    task: Any = None,
    view: Any = None,
    progress: Progress | None = None,
    dtype: str = "float32",
    **changes: Any,
) -> tuple[LLMRec, Any, Any]:
    task = task or planted_task(n_users=60, n_sources=2)
    method = LLMRec(LLMRecConfig(**{**QUICK, "encoder": str(folder), **changes}))
    store = LLMRec.adapter_store(scratch.parent / "store")
    context = make_context(
        scratch, task, adapters=store, progress=progress or QuietProgress(), dtype=dtype
    )
    method.fit(view or task.train_view(with_sources=True), context)
    return method, task, context
