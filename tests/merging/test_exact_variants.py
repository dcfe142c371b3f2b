"""Variants of LoRA that one plain adapter represents exactly, against PEFT on a tiny random Qwen2."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from adapter_inputs import deltas, distance
from test_peft_agreement import TARGETS, logits, tiny_model

from bench.errors import ConfigError
from bench.merging import fold_weights, merge, read_adapter, write_adapter

pytestmark = [
    # PEFT reads an attribute that transformers renamed; neither is ours to change.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # It recommends to save memory.
    pytest.mark.filterwarnings("ignore:lora with eva initialization:UserWarning"),
]

VARIANTS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rslora": {"use_rslora": True},
    "ranks": {"rank_pattern": {"q_proj": 2, r"layers\.1\.mlp\.up_proj": 6}},
    "alphas": {"alpha_pattern": {"v_proj": 20, "model.layers.0.self_attn.q_proj": 1}},
    "all patterns": {
        "use_rslora": True,
        "rank_pattern": {"^model.layers.0.*": 3},
        "alpha_pattern": {"down_proj": 5.5},
    },
    "only patterns": {"rank_pattern": {".*": 3}},
    "repeated groups": {
        "rank_pattern": {r"layers\.([0-9])+\.(\w+\.)+q_proj": 2},
        "alpha_pattern": {r"(.+\.)*layers\.(1|2)+\..*\.(up|down)+_proj": 3},
    },
    "few layers": {"target_modules": ["q_proj", "v_proj"]},
    "one layer": {"layers_to_transform": [1], "target_modules": ["k_proj", "up_proj"]},
    "eva": {
        "init_lora_weights": "eva",
        "eva_config": peft.EvaConfig(),
        "rank_pattern": {"k_proj": 1},
    },
    "mica": {"init_lora_weights": "mica"},
}
WEIGHTS = [0.7, 0.3]


def train(folder: Path, seed: int, **options: Any) -> Path:
    """An adapter of PEFT whose factors were moved at random, in a folder that PEFT writes."""
    values = {"r": 4, "lora_alpha": 8, "target_modules": list(TARGETS), **options}
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        lora = peft.LoraConfig(task_type="CAUSAL_LM", **values)
        model = peft.get_peft_model(tiny_model(), lora)
        for key, weight in model.named_parameters():
            if "lora_" in key:
                weight.data += 0.1 * torch.randn_like(weight)
    model.peft_config["default"].base_model_name_or_path = "tiny/qwen2"
    model.save_pretrained(folder, save_embedding_layers=False)
    return folder


def dense(folder: Path) -> dict[str, torch.Tensor]:
    """What PEFT adds to every weight of the base, float64."""
    base = tiny_model().state_dict()
    folded = peft.PeftModel.from_pretrained(tiny_model(), folder).merge_and_unload().state_dict()
    return {
        name.removesuffix(".weight"): (folded[name] - base[name]).double()
        for name in base
        if not torch.equal(folded[name], base[name])
    }


def mean(parts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    names = {name for part in parts for name in part}
    return {
        name: sum(w * part[name] for w, part in zip(WEIGHTS, parts, strict=True) if name in part)
        for name in names
    }


@pytest.fixture(scope="module", params=VARIANTS)
def folders(request, tmp_path_factory) -> list[Path]:
    """A plain adapter and one of the variant."""
    root = tmp_path_factory.mktemp("variant")
    return [train(root / "plain", 1), train(root / "other", 2, **VARIANTS[request.param])]


@pytest.fixture(scope="module")
def updates(folders) -> list[dict[str, torch.Tensor]]:
    """What PEFT makes of the two."""
    return [dense(folder) for folder in folders]


@pytest.mark.parametrize("order", [1, -1])
def test_the_product_average_is_that_of_peft(folders, updates, order, tmp_path):
    given = folders[::order]
    merged = merge(
        [read_adapter(folder) for folder in given],
        "weight-average",
        {"space": "product", "weights": WEIGHTS},
    )
    expected = mean(updates[::order])
    # PEFT rounds the folded weights, so that the difference has fewer digits than a float32.
    assert distance(merged, expected) < 1e-5
    write_adapter(merged, tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert not (config["rank_pattern"] or config["alpha_pattern"] or config["use_rslora"])
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "out").eval()
    assert len(loaded.targeted_module_names) == len(expected)
    by_hand = tiny_model()
    for name, update in expected.items():
        by_hand.get_submodule(name).weight.data += update.float()
    torch.testing.assert_close(logits(loaded), logits(by_hand), rtol=0, atol=1e-5)


def test_one_adapter_comes_back_as_plain_lora(folders, updates, tmp_path):
    write_adapter(read_adapter(folders[1]), tmp_path / "plainer")
    assert distance(read_adapter(tmp_path / "plainer"), updates[1]) < 1e-5
    once, again = (
        peft.PeftModel.from_pretrained(tiny_model(), folder).eval()
        for folder in (folders[1], tmp_path / "plainer")
    )
    torch.testing.assert_close(logits(once), logits(again), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("method", "config"),
    [
        ("task-arithmetic", {"scale": 1.0, "weights": WEIGHTS}),
        ("ties", {"space": "product", "density": 1}),
        ("dare", {"space": "product", "drop_rate": 0.0, "weights": WEIGHTS}),
        ("ext-sub", {}),
    ],
    ids=str,
)
def test_every_method_on_products_takes_them(folders, updates, method, config):
    merged = merge([read_adapter(folder) for folder in folders], method, config)
    zero = {name: torch.zeros_like(value) for part in updates for name, value in part.items()}
    one, two = ({**zero, **part} for part in updates)
    if method == "ties":
        expected = {name: literal_ties(one[name], two[name]) for name in zero}
    elif method == "ext-sub":
        expected = {name: literal_ext_sub(one[name], two[name]) for name in zero}
    else:
        expected = {name: WEIGHTS[0] * one[name] + WEIGHTS[1] * two[name] for name in zero}
    # The mean of what agrees has full rank; it is cut to the sum of the ranks.
    assert distance(merged, expected) < (0.8 if method == "ties" else 1e-4)
    if method == "ties":
        assert merged.metadata["truncation"]["relative_error"] == pytest.approx(
            distance(merged, expected), rel=0.01
        )


def literal_ties(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    both = torch.stack([one, two])
    agrees = (torch.sign(both.sum(0)) * both) > 0
    return (both * agrees).sum(0) / agrees.sum(0).clamp(min=1)


def literal_ext_sub(one: torch.Tensor, two: torch.Tensor) -> torch.Tensor:
    """w1 - (w2 - its part along the common direction), row by row; nothing is common to zero."""
    u, v = (torch.nn.functional.normalize(part, dim=1) for part in (one, two))
    c = torch.nn.functional.normalize(u + v, dim=1)
    common = (two * c).sum(1, keepdim=True) * c
    result = one - two + common
    empty = one.norm(dim=1) == 0
    result[empty] = (one - 0.5 * two)[empty]
    return result


def test_a_mean_of_factors_has_no_place_for_a_missing_module(tmp_path):
    given = [
        read_adapter(train(tmp_path / "one", 1)),
        read_adapter(train(tmp_path / "two", 2, target_modules=["q_proj"])),
    ]
    with pytest.raises(ConfigError, match="space=product"):
        merge(given, "weight-average", assume_shared_init=True)
    merged = merge(given, "weight-average", {"space": "product"})
    assert any("its update of the others is zero" in note for note in merged.metadata["warnings"])


def test_factors_of_one_rank_pattern_are_averaged(tmp_path):
    options = {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"q_proj": 4}}
    given = [read_adapter(train(tmp_path / str(seed), seed, **options)) for seed in (1, 2)]
    merged = merge(given, "weight-average", assume_shared_init=True)
    for module in merged.modules:
        pairs = [one.factors[module] for one in given]
        a, b = (sum(half) / 2 for half in zip(*pairs, strict=True))
        torch.testing.assert_close(merged.delta(module), 2.0 * b @ a, rtol=0, atol=1e-6)
    plain = read_adapter(train(tmp_path / "plain", 3))
    with pytest.raises(ConfigError, match=r"rank 2, .*rank 4 in module .*q_proj"):
        merge([given[0], plain], "weight-average", assume_shared_init=True)


def test_weights_by_module_fold_over_all_modules(tmp_path):
    folders = [
        train(tmp_path / "one", 1),
        train(tmp_path / "two", 2, target_modules=["q_proj"], use_rslora=True),
    ]
    given = [read_adapter(folder) for folder in folders]
    merged = fold_weights(given, dict.fromkeys(given[0].modules, WEIGHTS))
    assert distance(merged, mean([dense(folder) for folder in folders])) < 1e-5


def test_mixed_formats_merge_in_the_default_format(tmp_path):
    folders = [train(tmp_path / str(seed), seed) for seed in (1, 2)]
    given = [read_adapter(folder) for folder in folders]
    short = tmp_path / "short"
    write_adapter(merge([given[1]], "task-arithmetic", {"scale": 1.0}, dtype="bfloat16"), short)
    two = read_adapter(short)
    assert two.dtype == torch.bfloat16
    merged = merge([given[0], two], "weight-average", {"space": "product", "weights": WEIGHTS})
    one, other = deltas(given[0]), deltas(two)
    expected = {name: WEIGHTS[0] * one[name] + WEIGHTS[1] * other[name] for name in one}
    assert distance(merged, expected) < 1e-6
