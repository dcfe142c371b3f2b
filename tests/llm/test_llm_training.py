from __future__ import annotations

import json
import logging
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from llm_examples import LOG, make_examples, random_examples
from safetensors.numpy import load_file

from bench.errors import MethodError
from bench.io import sha256_file
from bench.llm.backbones import Backbone, load_model, resolve_backbone
from bench.llm.batching import pack
from bench.llm.examples import Examples
from bench.llm.fast_model import is_known, loss_function, plain_loss
from bench.llm.lora import LoraSpec, adapter_hash, attach_lora, read_adapter, write_init
from bench.llm.training import TrainingReport, TrainingSpec, learning_rate, train_adapter
from bench.methods import QuietProgress

# peft asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

LORA = LoraSpec(r=4, alpha=8)
FAST = TrainingSpec(epochs=2, learning_rate=0.02, batch_sequences=4)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def backbone(tiny_llama: Path) -> Backbone:
    return resolve_backbone(str(tiny_llama))


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


def train(
    backbone: Backbone,
    examples: Examples,
    folder: Path,
    training: TrainingSpec = FAST,
    *,
    lora: LoraSpec = LORA,
    name: str = "out",
    order_seed: int = 0,
    dtype: str = "float32",
    progress: QuietProgress | None = None,
    checkpoint_seconds: float = 1e9,
    **base: object,
) -> TrainingReport:
    if not (folder / "init").exists():
        write_init(backbone, lora, 0, folder / "init")
    return train_adapter(
        backbone,
        examples,
        lora,
        training,
        init=folder / "init",
        order_seed=order_seed,
        out=folder / name,
        checkpoints=folder / "checkpoints",
        device="cpu",
        dtype=dtype,
        progress=progress or QuietProgress(),
        log=LOG,
        checkpoint_seconds=checkpoint_seconds,
        **base,
    )


def weights(folder: Path) -> Path:
    return folder / "adapter_model.safetensors"


def planted(n: int = 16, n_items: int = 4) -> Examples:
    """Prompts whose last token decides the three tokens of the answer."""
    rng = np.random.default_rng(0)
    sequences = []
    for i in range(n):
        last = i % n_items
        history = rng.integers(10, 10 + n_items, 5).tolist()
        answer = [30 + 7 * last, 40 + (last * 5) % n_items, 2]
        sequences.append([*history, 10 + last, 9, *answer])
    return make_examples(sequences, [7] * n)


def gradients(model, loss_of, packed) -> tuple[float, dict[str, torch.Tensor]]:
    parameters = {n: p for n, p in model.named_parameters() if p.requires_grad}
    for p in parameters.values():
        p.grad = None
    loss = loss_of(packed)
    loss.backward()
    return float(loss.detach()), {n: p.grad.clone() for n, p in parameters.items()}


def random_adapter(model, lora: LoraSpec, folder: Path, backbone: Backbone) -> None:
    write_init(backbone, lora, 0, folder)
    rng = np.random.default_rng(3)
    factors = {
        n: a if "lora_A" in n else rng.normal(0, 0.1, a.shape).astype(np.float32)
        for n, a in read_adapter(folder).items()
    }
    attach_lora(model, lora, factors)


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_qwen2"])
@pytest.mark.parametrize("targets", ["all-linear", ("q_proj", "v_proj", "down_proj")])
@pytest.mark.parametrize("gradient_checkpointing", [False, True])
def test_packed_sequences_have_the_loss_and_gradients_of_the_models_own_padded_forward(
    architecture: str, targets, gradient_checkpointing: bool, request, tmp_path: Path
):
    backbone = resolve_backbone(str(request.getfixturevalue(architecture)))
    model = load_model(backbone)
    random_adapter(model, LoraSpec(r=4, targets=targets), tmp_path, backbone)
    assert is_known(model)
    packed = pack(random_examples(6, 280), range(6))
    loss, own = gradients(model, lambda p: plain_loss(model, p), packed)
    fast = loss_function(model, gradient_checkpointing=gradient_checkpointing)
    packed_loss, mine = gradients(model, fast, packed)
    assert packed_loss == pytest.approx(loss, rel=1e-6)
    assert mine.keys() == own.keys()
    for name, gradient in own.items():
        torch.testing.assert_close(
            mine[name], gradient, rtol=1e-4, atol=1e-5 * gradient.abs().max()
        )


