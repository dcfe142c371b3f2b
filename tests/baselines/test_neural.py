"""Scores of neural methods, whichever chunk of requests they are computed in."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_catalogue import sequences
from tiny_group import made_up_vectors, unlike_task

from bench.baselines import neural, transferable
from bench.methods.registry import resolve
from bench.testing import make_context

WITHOUT_RECBOLE = pytest.mark.skipif(find_spec("recbole") is None, reason="RecBole is absent")


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("fmlp-rec", {}),
        pytest.param("sasrec", {}, marks=WITHOUT_RECBOLE),
        ("unisrec", {"pretrain": "none", "n_experts": 2}),
        ("vq-rec", {"pretrain": "none", "n_blocks": 4, "n_codes": 8, "rotations": 1}),
        ("mcrpl", {"pretrain_epochs": 1}),
    ],
)
def test_scores_are_the_candidates_columns_of_all_scores_of_their_own_history(
    name: str, settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The target's items are not the first of the union; histories are shorter and longer than read."""
    monkeypatch.setattr(transferable, "encode_texts", made_up_vectors)
    monkeypatch.setattr(neural, "_SCORE_ROWS", 7)
    task = unlike_task()
    cls: Any = resolve(name)
    further = {"max_history": 6, "hidden_size": 16, "inner_size": 24, "learning_rate": 0.01}
    method = cls(cls.Config(epochs=1, **further, **settings))
    adapters = cls.adapter_store(tmp_path / "store") if name == "mcrpl" else None
    context = make_context(tmp_path / "run", task, adapters=adapters)
    method.fit(task.train_view(with_sources=name == "mcrpl"), context)
    requests, _ = task.validation(task.subset(None))
    rows = [requests.history[row][-1 - row % 9 :].tolist() for row in range(len(requests))]
    found = method.score(replace(requests, history=sequences(*rows)), context).values
    assert found.shape == requests.candidates.shape
    assert {len(row) for row in rows} >= {1, 5, 6, 7, 8}
    for row, history in enumerate(rows):
        read = [item + 1 for item in history[-method.max_input :]]
        padding = [0] * (method.width - len(read))
        with torch.inference_mode():
            every = method.score_all(
                torch.tensor([read + padding]),
                torch.tensor([len(read)]),
                torch.tensor([int(requests.users[row]) + 1]),
            )
        expected = every[0].numpy()[requests.candidates[row] + 1]
        assert expected.std() > 1e-3
        np.testing.assert_allclose(found[row], expected, rtol=0, atol=1e-5)
