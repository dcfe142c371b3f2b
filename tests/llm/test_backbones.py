from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

from bench.errors import ConfigError, MissingExtraError
from bench.llm import backbones
from bench.llm.backbones import load_model, load_tokenizer, require_backbone, resolve_backbone
from bench.pretrained.quiet import quiet_transformers


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("BENCH_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def own(tiny_llama: Path, tmp_path: Path) -> Path:
    """A copy that a test may change."""
    return Path(shutil.copytree(tiny_llama, tmp_path / "own"))


# --- names


def test_a_folder_is_a_backbone(tiny_llama: Path, tiny_qwen2: Path) -> None:
    first, second = resolve_backbone(str(tiny_llama)), resolve_backbone(str(tiny_qwen2))
    assert first.name == str(tiny_llama)
    assert first.folder == tiny_llama
    assert len(first.content_hash) == len(second.content_hash) == 64
    assert first.content_hash != second.content_hash


def test_a_folder_wins_over_a_hub_id_of_the_same_name(own, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "some").mkdir()
    own.rename(tmp_path / "some" / "model")
    assert resolve_backbone("some/model").folder == Path("some/model")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("smollm2-135", ["Did you mean 'smollm2-135m'?", "Qwen/Qwen2-7B-Instruct"]),
        ("./nothing-here", ["no folder nothing-here", ".gguf"]),
        ("~/nothing/here", ["no folder"]),
        ("a/b/c", ["no folder a/b/c"]),
        ("models/absent file.gguf", ["no file models/absent file.gguf"]),
        ("gone.gguf", ["no file gone.gguf"]),
    ],
)
def test_a_name_that_means_nothing_is_refused(name: str, words: list[str]) -> None:
    for function in (require_backbone, resolve_backbone):
        with pytest.raises(ConfigError) as caught:
            function(name)
        for word in words:
            assert word in str(caught.value)


def test_a_file_that_is_no_gguf_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.gguf").write_bytes(b"PK\x03\x04 something else")
    with pytest.raises(ConfigError, match=r"x\.gguf is not a GGUF file"):
        require_backbone(str(tmp_path / "x.gguf"))


def test_a_missing_asset_names_its_command() -> None:
    with pytest.raises(MissingExtraError, match="bench assets pull smollm2-135m"):
        require_backbone("smollm2-135m")


def test_missing_packages_name_their_command(monkeypatch, tiny_llama) -> None:
    find = importlib.util.find_spec
    hidden = {"peft", "gguf"}
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in hidden else find(name)
    )
    for function in (require_backbone, resolve_backbone):
        with pytest.raises(MissingExtraError) as caught:
            function(str(tiny_llama))
        assert "not installed: gguf, peft" in str(caught.value)
        assert "pip install 'weavebench[llm]'" in str(caught.value)


def test_finding_a_backbone_imports_no_heavy_library(tiny_llama: Path) -> None:
    code = (
        "import sys; from bench.llm.backbones import require_backbone, resolve_backbone\n"
        "require_backbone(sys.argv[1]); resolve_backbone(sys.argv[1])\n"
        "heavy = {'torch', 'transformers', 'peft', 'huggingface_hub', 'gguf'}\n"
        "assert not heavy & sys.modules.keys(), heavy & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code, str(tiny_llama)], check=True)


# --- folders that are not whole, or not safe


def test_weights_as_pickles_are_refused_and_never_opened(own: Path) -> None:
    (own / "model.safetensors").rename(own / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"pytorch_model\.bin only.*can run code"):
        resolve_backbone(str(own))


def test_an_adapter_is_not_a_backbone(own: Path) -> None:
    (own / "config.json").rename(own / "adapter_config.json")
    with pytest.raises(ConfigError, match="LoRA adapter, not a whole model"):
        resolve_backbone(str(own))


@pytest.mark.parametrize(
    ("file", "message"),
    [
        ("config.json", r"has no config\.json"),
        ("model.safetensors", "has no weights"),
        ("tokenizer.json", "has no tokenizer"),
    ],
)
def test_a_folder_without_an_essential_file_is_refused(own, file, message) -> None:
    (own / file).unlink()
    with pytest.raises(ConfigError, match=message):
        require_backbone(str(own))


def shard(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder)
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="30KB")


