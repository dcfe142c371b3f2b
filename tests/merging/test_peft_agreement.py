"""Against PEFT on a tiny random Qwen2: forward passes, and its own merges where meanings agree."""

from __future__ import annotations

from dataclasses import replace

import peft
import pytest
import torch
import transformers
from adapter_inputs import deltas, distance

from bench.merging import Adapter, AdapterConfig, Factors, merge, read_adapter, write_adapter

pytestmark = [
    # PEFT reads an attribute that transformers renamed; neither is ours to change.
    pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"),
    # A density of 1 is what makes results comparable; PEFT asks whether it is meant.
    pytest.mark.filterwarnings("ignore:The density 1.0 is greater than or equal to 1:UserWarning"),
]

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
RANK = 4
NAMES = ["one", "two", "three"]


def tiny_model() -> torch.nn.Module:
    """Two layers with grouped key heads, so that modules have different d_out."""
    config = transformers.Qwen2Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
    )
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return transformers.Qwen2ForCausalLM(config).eval()


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Three adapters saved by PEFT itself, from one A with drift and with random B."""
    root = tmp_path_factory.mktemp("trained")
    saved = []
    for seed, name in enumerate(NAMES):
        lora = peft.LoraConfig(
            r=RANK, lora_alpha=2 * RANK, target_modules=list(TARGETS), task_type="CAUSAL_LM"
        )
        with torch.random.fork_rng():
            torch.manual_seed(1)
            model = peft.get_peft_model(tiny_model(), lora)
            torch.manual_seed(10 + seed)
            for key, weight in model.named_parameters():
                if "lora_A" in key:
                    weight.data += 0.05 * torch.randn_like(weight)
                elif "lora_B" in key:
                    weight.data = 0.1 * torch.randn_like(weight)
        model.peft_config["default"].base_model_name_or_path = "tiny/qwen2"
        # Otherwise PEFT looks the base model up on the network.
        model.save_pretrained(root / name, save_embedding_layers=False)
        saved.append(root / name)
    return saved


@pytest.fixture
def given(folders) -> list[Adapter]:
    return [read_adapter(folder) for folder in folders]


def logits(model) -> torch.Tensor:
    with torch.no_grad():
        return model(torch.arange(24).reshape(2, 12)).logits


def from_peft(folders, weights, kind: str, **options) -> Adapter:
    """What add_weighted_adapter makes of the folders, as an adapter in memory."""
    model = peft.PeftModel.from_pretrained(tiny_model(), folders[0], adapter_name=NAMES[0])
    for folder, name in zip(folders[1:], NAMES[1:], strict=False):
        model.load_adapter(folder, adapter_name=name)
    names = NAMES[: len(folders)]
    model.add_weighted_adapter(names, weights, "merged", combination_type=kind, **options)
    config = model.peft_config["merged"]
    state = peft.get_peft_model_state_dict(
        model, adapter_name="merged", save_embedding_layers=False
    )
    prefix, halves = "base_model.model.", (".lora_A.weight", ".lora_B.weight")
    modules = {key.removeprefix(prefix).removesuffix(halves[0]) for key in state if "lora_A" in key}
    factors = {
        module: Factors(*(state[f"{prefix}{module}{half}"] for half in halves))
        for module in modules
    }
    return Adapter(factors, AdapterConfig(config.r, float(config.lora_alpha)))


MERGES = [
    ("weight-average", {}),
    ("weight-average", {"space": "product"}),
    ("task-arithmetic", {}),
    ("ties", {}),
    ("ties", {"space": "product", "rank": 6}),
    ("dare", {}),
    ("dare", {"space": "product"}),
    ("dare", {"inner": "ties"}),
    ("ext-sub", {}),
    ("ext-sub", {"mode": "add_common"}),
    ("lora-lego", {}),
    ("lora-lego", {"normalise_halves": True}),
    ("lora-lego", {"k": 5}),
]


@pytest.mark.parametrize(("method", "config"), MERGES, ids=str)
def test_written_loaded_and_folded_adapters_compute_the_same(given, tmp_path, method, config):
    """The in-memory update, PEFT on the folder, and PEFT's merged base agree."""
    merged = merge(given, method, config, assume_shared_init=True)
    write_adapter(merged, tmp_path / "out")
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "out").eval()
    by_adapter = logits(loaded)
    assert float((by_adapter - logits(tiny_model())).abs().max()) > 1e-3

    dense = tiny_model()
    for module in merged.modules:
        dense.get_submodule(module).weight.data += merged.delta(module)
    torch.testing.assert_close(by_adapter, logits(dense), rtol=0, atol=1e-5)
    torch.testing.assert_close(by_adapter, logits(loaded.merge_and_unload()), rtol=0, atol=1e-5)
    assert read_adapter(tmp_path / "out").content_hash == merged.content_hash


def test_adapters_saved_by_peft_have_no_known_initialisation(given):
    assert all(one.config.init_hash is None for one in given)
    assert given[0].config.base_model == "tiny/qwen2"
    assert len(given[0].modules) == 14


