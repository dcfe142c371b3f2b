"""What is checked before vLLM starts; runs without vLLM."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from engine_pair import HAS_VLLM, make_backbone
from pydantic import ValidationError

from bench.errors import ConfigError, MissingExtraError, ResultError
from bench.llm.engines.vllm import VllmEngine
from bench.llm.engines.vllm import _distinct as distinct
from bench.llm.engines.vllm_options import (
    VllmOptions,
    adapter_rank,
    check_settings,
    options_from_environment,
    rank_capacity,
)


def write_adapter(folder: Path, **config: object) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(config))
    return folder


def test_the_cpu_has_its_own_defaults() -> None:
    options = VllmOptions()
    cpu, gpu = options.arguments("cpu"), options.arguments("cuda")
    assert cpu["block_size"] == 32
    assert cpu["kv_cache_memory_bytes"] == 2**30
    assert cpu["enforce_eager"] is True
    assert gpu["enforce_eager"] is False
    # What is left to vLLM is not named at all.
    assert set(gpu) == {"gpu_memory_utilization", "tensor_parallel_size", "enforce_eager"}
    assert (options.resolved_route("cpu"), options.resolved_route("cuda")) == ("forced", "replay")


def test_every_option_reaches_vllm() -> None:
    options = VllmOptions(
        gpu_memory_utilization=0.5,
        kv_cache_gib=2.5,
        tensor_parallel_size=4,
        max_model_len=2048,
        max_num_seqs=64,
        block_size=16,
        enforce_eager=False,
        route="prompt",
    )
    for device in ("cpu", "cuda"):
        assert options.arguments(device) == {
            "gpu_memory_utilization": 0.5,
            "kv_cache_memory_bytes": 2684354560,
            "tensor_parallel_size": 4,
            "max_model_len": 2048,
            "max_num_seqs": 64,
            "block_size": 16,
            "enforce_eager": False,
        }
        assert options.resolved_route(device) == "prompt"


@pytest.mark.parametrize(
    "wrong",
    [
        {"gpu_memory_utilization": 0},
        {"gpu_memory_utilization": 1.5},
        {"tensor_parallel_size": 0},
        {"kv_cache_gib": -1},
        {"max_lora_rank": 1000},
        {"route": "trie"},
        {"swap_space": 4},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        VllmOptions(**wrong)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (("cpu", "eager", None, 1), "attention is 'eager'"),
        (("cuda", "sdpa", "8bit", 1), "quantisation is '8bit' on cuda"),
        (("cpu", "sdpa", "4bit", 1), "quantisation is '4bit' on cpu"),
        (("cpu", "sdpa", None, 0), "batch_tokens is 0"),
    ],
)
def test_what_vllm_cannot_serve_is_refused(settings: tuple, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        check_settings(*settings)


def test_four_bits_on_an_accelerator_are_fine() -> None:
    check_settings("cuda", "sdpa", "4bit", 4096)


@pytest.mark.skipif(HAS_VLLM, reason="vLLM is installed")
def test_a_missing_vllm_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(MissingExtraError, match=r"pip install 'weavebench\[vllm\]'"):
        VllmEngine(make_backbone(tmp_path))


def test_the_rank_of_an_adapter_is_its_largest(tmp_path: Path) -> None:
    plain = write_adapter(tmp_path / "plain", peft_type="LORA", r=8)
    assert adapter_rank(plain) == 8
    mixed = write_adapter(tmp_path / "mixed", peft_type="LORA", r=8, rank_pattern={"q_proj": 24})
    assert adapter_rank(mixed) == 24


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "LORA", "r": 8, "use_dora": True}, "plain LoRA"),
        ({"peft_type": "IA3", "r": 8}, "'IA3'"),
        ({"peft_type": "LORA"}, "no LoRA adapter"),
        ({"peft_type": "LORA", "r": "many"}, "no LoRA adapter"),
    ],
)
def test_other_adapters_are_refused(tmp_path: Path, config: dict, message: str) -> None:
    with pytest.raises(ResultError, match=message):
        adapter_rank(write_adapter(tmp_path / "adapter", **config))


def test_a_folder_without_adapter_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ResultError, match="Expected a PEFT folder"):
        adapter_rank(tmp_path / "nowhere")


@pytest.mark.parametrize(("rank", "capacity"), [(1, 8), (8, 8), (9, 16), (33, 64), (300, 320)])
def test_memory_is_reserved_for_the_next_rank_that_vllm_knows(rank: int, capacity: int) -> None:
    assert rank_capacity(rank) == capacity


def test_no_memory_for_huge_ranks() -> None:
    with pytest.raises(ConfigError, match="rank 513"):
        rank_capacity(513)


def test_equal_branches_of_a_prompt_are_asked_once() -> None:
    def ids(*tokens: int) -> np.ndarray:
        return np.array(tokens, dtype=np.int32)

    branches = [[ids(1, 2), ids(1), ids(), ids(1, 2)], [ids(1, 2)], []]
    asked, owners = distinct(branches)
    assert asked == [(0, (1, 2)), (0, (1,)), (1, (1, 2))]
    assert owners == [[0, 1, -1, 0], [2], []]


def test_options_import_neither_vllm_nor_torch() -> None:
    code = (
        "import sys, bench.llm.engines.vllm_options; "
        "sys.exit(any(m in sys.modules for m in ('vllm', 'torch', 'transformers')))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_options_of_this_machine_come_from_the_environment(monkeypatch):
    monkeypatch.delenv("BENCH_VLLM", raising=False)
    assert options_from_environment() == VllmOptions()
    monkeypatch.setenv("BENCH_VLLM", "{tensor_parallel_size: 2, max_model_len: 4096}")
    assert options_from_environment() == VllmOptions(tensor_parallel_size=2, max_model_len=4096)


@pytest.mark.parametrize("text", ["{tensor_parallel: 2}", "[1", "{max_model_len: 0}", "fast"])
def test_options_that_cannot_be_used_are_refused(text, monkeypatch):
    monkeypatch.setenv("BENCH_VLLM", text)
    with pytest.raises(ConfigError, match="BENCH_VLLM"):
        options_from_environment()
