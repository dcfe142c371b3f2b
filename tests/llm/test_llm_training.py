"""Training of one adapter: what is learnt, one step by hand, seeds, schedules, two processes."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from llm_examples import make_examples, random_examples
from llm_trainings import LORA, PEFT_WARNING, arrays, planted, train, weights
from safetensors.numpy import load_file

from bench.errors import MethodError
from bench.io import hash_arrays, sha256_file
from bench.llm.backbones import Backbone, load_model
from bench.llm.batching import pack
from bench.llm.llama import loss_function
from bench.llm.lora import LoraSpec, attach_lora, write_init
from bench.llm.own_forward import plain_loss
from bench.llm.training import TrainingSpec, learning_rate

pytestmark = [PEFT_WARNING, pytest.mark.usefixtures("one_thread")]


def test_a_planted_pattern_is_learnt(backbone: Backbone, tmp_path: Path):
    training = TrainingSpec(epochs=50, learning_rate=0.01, batch_sequences=8)
    lora = LoraSpec(r=16, alpha=32)
    report = train(backbone, planted(), tmp_path, training, lora=lora)
    assert report.steps == len(report.losses) == 100
    assert report.losses[0] > 3.0
    assert np.mean(report.losses[-5:]) < 0.2
    assert report.tokens == 50 * 16 * 10
    assert report.labelled_tokens == 50 * 16 * 3
    assert json.loads(json.dumps(report.as_dict())) == report.as_dict()


def lowest_loss(model, options: list[int]) -> float:
    """Least cross-entropy with equally likely ``options`` that any last hidden state can reach."""
    head = model.get_output_embeddings().weight.double() * model.model.norm.weight.double()
    state = head[options].mean(0).clone().requires_grad_()
    optimiser = torch.optim.Adam([state], lr=0.05)
    for _ in range(400):
        optimiser.zero_grad()
        unit = state / state.pow(2).mean().sqrt()
        loss = -(head @ unit).log_softmax(-1)[options].mean()
        loss.backward()
        optimiser.step()
    return float(loss.detach())


def test_random_answers_are_learnt_down_to_what_cannot_be_known(backbone: Backbone, tmp_path: Path):
    """One prompt with four answers, equally often: only their frequencies can be learnt."""
    rng = np.random.default_rng(0)
    options = [50, 60, 70, 80]
    sequences = [[10, 11, 12, option, 2] for option in options for _ in range(8)]
    examples = make_examples([sequences[i] for i in rng.permutation(32)], [3] * 32)
    training = TrainingSpec(epochs=60, learning_rate=0.01, batch_sequences=32)
    report = train(backbone, examples, tmp_path, training, lora=LoraSpec(r=16, alpha=32))
    model = load_model(backbone)
    best = (lowest_loss(model, options) + lowest_loss(model, [2])) / 2
    assert best > math.log(4) / 2
    assert best - 1e-3 < report.losses[-1] < best + 0.05


def test_the_trained_adapter_gives_the_same_outputs_in_peft(backbone: Backbone, tmp_path: Path):
    from peft import PeftModel

    examples = planted()
    train(backbone, examples, tmp_path, TrainingSpec(epochs=8, learning_rate=0.01))
    model = load_model(backbone)
    attach_lora(model, LORA, arrays(tmp_path / "out"))
    packed = pack(examples, [0, 1, 2])
    with torch.no_grad():
        mine = float(loss_function(model)(packed))
        peft = PeftModel.from_pretrained(load_model(backbone), tmp_path / "out")
        theirs = 0.0
        base = 0.0
        for row in range(3):
            ids = torch.from_numpy(
                examples.tokens[examples.offsets[row] : examples.offsets[row + 1]].astype(np.int64)
            )[None]
            log_probs = peft(ids).logits.log_softmax(-1)[0, 6:-1]
            theirs -= float(log_probs.gather(1, ids[0, 7:, None]).sum())
            with peft.disable_adapter():
                log_probs = peft(ids).logits.log_softmax(-1)[0, 6:-1]
            base -= float(log_probs.gather(1, ids[0, 7:, None]).sum())
    assert mine == pytest.approx(theirs, rel=1e-5)
    assert theirs < 0.9 * base


def test_equal_seeds_give_equal_bytes_and_other_orders_share_the_start(
    backbone: Backbone, tmp_path: Path
):
    examples = random_examples(12, 20)
    digest = write_init(backbone, LORA, 0, tmp_path / "init")
    first = train(backbone, examples, tmp_path, name="a")
    train(backbone, examples, tmp_path, name="b")
    other = train(backbone, examples, tmp_path, name="c", order_seed=1)
    assert sha256_file(weights(tmp_path / "a")) == sha256_file(weights(tmp_path / "b"))
    assert sha256_file(weights(tmp_path / "a")) != sha256_file(weights(tmp_path / "c"))
    assert first.losses != other.losses
    assert hash_arrays(arrays(tmp_path / "init")) == digest
    start = arrays(tmp_path / "init")
    for name in "ac":
        moved = arrays(tmp_path / name)
        assert moved.keys() == start.keys()
        assert any((moved[k] != start[k]).any() for k in start if "lora_A" in k)


def test_the_caller_s_random_numbers_do_not_matter_or_move(backbone: Backbone, tmp_path: Path):
    examples = random_examples(8, 20)
    lora = LoraSpec(r=4, alpha=8, dropout=0.3)
    torch.manual_seed(1)
    train(backbone, examples, tmp_path, lora=lora, name="a")
    left = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), left)
    train(backbone, examples, tmp_path, lora=lora, name="b")
    assert sha256_file(weights(tmp_path / "a")) == sha256_file(weights(tmp_path / "b"))


@pytest.mark.parametrize("change", [{"micro_batch_tokens": 30}, {"gradient_checkpointing": True}])
def test_how_a_step_is_computed_does_not_change_its_result(
    backbone: Backbone, tmp_path: Path, change: dict[str, object]
):
    examples = random_examples(12, 25)
    plain = TrainingSpec(epochs=2, learning_rate=1e-3, batch_sequences=6)
    one = train(backbone, examples, tmp_path, plain, name="one")
    two = train(backbone, examples, tmp_path, plain.model_copy(update=change), name="two")
    assert one.losses == pytest.approx(two.losses, rel=1e-5)
    first, second = arrays(tmp_path / "one"), arrays(tmp_path / "two")
    start = arrays(tmp_path / "init")
    moved = math.sqrt(sum(float(((first[k] - start[k]) ** 2).sum()) for k in first))
    apart = math.sqrt(sum(float(((first[k] - second[k]) ** 2).sum()) for k in first))
    assert apart < 1e-2 * moved


def test_one_step_is_adamw_on_the_mean_over_labels(backbone: Backbone, tmp_path: Path):
    """Against autograd on the model's own forward and PyTorch's plain AdamW."""
    examples = random_examples(3, 12)
    training = TrainingSpec(
        learning_rate=0.01,
        schedule="constant",
        batch_sequences=3,
        max_grad_norm=0.5,
        weight_decay=0.1,
    )
    train(backbone, examples, tmp_path, training)
    model = load_model(backbone)
    parameters = attach_lora(model, LORA, arrays(tmp_path / "init"))
    mean = plain_loss(model, pack(examples, range(3))) / examples.n_labelled
    mean.backward()
    torch.nn.utils.clip_grad_norm_(parameters.values(), 0.5)
    torch.optim.AdamW(parameters.values(), lr=0.01, weight_decay=0.1, fused=False).step()
    trained = arrays(tmp_path / "out")
    for name, parameter in parameters.items():
        expected = parameter.detach().numpy()
        # The first step of Adam is the gradient's sign: where it is 0 up to rounding, any sign is.
        assert np.mean(np.abs(trained[name] - expected) > 1e-5) < 0.01


@pytest.mark.parametrize("schedule", ["cosine", "linear", "constant"])
def test_schedules_are_those_of_transformers(schedule: str):
    from transformers import get_scheduler

    name = {"constant": "constant_with_warmup"}.get(schedule, schedule)
    spec = TrainingSpec(learning_rate=0.3, schedule=schedule, warmup=0.15)
    optimiser = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    scheduler = get_scheduler(name, optimiser, num_warmup_steps=3, num_training_steps=20)
    for step in range(20):
        assert learning_rate(spec, step, 20) == pytest.approx(scheduler.get_last_lr()[0])
        optimiser.step()
        scheduler.step()


def test_a_diverging_training_says_so(backbone: Backbone, tmp_path: Path):
    training = TrainingSpec(epochs=50, learning_rate=1e30, max_grad_norm=None)
    with pytest.raises(
        MethodError, match=r"loss became (nan|inf) in step .* learning_rate \(now 1e"
    ):
        train(backbone, random_examples(4, 10), tmp_path, training)
    assert not (tmp_path / "out").exists()


def test_examples_of_another_tokenizer_are_refused(backbone: Backbone, tmp_path: Path):
    with pytest.raises(MethodError, match="tokenizer of another backbone"):
        train(backbone, random_examples(4, 10, vocabulary=5000), tmp_path)


SCRIPT = """
import logging, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import torch
torch.set_num_threads(1)
from llm_examples import random_examples
from bench.llm.backbones import resolve_backbone
from bench.llm.llama import loss_function
from bench.llm.lora import LoraSpec
from bench.llm.training import TrainingSpec, train_adapter
from bench.methods import QuietProgress
folder = Path({folder!r})
train_adapter(resolve_backbone({backbone!r}), random_examples(7, 40), LoraSpec(r=4, alpha=8),
    TrainingSpec(learning_rate=1e-3, batch_sequences=3), init=folder / "init", order_seed=0,
    out=folder / "out-two", checkpoints=folder / "checkpoints-two", device="cpu", dtype="float32",
    progress=QuietProgress(), log=logging.getLogger("two"))