def test_cat_is_the_product_average(folders, given):
    weights = [0.2, 0.5, 0.3]
    expected = from_peft(folders, weights, "cat")
    found = merge(given, "weight-average", {"space": "product", "weights": weights})
    assert distance(found, deltas(expected)) < 1e-6


def test_cat_with_any_weights_is_task_arithmetic(folders, given):
    weights = [1.0, -0.5, 0.3]
    expected = from_peft(folders, weights, "cat")
    found = merge(given, "task-arithmetic", {"scale": 1.0, "weights": weights})
    assert distance(found, deltas(expected)) < 1e-6


def test_linear_with_squared_weights_is_the_factor_average(folders, given):
    weights = [0.2, 0.5, 0.3]
    expected = from_peft(folders, [weight**2 for weight in weights], "linear")
    found = merge(given, "weight-average", {"weights": weights}, assume_shared_init=True)
    assert distance(found, deltas(expected)) < 1e-5


def test_svd_of_full_rank_is_exact_and_of_lower_rank_the_same_cut(folders, given):
    weights = [0.2, 0.5, 0.3]
    config = {"space": "product", "weights": weights}
    full = from_peft(folders, weights, "svd", svd_rank=3 * RANK)
    assert distance(merge(given, "weight-average", config), deltas(full)) < 1e-5
    cut = from_peft(folders, weights, "svd", svd_rank=RANK)
    found = merge(given, "weight-average", {**config, "rank": RANK})
    assert distance(found, deltas(cut)) < 1e-4
    assert distance(cut, deltas(full)) == pytest.approx(
        found.metadata["truncation"]["relative_error"], rel=1e-3
    )


def test_ties_svd_with_weights_of_one_is_ties_on_products(folders, given):
    for rank in (16, 5):  # PEFT cannot exceed a module's smaller dimension, here 16
        expected = from_peft(folders, [1.0] * 3, "ties_svd", density=1.0, svd_rank=rank)
        config = {"space": "product", "density": 1, "rank": rank}
        assert distance(merge(given, "ties", config), deltas(expected)) < 2e-3


def test_ties_with_weights_of_one_is_ties_on_factors(folders, given):
    """PEFT spreads the scaling over both factors; elections and means do not notice."""
    expected = from_peft(folders, [1.0] * 3, "ties", density=1.0)
    found = merge(given, "ties", {"density": 1}, assume_shared_init=True)
    assert distance(found, deltas(expected)) < 1e-5


def test_ties_trims_as_peft_does_but_for_one_entry(folders, given):
    """Per tensor PEFT keeps floor(density n) entries, the authors' rule here one more."""
    few = [
        replace(one, factors={name: pair for name, pair in one.factors.items() if "q_proj" in name})
        for one in given
    ]
    n = few[0].factors[few[0].modules[0]].a.numel()
    expected = from_peft(folders, [1.0] * 3, "ties", density=0.5)
    found = merge(few, "ties", {"density": (n / 2 - 0.5) / n}, assume_shared_init=True)
    assert len(found.modules) == 2
    assert distance(found, {name: deltas(expected)[name] for name in found.modules}) < 1e-5
    other = merge(few, "ties", {"density": 0.5}, assume_shared_init=True)
    assert distance(other, {name: deltas(expected)[name] for name in other.modules}) > 1e-5


@pytest.mark.parametrize(
    ("kind", "options", "ratio"),
    [
        ("linear", {}, 2.0),
        ("ties", {"density": 1.0}, 0.5),
        ("dare_linear", {"density": 1.0}, 2.0),
        ("dare_ties", {"density": 1.0}, 0.5),
        ("cat", {}, 1.0),
        ("svd", {}, 1.0),
        ("ties_svd", {"density": 1.0}, 0.5),
    ],
)
def test_the_documented_ratios_of_two_copies(folders, given, kind, options, ratio):
    """Two copies at weight 1/2 each: what docs/merging.md says PEFT makes of them."""
    twice = from_peft([folders[0], folders[0]], [0.5, 0.5], kind, **options)
    one = deltas(given[0])
    assert distance(twice, {name: ratio * value for name, value in one.items()}) < 1e-4
    ours = {"linear": "weight-average", "cat": "task-arithmetic", "svd": "task-arithmetic"}
    config = {"scale": 0.5} if kind in {"cat", "svd"} else {}
    if "ties" not in kind and "dare" not in kind:
        merged = merge([given[0]] * 2, ours[kind], config, assume_shared_init=True)
        assert distance(merged, one) < 1e-6


def test_a_target_pattern_is_kept(given, tmp_path):
    """Adapters that PEFT finds by a pattern are found by it again."""
    pattern = r".*\.(q_proj|v_proj)"
    some = [
        replace(
            one,
            factors={
                key: pair for key, pair in one.factors.items() if key[-6:] in ("q_proj", "v_proj")
            },
            config=replace(one.config, peft={"target_modules": pattern, "task_type": "CAUSAL_LM"}),
        )
        for one in given
    ]
    write_adapter(merge(some, "task-arithmetic"), tmp_path / "out")
    loaded = peft.PeftModel.from_pretrained(tiny_model(), tmp_path / "out")
    assert loaded.peft_config["default"].target_modules == pattern