def test_weights_in_several_files_are_all_needed(own: Path) -> None:
    whole = load_model(resolve_backbone(str(own))).state_dict()
    shard(own)
    shards = sorted(own.glob("model-*.safetensors"))
    assert len(shards) > 1
    split = load_model(resolve_backbone(str(own))).state_dict()
    assert whole.keys() == split.keys()
    assert all(torch.equal(whole[name], split[name]) for name in whole)
    shards[-1].unlink()
    with pytest.raises(ConfigError, match=f"{shards[-1].name} is missing"):
        resolve_backbone(str(own))


def test_an_index_cannot_point_outside_its_folder(own: Path) -> None:
    (own / "model.safetensors").unlink()
    index = {"weight_map": {"model.norm.weight": "../elsewhere.safetensors"}}
    (own / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ConfigError, match="outside its folder"):
        resolve_backbone(str(own))


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", "model.safetensors"])
def test_a_damaged_file_is_an_error_that_names_the_folder(own: Path, file: str) -> None:
    content = (own / file).read_bytes()
    (own / file).write_bytes(content[: len(content) // 2])
    with pytest.raises(ConfigError, match="own"):
        backbone = resolve_backbone(str(own))
        load_tokenizer(backbone)
        load_model(backbone)


def test_missing_tensors_are_never_drawn_at_random(own: Path) -> None:
    from safetensors.torch import load_file, save_file

    weights = load_file(own / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, own / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"lack 1 tensors.*up_proj"):
        load_model(resolve_backbone(str(own)))
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "intermediate_size": 96}))
    with pytest.raises(ConfigError, match=r"lack 6 tensors.*or have them in another shape"):
        load_model(resolve_backbone(str(own)))


def test_code_that_comes_with_a_model_is_not_run(own: Path, tmp_path: Path) -> None:
    (own / "modeling_own.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w')\nclass Config: pass\nclass Model: pass\n"
    )
    config = json.loads((own / "config.json").read_text())
    config["model_type"] = "own"
    config["auto_map"] = {
        "AutoConfig": "modeling_own.Config",
        "AutoModelForCausalLM": "modeling_own.Model",
    }
    (own / "config.json").write_text(json.dumps(config))
    with pytest.raises(ConfigError, match="without code of its own"):
        load_model(resolve_backbone(str(own)))
    assert not (tmp_path / "ran").exists()


# --- identity


def test_the_hash_follows_every_file_that_decides_the_outputs(own: Path) -> None:
    def digest() -> str:
        return resolve_backbone(str(own)).content_hash

    seen = {digest()}
    for file in ("model.safetensors", "tokenizer.json", "chat_template.jinja"):
        content = bytearray((own / file).read_bytes())
        content[-1] ^= 1
        (own / file).write_bytes(content)
        assert digest() not in seen, file
        seen.add(digest())
    config = json.loads((own / "config.json").read_text())
    (own / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-5}))
    assert digest() not in seen


def test_the_hash_ignores_place_layout_and_provenance(own: Path, tiny_llama: Path) -> None:
    (own / "README.md").write_text("words")
    config = json.loads((own / "config.json").read_text())
    config |= {"transformers_version": "4.50.0", "_name_or_path": "elsewhere"}
    (own / "config.json").write_text(json.dumps(dict(reversed(config.items())), indent=7))
    assert resolve_backbone(str(own)).content_hash == resolve_backbone(str(tiny_llama)).content_hash


# --- loading


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_a_model_is_loaded_as_asked_frozen_and_in_evaluation_mode(
    tiny_qwen2: Path, dtype: str, attention: str
) -> None:
    model = load_model(resolve_backbone(str(tiny_qwen2)), dtype=dtype, attention=attention)
    assert {parameter.dtype for parameter in model.parameters()} == {getattr(torch, dtype)}
    assert not any(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in model.modules())
    assert model.config._attn_implementation == attention
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}


def test_the_loaded_model_computes_what_transformers_computes(tiny_llama: Path) -> None:
    from transformers import LlamaForCausalLM

    ids = torch.tensor([[1, 70, 80, 90, 300]])
    model = load_model(resolve_backbone(str(tiny_llama)))
    with torch.inference_mode():
        expected = LlamaForCausalLM.from_pretrained(tiny_llama)(ids).logits
        torch.testing.assert_close(model(ids).logits, expected)