def test_packing_equals_separate_sequences(backbone: Backbone, tmp_path: Path):
    model = load_model(backbone)
    random_adapter(model, LORA, tmp_path, backbone)
    loss_of = loss_function(model)
    examples = random_examples(5, 40)
    with torch.no_grad():
        together = float(loss_of(pack(examples, range(5))))
        apart = sum(float(loss_of(pack(examples, [i]))) for i in range(5))
    assert together == pytest.approx(apart, abs=1e-5 * examples.n_labelled)


def test_another_family_is_trained_by_its_own_forward(tmp_path: Path, tiny_llama: Path):
    from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen3Config

    config = Qwen3Config(
        vocab_size=384,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        initializer_range=0.3,
        pad_token_id=0,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path / "qwen3")
    AutoTokenizer.from_pretrained(tiny_llama).save_pretrained(tmp_path / "qwen3")
    backbone = resolve_backbone(str(tmp_path / "qwen3"))
    assert not is_known(load_model(backbone))
    training = TrainingSpec(epochs=12, learning_rate=0.01)
    report = train(backbone, planted(), tmp_path, training)
    assert report.losses[-1] < 0.9 * report.losses[0]


def test_the_base_is_loaded_as_it_is_asked_for(backbone: Backbone, tmp_path: Path, monkeypatch):
    """A quantised base (here one that only says so) is prepared and trained by its own forward."""
    from bench.llm import backbones

    class Packed(torch.nn.Linear):
        """Like bitsandbytes' layers: a linear layer by type, but no plain one."""

    asked = []

    def load(which: Backbone, **settings: object):
        asked.append(settings)
        model = load_model(which, dtype=str(settings["dtype"]))
        if settings["quantisation"]:
            model.is_loaded_in_4bit = True
            for module in list(model.modules()):
                if type(module) is torch.nn.Linear and module is not model.lm_head:
                    module.__class__ = Packed
        return model

    monkeypatch.setattr(backbones, "load_model", load)
    examples = random_examples(8, 20)
    plain = train(backbone, examples, tmp_path, name="plain", dtype="bfloat16")
    quantised = train(
        backbone,
        examples,
        tmp_path,
        name="packed",
        dtype="bfloat16",
        attention="eager",
        quantisation="4bit",
    )
    assert [(s["attention"], s["quantisation"]) for s in asked] == [
        ("sdpa", None),
        ("eager", "4bit"),
    ]
    assert quantised.losses == pytest.approx(plain.losses, rel=0.05)
    assert quantised.losses != plain.losses
    assert read_adapter(tmp_path / "packed").keys() == read_adapter(tmp_path / "plain").keys()


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
    attach_lora(model, LORA, read_adapter(tmp_path / "out"))
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
    assert adapter_hash(tmp_path / "init") == digest
    start = read_adapter(tmp_path / "init")
    for name in "ac":
        moved = read_adapter(tmp_path / name)
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
    first, second = read_adapter(tmp_path / "one"), read_adapter(tmp_path / "two")
    start = read_adapter(tmp_path / "init")
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
    parameters = attach_lora(model, LORA, read_adapter(tmp_path / "init"))
    mean = plain_loss(model, pack(examples, range(3))) / examples.n_labelled
    mean.backward()
    torch.nn.utils.clip_grad_norm_(parameters.values(), 0.5)
    torch.optim.AdamW(parameters.values(), lr=0.01, weight_decay=0.1, fused=False).step()
    trained = read_adapter(tmp_path / "out")
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
from bench.llm.lora import LoraSpec
from bench.llm.training import TrainingSpec, train_adapter
from bench.methods import QuietProgress
folder = Path({folder!r})
train_adapter(resolve_backbone({backbone!r}), random_examples(7, 40), LoraSpec(r=4, alpha=8),
    TrainingSpec(learning_rate=1e-3, batch_sequences=3), init=folder / "init", order_seed=0,
    out=folder / "out-two", checkpoints=folder / "checkpoints-two", device="cpu", dtype="float32",
    progress=QuietProgress(), log=logging.getLogger("two"))
from accelerate import PartialState
state = PartialState()
(folder / f"process-{{state.process_index}}-of-{{state.num_processes}}").touch()
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
    start = read_adapter(tmp_path / "init")
    moved = math.sqrt(sum(float(((one[k] - start[k]) ** 2).sum()) for k in one))
    apart = math.sqrt(sum(float(((one[k] - two[k]) ** 2).sum()) for k in one))
    assert apart < 1e-2 * moved
