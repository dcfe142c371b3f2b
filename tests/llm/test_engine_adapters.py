"""Reading PEFT folders: what PEFT computes, or a clear refusal."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from test_engine_scoring import load, sample, separate, worst, write_adapter

from bench.errors import ResultError
from bench.llm.engines.transformers import TransformersEngine

pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture
def adapter(tiny_llama: Path, tmp_path: Path) -> Path:
    return write_adapter(tmp_path / "adapter", tiny_llama, 0)


def score(engine: TransformersEngine, folder: Path | None) -> list[np.ndarray]:
    prompts, branches = sample(n=2, n_branches=6)
    return engine.branch_log_probs(prompts, branches, adapter=folder)


@pytest.mark.parametrize(
    "options",
    [
        {"target_modules": ["q_proj", "v_proj"]},
        {"target_modules": ["k_proj", "up_proj", "down_proj", "o_proj"], "use_rslora": True},
        {"rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6}},
        {"alpha_pattern": {"v_proj": 20, "layers.0.self_attn.q_proj": 1}},
    ],
    ids=["few layers", "rank-stabilised", "ranks", "alphas"],
)
def test_variants_of_lora_score_as_in_peft(
    tiny_qwen2: Path, tmp_path: Path, options: dict[str, object]
) -> None:
    folder = write_adapter(tmp_path / "adapter", tiny_qwen2, 1, **options)
    reference = PeftModel.from_pretrained(load(tiny_qwen2), folder)
    prompts, branches = sample(n=2, n_branches=6)
    expected = separate(reference, prompts, branches)
    engine = TransformersEngine(load(tiny_qwen2))
    assert worst(score(engine, folder), expected) < 1e-4
    assert worst(score(engine, None), expected) > 0.1
    engine._llama = None
    assert worst(score(engine, folder), expected) < 1e-4


def test_a_rewritten_adapter_is_read_again(tiny_llama: Path, adapter: Path) -> None:
    engine = TransformersEngine(load(tiny_llama))
    before = score(engine, adapter)
    base = score(engine, None)
    tensors = load_file(adapter / WEIGHTS)
    # One more tensor entry changes the size even where the clock is too coarse for the time.
    save_file(
        {name: torch.zeros_like(t) for name, t in tensors.items()},
        adapter / WEIGHTS,
        metadata={"written": "again"},
    )
    assert worst(score(engine, adapter), base) < 1e-5
    assert worst(before, base) > 1


def test_more_adapters_than_are_kept(tiny_llama: Path, tmp_path: Path) -> None:
    engine = TransformersEngine(load(tiny_llama))
    folders = [write_adapter(tmp_path / str(seed), tiny_llama, seed) for seed in range(10)]
    first = [score(engine, folder) for folder in folders]
    assert len(engine._adapters) < len(folders)
    for folder, expected in zip(folders, first, strict=True):
        assert all(
            np.array_equal(a, b) for a, b in zip(score(engine, folder), expected, strict=True)
        )


def edit_config(folder: Path, **changes: object) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_weights(folder: Path, change) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def first_key(tensors: dict, part: str) -> str:
    return next(name for name in sorted(tensors) if part in name)


def drop_one(tensors: dict) -> None:
    del tensors[first_key(tensors, "lora_B")]


def widen_one(tensors: dict) -> None:
    name = first_key(tensors, "q_proj.lora_A")
    tensors[name] = torch.zeros(4, 33)


def spoil_one(tensors: dict) -> None:
    tensors[first_key(tensors, "lora_B")][0, 0] = float("nan")


def rename_layer(tensors: dict) -> None:
    for name in [name for name in tensors if "layers.1." in name]:
        tensors[name.replace("layers.1.", "layers.7.")] = tensors.pop(name)


def adapt_head(tensors: dict) -> None:
    tensors["base_model.model.lm_head.lora_A.weight"] = torch.zeros(4, 32)
    tensors["base_model.model.lm_head.lora_B.weight"] = torch.zeros(384, 4)


def add_magnitude(tensors: dict) -> None:
    tensors[first_key(tensors, "lora_A").replace("lora_A.weight", "lora_magnitude_vector")] = (
        torch.ones(3)
    )


def remove_weights(folder: Path) -> None:
    (folder / WEIGHTS).unlink()


def remove_config(folder: Path) -> None:
    (folder / "adapter_config.json").unlink()


def cut_weights(folder: Path) -> None:
    path = folder / WEIGHTS
    path.write_bytes(path.read_bytes()[:500])


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (remove_weights, "adapter_model.safetensors is missing"),
        (remove_config, "adapter_config.json"),
        (cut_weights, "cannot be read"),
        (lambda f: edit_config(f, peft_type="LOHA"), "peft_type 'LOHA', not 'LORA'"),
        (lambda f: edit_config(f, lora_alpha=None), "lora_alpha is None; expected a valid number"),
        (lambda f: edit_config(f, use_dora=True), "sets use_dora to True"),
        (lambda f: edit_config(f, bias="all"), "sets bias to 'all'"),
        (lambda f: edit_config(f, modules_to_save=["lm_head"]), "sets modules_to_save"),
        (lambda f: edit_weights(f, drop_one), "has one factor of two"),
        (lambda f: edit_weights(f, widen_one), r"\(4, 33\).*maps 32 to 32"),
        (lambda f: edit_weights(f, spoil_one), "holds NaN or infinity"),
        (lambda f: edit_weights(f, rename_layer), "layers.7.*which the model does not have"),
        (lambda f: edit_weights(f, adapt_head), "adapts lm_head"),
        (lambda f: edit_weights(f, add_magnitude), "unexpected tensor .*lora_magnitude_vector"),
        (lambda f: edit_weights(f, dict.clear), "holds no factors"),
    ],
    ids=lambda value: value.replace(" ", "-") if isinstance(value, str) else "",
)
def test_a_folder_that_is_no_fitting_adapter_is_refused(
    tiny_llama: Path, adapter: Path, damage, message: str
) -> None:
    damage(adapter)
    engine = TransformersEngine(load(tiny_llama))
    with pytest.raises(ResultError, match=message) as refused:
        score(engine, adapter)
    assert str(adapter) in str(refused.value)
    with pytest.raises(ResultError, match=message):
        engine.generate(
            [np.array([5], dtype=np.int32)], max_new_tokens=[1], stop=[], adapter=adapter
        )
    assert np.isfinite(np.concatenate(score(engine, None))).all()
