from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from llm_trainings import arrays
from pydantic import ValidationError
from safetensors.numpy import load_file
from transformers import AutoModelForCausalLM, GPT2Config

from bench.errors import ConfigError, ResultError
from bench.io import hash_arrays, sha256_file
from bench.llm.backbones import load_model, resolve_backbone
from bench.llm.lora import (
    LoraSpec,
    attach_lora,
    initial_factors,
    target_modules,
    write_adapter,
    write_init,
)

# peft asks transformers for a property under its old name.
pytestmark = pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

LORA = LoraSpec(r=4, alpha=8)
SHAPES = {"a.q_proj": (6, 8), "b.up_proj": (10, 8)}


def test_the_settings_refuse_nonsense():
    for wrong in ({"r": 0}, {"alpha": 0}, {"dropout": 1.0}, {"rank": 4}):
        with pytest.raises(ValidationError):
            LoraSpec(**wrong)


def test_the_draw_of_a_module_depends_on_its_name_and_the_seed_alone():
    both = initial_factors(SHAPES, LORA, 0)
    alone = initial_factors({"b.up_proj": (10, 8)}, LORA, 0)
    turned = initial_factors(dict(reversed(SHAPES.items())), LORA, 0)
    for name, array in alone.items():
        assert np.array_equal(array, both[name])
    assert {n: a.tobytes() for n, a in both.items()} == {n: a.tobytes() for n, a in turned.items()}
    other_seed = initial_factors(SHAPES, LORA, 1)
    key = "base_model.model.a.q_proj.lora_A.weight"
    assert not np.array_equal(both[key], other_seed[key])
    assert not np.array_equal(both[key], both[key.replace("a.q_proj", "b.up_proj")])


def test_a_is_kaiming_uniform_and_b_is_zero():
    factors = initial_factors({"m": (5, 400)}, LoraSpec(r=64), 3)
    a = factors["base_model.model.m.lora_A.weight"]
    bound = 1 / math.sqrt(400)
    assert a.dtype == np.float32
    assert a.shape == (64, 400)
    assert np.abs(a).max() <= bound
    assert abs(a.std() - bound / math.sqrt(3)) < 0.01 * bound
    assert abs(a.mean()) < 0.02 * bound
    assert not factors["base_model.model.m.lora_B.weight"].any()


def test_drawing_leaves_the_generators_alone(tiny_llama: Path, tmp_path: Path):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002 - the global generator is what must not move
    expected = torch.rand(1), np.random.rand()  # noqa: NPY002
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    backbone = resolve_backbone(str(tiny_llama))
    write_init(backbone, LORA, 0, tmp_path / "init")
    attach_lora(load_model(backbone), LORA, arrays(tmp_path / "init"))
    assert (torch.rand(1), np.random.rand()) == expected  # noqa: NPY002


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_qwen2"])
def test_all_linear_is_what_peft_means_by_it(architecture: str, request: pytest.FixtureRequest):
    from peft import LoraConfig, TaskType, get_peft_model

    backbone = resolve_backbone(str(request.getfixturevalue(architecture)))
    mine = set(target_modules(load_model(backbone), LORA))
    peft = get_peft_model(
        load_model(backbone),
        LoraConfig(target_modules="all-linear", task_type=TaskType.CAUSAL_LM),
    )
    theirs = {
        name.removeprefix("base_model.model.").removesuffix(".lora_A.default")
        for name, _ in peft.named_modules()
        if name.endswith("lora_A.default")
    }
    assert mine == theirs
    assert len(mine) == 2 * 7


def test_targets_by_name(tiny_llama: Path):
    model = load_model(resolve_backbone(str(tiny_llama)))
    found = target_modules(model, LoraSpec(targets=("q_proj", "v_proj")))
    assert {name.rpartition(".")[2] for name in found} == {"q_proj", "v_proj"}
    with pytest.raises(ConfigError, match=r"qproj.*Expected 'all-linear' or some of .*q_proj"):
        target_modules(model, LoraSpec(targets=("qproj",)))


def test_the_stored_initialisation_is_a_peft_adapter_that_changes_nothing(
    tiny_llama: Path, tmp_path: Path
):
    from peft import PeftModel

    backbone = resolve_backbone(str(tiny_llama))
    digest = write_init(backbone, LORA, 0, tmp_path / "one")
    assert digest == hash_arrays(arrays(tmp_path / "one"))
    assert write_init(backbone, LORA, 0, tmp_path / "two") == digest
    for name in ("adapter_model.safetensors", "adapter_config.json"):
        assert sha256_file(tmp_path / "one" / name) == sha256_file(tmp_path / "two" / name)
    assert write_init(backbone, LORA, 1, tmp_path / "three") != digest
    ids = torch.tensor([[5, 6, 7, 8]])
    base = load_model(backbone)
    with torch.no_grad():
        expected = base(ids).logits
        adapted = PeftModel.from_pretrained(base, tmp_path / "one")(ids).logits
    assert torch.equal(adapted, expected)


def test_peft_reads_back_every_factor(tiny_qwen2: Path, tmp_path: Path):
    from peft import PeftModel
    from peft.tuners.lora import LoraLayer

    backbone = resolve_backbone(str(tiny_qwen2))
    model = load_model(backbone)
    modules = target_modules(model, LORA)
    rng = np.random.default_rng(0)
    factors = {
        n: rng.normal(size=a.shape).astype(np.float32)
        for n, a in initial_factors(modules, LORA, 0).items()
    }
    write_adapter(tmp_path / "a", factors, LORA, modules, base="tiny")
    peft = PeftModel.from_pretrained(model, tmp_path / "a")
    state = peft.state_dict()
    for name, array in factors.items():
        stored = state[name.replace(".weight", ".default.weight")]
        assert np.array_equal(stored.numpy(), array)
    layers = [m for m in peft.modules() if isinstance(m, LoraLayer)]
    assert [layer.scaling for layer in layers] == [{"default": 2.0}] * 14
    assert set(load_file(tmp_path / "a" / "adapter_model.safetensors")) == set(factors)


def test_factors_of_another_shape_are_refused(tiny_llama: Path, tmp_path: Path):
    backbone = resolve_backbone(str(tiny_llama))
    write_init(backbone, LORA, 0, tmp_path / "init")
    with pytest.raises(
        ResultError, match=r"does not fit: 28 of 28 .*found \(4, 64\), expected \(8, 64\)"
    ):
        attach_lora(load_model(backbone), LoraSpec(r=8), arrays(tmp_path / "init"))


def test_a_model_without_linear_layers_is_refused():
    model = AutoModelForCausalLM.from_config(
        GPT2Config(vocab_size=384, n_embd=32, n_layer=1, n_head=4, bos_token_id=1, eos_token_id=2)
    )
    with pytest.raises(ConfigError, match="GPT2LMHeadModel has no linear layer"):
        target_modules(model, LoraSpec())