def test_sampling_defaults_of_a_model_neither_warn_nor_change_what_is_generated(own, capfd):
    plain = load_model(resolve_backbone(str(own)))
    (own / "generation_config.json").write_text(
        json.dumps(
            {
                "bos_token_id": 1,
                "eos_token_id": [2, 0],
                "pad_token_id": 0,
                "do_sample": True,
                "temperature": 0.7,
                "top_p": 0.8,
                "repetition_penalty": 9.0,
            }
        )
    )
    model = load_model(resolve_backbone(str(own)))
    assert model.generation_config.eos_token_id == [2, 0]
    capfd.readouterr()
    ids = torch.tensor([[1, 70, 80, 90]])
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": 12, "eos_token_id": None}
    with warnings.catch_warnings(), torch.inference_mode():
        warnings.simplefilter("error")
        found = model.generate(ids, **settings)
        expected = plain.generate(ids, **settings)
    assert found.tolist() == expected.tolist()
    assert capfd.readouterr() == ("", "")


def test_loading_leaves_no_trace(tiny_llama: Path, capfd: pytest.CaptureFixture[str]) -> None:
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging

    backbone = resolve_backbone(str(tiny_llama))
    verbosity, state = logging.get_verbosity(), torch.get_rng_state()
    load_model(backbone)
    load_tokenizer(backbone)
    assert logging.get_verbosity() == verbosity
    assert logging.is_progress_bar_enabled()
    assert not are_progress_bars_disabled()
    assert torch.equal(state, torch.get_rng_state())
    assert torch.get_default_dtype() == torch.float32
    assert capfd.readouterr() == ("", "")


def test_the_callers_own_silence_is_kept() -> None:
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
    )
    from transformers.utils import logging

    verbosity = logging.get_verbosity()
    try:
        logging.set_verbosity_info()
        disable_progress_bars()
        with quiet_transformers():
            assert logging.get_verbosity() == logging.ERROR
            assert not logging.is_progress_bar_enabled()
        assert logging.get_verbosity() == logging.INFO
        assert logging.is_progress_bar_enabled()
        assert are_progress_bars_disabled()
    finally:
        logging.set_verbosity(verbosity)
        enable_progress_bars()


def test_a_tokenizer_gives_text_back_and_can_pad(own: Path) -> None:
    config = json.loads((own / "tokenizer_config.json").read_text())
    del config["pad_token"]
    config["clean_up_tokenization_spaces"] = True
    (own / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer = load_tokenizer(resolve_backbone(str(own)))
    assert tokenizer.pad_token == tokenizer.eos_token == "<|im_end|>"
    for text in ("Hello , world ! I 'm here .", "don 't", " a  b "):
        assert tokenizer.decode(tokenizer.encode(text)) == text


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"dtype": "bf16"}, "unknown dtype 'bf16'.*bfloat16"),
        ({"attention": "flash"}, "unknown attention 'flash'"),
        ({"quantisation": "4-bit"}, "unknown quantisation.*4bit"),
        ({"device": "gpu"}, "expected cpu, cuda"),
        ({"quantisation": "4bit"}, "needs an NVIDIA GPU.*found device cpu"),
        ({"quantisation": "8bit", "device": "mps"}, "found device mps"),
        ({"attention": "flash_attention_2"}, "needs device cuda.*attention=sdpa"),
        ({"attention": "flash_attention_2", "device": "cuda"}, "dtype float32"),
    ],
)
def test_settings_that_cannot_work_are_refused_first(tmp_path, settings, message) -> None:
    nowhere = backbones.Backbone("nowhere", tmp_path / "nowhere", "0" * 64)
    with pytest.raises(ConfigError, match=message):
        load_model(nowhere, **settings)


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
def test_a_gpu_that_is_not_there_is_refused(tiny_llama: Path) -> None:
    with pytest.raises(ConfigError, match="sees no CUDA device"):
        load_model(resolve_backbone(str(tiny_llama)), device="cuda:1")


@pytest.mark.parametrize(
    ("settings", "package"),
    [
        ({"quantisation": "4bit"}, "bitsandbytes"),
        ({"attention": "flash_attention_2", "dtype": "bfloat16"}, "flash-attn"),
    ],
)
def test_packages_for_gpus_are_named_where_they_miss(
    tiny_llama, monkeypatch, settings, package
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    backbone = backbones.Backbone("tiny", tiny_llama, "0" * 64)
    with pytest.raises(MissingExtraError, match=f"pip install {package}"):
        load_model(backbone, device="cuda", **settings)


def test_four_bits_are_nf4_with_the_asked_arithmetic() -> None:
    packed = backbones._packing("4bit", torch.bfloat16)
    assert packed.load_in_4bit and packed.bnb_4bit_quant_type == "nf4"
    assert packed.bnb_4bit_compute_dtype == torch.bfloat16
    assert backbones._packing("8bit", torch.bfloat16).load_in_8bit
