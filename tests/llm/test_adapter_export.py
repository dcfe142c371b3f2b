"""Exported adapters: whole for PEFT, with a card, and nothing private."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from adapter_makers import BEAUTY, SPORTS, Maker, parents, recipe, write

from bench.errors import ConfigError, ResultError
from bench.llm.adapter_files import CONFIG, METADATA, WEIGHTS
from bench.llm.adapters import AdapterStore, MergedSpec, MixturePart


def secretive(store: AdapterStore):
    """An adapter whose every free-text corner holds something that must not leave."""
    spec = recipe(
        BEAUTY,
        SPORTS,
        backbone="/home/secret/models/toy-model",
        template="/home/secret/prompt.j2",
    )

    def make(out: Path, checkpoints: Path):
        write(out, 5.0, base_model_name_or_path="/home/secret/models/toy-model")
        (out / "README.md").write_text("secret card")
        (out / METADATA).write_text(json.dumps({"inputs": ["/home/secret/a"], "error": 0.5}))
        return {
            "loss": [2.0, 1.0],
            "examples": ["secret title"],
            "nested": {"user": "secret", "steps": 3},
        }

    return store.obtain(spec, make)


def test_an_export_holds_the_recipe_and_nothing_private(store, tmp_path):
    adapter = secretive(store)
    out = store.export(adapter.adapter_id[:5], tmp_path / "out")
    names = sorted(path.name for path in out.iterdir())
    assert names == sorted([CONFIG, WEIGHTS, METADATA, "README.md"])
    for path in out.iterdir():
        assert b"secret" not in path.read_bytes(), path.name
    assert (out / WEIGHTS).read_bytes() == (adapter.folder / WEIGHTS).read_bytes()
    config = json.loads((out / CONFIG).read_text())
    assert config == {"peft_type": "LORA", "r": 2, "base_model_name_or_path": "toy-model"}
    told = json.loads((out / METADATA).read_text())
    assert told["report"] == {"loss": [2.0, 1.0], "examples": [], "nested": {"steps": 3}}
    assert told["origin"] == {"inputs": [], "error": 0.5}
    assert told["base_hash"] == "b" * 64
    card = (out / "README.md").read_text()
    for part in (
        "toy-model", "b" * 64, "| beauty | 400 |", "| sports | 400 |", "1" * 64, "2" * 64,
        "sequence", "epochs 1", "## Licence", "s wall",
    ):  # fmt: skip
        assert part in card, part


def test_an_export_never_overwrites_and_checks_the_files_first(store, tmp_path):
    adapter = store.obtain(recipe(), Maker())
    taken = tmp_path / "taken"
    taken.mkdir()
    store.export(adapter.adapter_id, taken)
    with pytest.raises(ConfigError, match="no empty folder"):
        store.export(adapter.adapter_id, taken)
    (adapter.folder / WEIGHTS).write_bytes(b"x")
    with pytest.raises(ResultError, match="was changed"):
        store.export(adapter.adapter_id, tmp_path / "other")
    assert not (tmp_path / "other").exists()


def test_hostile_names_stay_text_in_the_card(store, tmp_path):
    part = MixturePart(domain="a|b<script>\n# x", training_hash="1" * 64, n_examples=1)
    spec = recipe(part, backbone='me/model"\nlicense: mit', objective="a|b")
    out = store.export(store.obtain(spec, Maker()).adapter_id, tmp_path / "out")
    card = (out / "README.md").read_text()
    assert "<script>" not in card
    assert "a\\|b&lt;script> # x" in card
    front = card.split("---")[1]
    import yaml

    assert set(yaml.safe_load(front)) == {"base_model", "library_name", "tags"}


def test_the_card_of_a_merged_adapter_names_what_it_was_merged_from(store, tmp_path):
    ids = parents(store)
    merged = store.obtain(MergedSpec(method="ties", parents=tuple(ids)), Maker())
    card = (store.export(merged.adapter_id, tmp_path / "out") / "README.md").read_text()
    assert all(one in card for one in ids)
    assert "| method | ties |" in card


# PEFT asks transformers for an attribute that transformers has renamed.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_an_export_loads_in_peft_and_computes_the_same(store, tmp_path):
    torch = pytest.importorskip("torch")
    peft = pytest.importorskip("peft")
    transformers = pytest.importorskip("transformers")
    torch.set_num_threads(1)
    settings = transformers.LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, num_key_value_heads=2,
    )  # fmt: skip

    def base():
        with torch.random.fork_rng():
            torch.manual_seed(0)
            return transformers.LlamaForCausalLM(settings).eval()

    lora = peft.LoraConfig(r=2, lora_alpha=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = peft.get_peft_model(base(), lora)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.fill_(0.3)

    def make(out: Path, checkpoints: Path):
        model.save_pretrained(out)
        return {"tokens": 1}

    adapter = store.obtain(recipe(backbone="toy"), make)
    assert not (adapter.folder / "README.md").exists()
    out = store.export(adapter.adapter_id, tmp_path / "out")
    tokens = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        expected = model.eval()(tokens).logits
        loaded = peft.PeftModel.from_pretrained(base(), str(out)).eval()(tokens).logits
        plain = base()(tokens).logits
    torch.testing.assert_close(loaded, expected)
    assert not torch.allclose(plain, expected)