from bench.llm.processes import processes
group = processes()
(folder / f"process-{{group.rank}}-of-{{group.size}}").touch()
"""


@pytest.mark.slow
def test_two_processes_train_the_adapter_of_one(backbone: Backbone, tmp_path: Path):
    training = TrainingSpec(learning_rate=1e-3, batch_sequences=3)
    train(backbone, random_examples(7, 40), tmp_path, training)
    script = tmp_path / "two.py"
    script.write_text(
        SCRIPT.format(
            tests=str(Path(__file__).parent), folder=str(tmp_path), backbone=str(backbone.folder)
        )
    )
    subprocess.run(
        [
            sys.executable,
            "-m",
            "torch.distributed.run",  # what `accelerate launch` starts for several GPUs
            "--standalone",
            "--nproc-per-node=2",
            str(script),
        ],
        check=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path.cwd())},
    )
    assert len(list(tmp_path.glob("process-*-of-2"))) == 2
    one, two = load_file(weights(tmp_path / "out")), load_file(weights(tmp_path / "out-two"))
    start = arrays(tmp_path / "init")
    moved = math.sqrt(sum(float(((one[k] - start[k]) ** 2).sum()) for k in one))
    apart = math.sqrt(sum(float(((one[k] - two[k]) ** 2).sum()) for k in one))
    assert apart < 1e-2 * moved
