"""RecFormer on the tiny encoder: its parts by themselves, and the method after a short training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_catalogue import TITLES, sequences

from bench.baselines.recformer.config import RecFormerConfig
from bench.baselines.recformer.encoding import encode_sequences
from bench.baselines.recformer.method import RecFormer
from bench.baselines.recformer.model import Recformer
from bench.baselines.recformer.texts import SequenceWriter, item_table
from bench.baselines.text import load_encoder_model, resolve_encoder
from bench.baselines.training import isolated_randomness
from bench.data.domain import Items
from bench.data.strings import StringColumn
from bench.methods import Progress, QuietProgress
from bench.testing import make_context, planted_task

KINDS = ["bert", "longformer"]


def items(**extra: list[str]) -> Items:
    return Items(
        StringColumn.from_list([f"i{k}" for k in range(len(TITLES))]),
        StringColumn.from_list(TITLES),
        {name: StringColumn.from_list(values) for name, values in extra.items()},
    )


class Parts:
    """A model on a tiny encoder, with texts and a writer."""

    def __init__(self, folder: Path, **changes: Any) -> None:
        backbone, self.tokenizer = load_encoder_model(resolve_encoder(str(folder)))
        settings = {"max_history": 10, "pooling": "cls", "attention_window": 16} | changes
        with isolated_randomness(0):
            self.model = Recformer(backbone, n_items=len(TITLES), **settings).eval()
        self.table = item_table(items(), self.tokenizer, attributes=["title"], attribute_tokens=16)
        self.writer = SequenceWriter(
            first_id=int(self.tokenizer.cls_token_id),
            pad_id=self.model.pad_id,
            max_tokens=64,
            padding_item=self.model.padding_item,
            multiple=self.model.multiple,
        )

    def vector(self, *history: int) -> torch.Tensor:
        """Vector of one history, newest first."""
        with torch.inference_mode():
            return encode_sequences(self.model, self.writer, self.table, sequences(list(history)))[
                0
            ]


QUICK = {
    "learning_rate": 3e-3,
    "pretrain_learning_rate": 3e-3,
    "freeze_words": False,
    "max_history": 3,
    "steps": 30,
    "epochs": 2,
    "stage2_epochs": 1,
    "pretrain_epochs": 1,
    "pretrain_steps": 8,
}


def fitted(
    folder: Path,
    scratch: Path,
    *,
    task: Any = None,
    progress: Progress | None = None,
    dtype: str = "float32",
    **changes: Any,
) -> tuple[RecFormer, Any, Any]:
    task = task or planted_task(n_users=60, n_sources=2)
    config = RecFormerConfig(**{**QUICK, "encoder": str(folder), "steps": 3, **changes})
    method = RecFormer(config)
    adapters = RecFormer.adapter_store(scratch / "adapters")
    context = make_context(
        scratch, task, adapters=adapters, progress=progress or QuietProgress(), dtype=dtype
    )
    method.fit(task.train_view(with_sources=config.pretrain == "sources"), context)
    return method, task, context
