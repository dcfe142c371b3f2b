"""Trainings that are killed: what their checkpoints continue, and what starts anew."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from llm_examples import random_examples
from llm_trainings import FAST, PEFT_WARNING, train, weights

from bench.io import sha256_file
from bench.llm.backbones import Backbone
from bench.llm.lora import LoraSpec
from bench.llm.training import TrainingReport
from bench.methods import QuietProgress

pytestmark = [PEFT_WARNING, pytest.mark.usefixtures("one_thread")]


class Killed(Exception):  # noqa: N818 - no error
    """Stands for a process that ends in the middle."""


class KillAfter(QuietProgress):
    """Stops the training after a number of steps."""

    def __init__(self, steps: int):
        self.steps = steps

    def status(self, text: str) -> None:
        self.steps -= 1
        if self.steps < 0:
            raise Killed


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_killed_training_resumes_to_the_same_bytes(
    backbone: Backbone, tmp_path: Path, dropout: float, dtype: str, caplog
):
    lora = LoraSpec(r=4, alpha=8, dropout=dropout)
    examples = random_examples(14, 40)
    whole = train(backbone, examples, tmp_path, lora=lora, name="whole", dtype=dtype)
    with pytest.raises(Killed):
        train(
            backbone,
            examples,
            tmp_path,
            lora=lora,
            name="cut",
            dtype=dtype,
            progress=KillAfter(3),
            checkpoint_seconds=0.0,
        )
    assert not (tmp_path / "cut").exists()
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["checkpoint.safetensors"]
    with caplog.at_level(logging.INFO):
        cut = train(backbone, examples, tmp_path, lora=lora, name="cut", dtype=dtype)
    assert "resuming after step 3" in caplog.text
    assert sha256_file(weights(tmp_path / "whole")) == sha256_file(weights(tmp_path / "cut"))
    assert cut.losses == whole.losses
    assert (cut.steps, cut.tokens, cut.resumed) == (whole.steps, whole.tokens, 1)


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_training_that_was_begun_goes_on_with_less_memory(
    backbone: Backbone, tmp_path: Path, dropout: float, caplog
):
    """Settings that change no result do not cost the steps that were done; others do."""
    lora = LoraSpec(r=4, alpha=8, dropout=dropout)
    examples = random_examples(14, 40)
    whole = train(backbone, examples, tmp_path, lora=lora, name="whole")

    def resumed(folder: Path, **changes: object) -> TrainingReport:
        with pytest.raises(Killed):
            train(
                backbone,
                examples,
                folder,
                lora=lora,
                progress=KillAfter(3),
                checkpoint_seconds=0.0,
            )
        return train(backbone, examples, folder, FAST.model_copy(update=changes), lora=lora)

    less = resumed(tmp_path / "less", gradient_checkpointing=True)
    assert less.resumed == 1
    assert less.losses == pytest.approx(whole.losses, rel=1e-4)
    smaller = resumed(tmp_path / "smaller", micro_batch_tokens=60)
    if dropout:  # its masks are drawn per micro-batch
        assert smaller.resumed == 0
        assert "belongs to another training" in caplog.text
        assert smaller.losses != pytest.approx(whole.losses, rel=1e-4)
    else:
        assert smaller.resumed == 1
        assert smaller.losses == pytest.approx(whole.losses, rel=1e-4)


def test_a_checkpoint_of_another_training_or_a_damaged_one_is_not_continued(
    backbone: Backbone, tmp_path: Path, caplog
):
    examples = random_examples(14, 20)
    expected = train(backbone, examples, tmp_path, name="one", order_seed=1)
    with pytest.raises(Killed):
        train(
            backbone, examples, tmp_path, progress=KillAfter(3), checkpoint_seconds=0.0, name="two"
        )
    other = train(backbone, examples, tmp_path, name="two", order_seed=1)
    assert "belongs to another training" in caplog.text
    assert other.losses == expected.losses
    (tmp_path / "checkpoints" / "checkpoint.safetensors").write_bytes(b"half a file")
    assert train(backbone, examples, tmp_path, name="two", order_seed=1).losses == expected.losses
    assert "training starts anew" in caplog.text
