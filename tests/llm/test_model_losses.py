"""The loss of packed sequences against the model's own forward, and models that have only that."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from llm_examples import random_examples
from llm_trainings import LORA, PEFT_WARNING, arrays, planted, train

from bench.llm.backbones import Backbone, load_model, resolve_backbone
from bench.llm.batching import pack
from bench.llm.llama import is_known, loss_function
from bench.llm.lora import LoraSpec, attach_lora, write_init
from bench.llm.own_forward import plain_loss
from bench.llm.training import TrainingSpec

pytestmark = [PEFT_WARNING, pytest.mark.usefixtures("one_thread")]


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
        for n, a in arrays(folder).items()
    }
    attach_lora(model, lora, factors)


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_mistral", "tiny_qwen2"])
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
    twice = training.model_copy(update={"gradient_checkpointing": True})
    assert train(backbone, planted(), tmp_path, twice, name="twice").losses == report.losses


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
    assert arrays(tmp_path / "packed").keys() == arrays(tmp_path / "plain").keys()
