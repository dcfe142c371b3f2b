"""What is decided about accelerators before any is used: no GPU here, so that capabilities are told."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch.nn import functional

from bench.llm import fused
from bench.llm.config import LLMConfig
from bench.llm.engines.vllm import VllmEngine
from bench.llm.estimates import Work, batch_tokens, scoring_work, seconds_of
from bench.llm.fused import sequence_attention, variable_length_kernel
from bench.llm.machine import REFERENCE_GPU, accelerator_memory
from bench.llm.processes import Processes
from bench.llm.shapes import PUBLISHED_SHAPES
from bench.memory import release_accelerators
from bench.methods import DomainSize
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.runs.resolve import resolve_spec
from bench.runs.spec import RunSpec

QWEN = PUBLISHED_SHAPES["Qwen/Qwen2-7B-Instruct"]
BEAUTY = DomainSize({7: 22_000}, {70: 12_000})
GB = 10**9
LISTS = resolve_config(resolve("llm-zero-shot"), profile="paper-as-run")
GPU = torch.device("cuda")


def of_today(q, k, v, a, b, c, d, *, scale=None, window_size=(-1, -1), enable_gqa=False): ...


def without_groups(q, k, v, a, b, c, d, *, is_causal=False, scale=None, window_size=(-1, -1)): ...


@pytest.fixture
def has(monkeypatch: pytest.MonkeyPatch):
    """Let PyTorch have this kernel, or none, on a GPU of this capability."""
    fused.variable_length_kernel.cache_clear()

    def set_up(kernel: Any, capability: tuple[int, int]) -> None:
        module = ModuleType("torch.nn.attention.varlen")
        if kernel is not None:
            module.varlen_attn = kernel
        monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", module)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: capability)

    yield set_up
    fused.variable_length_kernel.cache_clear()


@pytest.mark.parametrize(
    ("kernel", "capability", "found"),
    [
        (of_today, (9, 0), True),
        (of_today, (8, 0), True),
        (of_today, (7, 5), False),
        (without_groups, (9, 0), False),
        (None, (9, 0), False),
    ],
)
def test_the_kernel_is_taken_only_where_it_can_what_is_needed(kernel, capability, found, has):
    has(kernel, capability)
    assert variable_length_kernel(GPU, torch.bfloat16) is (kernel if found else None)
    assert variable_length_kernel(GPU, torch.float32) is None
    assert variable_length_kernel(torch.device("cpu"), torch.bfloat16) is None


def test_a_pytorch_without_the_module_falls_back(has, monkeypatch):
    has(of_today, (9, 0))
    monkeypatch.setitem(sys.modules, "torch.nn.attention.varlen", None)
    assert variable_length_kernel(GPU, torch.float16) is None


def test_without_a_gpu_nothing_is_asked_of_it():
    fused.variable_length_kernel.cache_clear()
    assert variable_length_kernel(GPU, torch.bfloat16) is None
    fused.variable_length_kernel.cache_clear()


def test_the_kernel_is_asked_for_what_the_fallback_computes(monkeypatch):
    """A kernel written from its documentation: sequences between ``starts``, the past alone, groups."""

    def kernel(q, k, v, starts, ends, longest, other, *, scale, window_size, enable_gqa):
        assert torch.equal(starts, ends) and starts.dtype == torch.int32
        assert (longest, other, window_size, enable_gqa) == (5, 5, (-1, 0), True)
        assert v.is_contiguous()
        parts = []
        for a, b in zip(starts[:-1].tolist(), starts[1:].tolist(), strict=True):
            own = (x[a:b].transpose(0, 1)[None] for x in (q, k, v))
            out = functional.scaled_dot_product_attention(
                *own, is_causal=True, scale=scale, enable_gqa=True
            )
            parts.append(out[0].transpose(0, 1))
        return torch.cat(parts)

    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(8, (4 + 2 * 2) * 6, generator=generator)
    angles = torch.randn(8, 3, generator=generator)
    arguments = (qkv, angles.cos(), angles.sin(), (0, 3, 8), (4, 2), 0.4)
    expected = sequence_attention(*arguments)
    monkeypatch.setattr(fused, "variable_length_kernel", lambda *_arguments: kernel)
    torch.testing.assert_close(sequence_attention(*arguments), expected)


def test_memory_that_pytorch_keeps_is_given_back_before_vllm_starts(monkeypatch, tmp_path: Path):
    done: list[str] = []
    for name, value in (("is_available", True), ("is_initialized", True)):
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: done.append("given back"))
    vllm = ModuleType("vllm")
    vllm.LLM = lambda **_settings: done.append("started")
    monkeypatch.setitem(sys.modules, "vllm", vllm)
    monkeypatch.setattr("bench.llm.engines.vllm.check_installed", lambda _device: None)

    class Base:
        folder = tmp_path

    engine = VllmEngine(Base(), device="cuda", dtype="bfloat16", batch_tokens=8192)
    engine._adapter_request(None)
    assert done == ["given back", "started"]


def test_without_an_accelerator_nothing_is_given_back(monkeypatch):
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: pytest.fail("there is none"))
    release_accelerators()
    assert accelerator_memory("cpu") is None


@pytest.mark.parametrize(
    ("changes", "dtype", "memory", "tokens"),
    [
        ({}, "bfloat16", None, 4096),
        ({}, "bfloat16", 80 * GB, 65_536),
        ({}, "bfloat16", 40 * GB, 32_768),
        # The weights alone take more than the share: as little as on a processor.
        ({}, "bfloat16", 24 * GB, 4096),
        ({"quantisation": "4bit"}, "bfloat16", 24 * GB, 32_768),
        ({"engine": "vllm"}, "bfloat16", 80 * GB, 16_384),
        ({"batch_tokens": 4096}, "bfloat16", 80 * GB, 4096),
        ({"batch_tokens": 7}, "float32", None, 7),
    ],
)
def test_a_batch_is_what_the_device_holds_unless_told(changes, dtype, memory, tokens):
    config = LLMConfig(**changes)
    assert batch_tokens(config, QWEN, dtype=dtype, memory=memory) == tokens
    assert batch_tokens(LLMConfig(), None, dtype=dtype, memory=80 * GB) == 4096, "of unknown size"


def test_the_device_is_in_no_identity_and_a_number_stays_a_number():
    left, told = LLMConfig(), LLMConfig(batch_tokens=4096)
    assert left.identity() == told.identity() and left.identity()["batch_tokens"] == 4096
    assert LLMConfig(batch_tokens=65_536).identity() != left.identity()
    spec = RunSpec(method="llm-zero-shot", target="ml100k-drama", overrides={"batch_tokens": 4096})
    resolved = resolve_spec(spec, planning=True)
    assert resolved.spec.overrides == {"batch_tokens": 4096}, "on a GPU it is not the default"
    assert resolved.config_values["batch_tokens"] == 4096


def test_committed_runs_have_the_configuration_that_they_resolve_to_today():
    results = Path(__file__).resolve().parents[2] / "leaderboards" / "results"
    manifests = [json.loads(file.read_text()) for file in results.rglob("manifest.json")]
    scored = [m for m in manifests if "batch_tokens" in m["config"]]
    compared = 0
    for manifest in scored:
        resolved = resolve_spec(RunSpec.model_validate(manifest["spec"]), planning=True)
        if resolved.method_cls.version != manifest["method"]["version"]:
            continue  # a later version of the method has other settings, and other runs
        compared += 1
        assert resolved.config_values == manifest["config"], manifest["run_id"]
    assert compared > 40


def test_generation_takes_a_reading_of_all_weights_for_every_token_of_a_batch():
    """By hand: 15.2 GB at 60 % of 3.35 TB/s and 28 layers at half a millisecond, for each of the steps."""
    work = Work(read=0.0, generated=1000.0, steps=100.0)
    seconds = seconds_of(work, QWEN, REFERENCE_GPU) - seconds_of(Work(), QWEN, REFERENCE_GPU)
    arithmetic = (2 * QWEN.block_weights + 2 * QWEN.vocabulary * QWEN.hidden) * 1000 / 0.4 / 989e12
    by_hand = 100 * (2 * QWEN.parameters / (0.6 * 3.35e12) + 28 * 5e-4)
    assert seconds == pytest.approx(by_hand + arithmetic)
    assert 2.0 < seconds < 2.3


def test_small_batches_generate_more_than_ten_times_as_slowly():
    def hours(tokens: int) -> float:
        work = scoring_work(BEAUTY, LISTS, n_users=22_363, n_candidates=30, tokens=tokens)
        return seconds_of(Work(generated=work.generated, steps=work.steps), QWEN, REFERENCE_GPU)

    small, large = hours(4096), hours(65_536)
    assert small > 10 * large
    work = scoring_work(BEAUTY, LISTS, n_users=22_363, n_candidates=30, tokens=4096)
    assert 2 <= work.generated / work.steps < 5, "a few users at a time"
    one = scoring_work(BEAUTY, LISTS, n_users=1, n_candidates=30, tokens=65_536)
    assert one.generated == one.steps, "a batch of one user is not divided"


def test_work_that_is_added_keeps_its_steps():
    lists, plain = Work(generated=100.0, steps=10.0), Work(generated=50.0)
    assert (lists + plain).steps == 60.0
    assert (Work() + Work(read=5.0)).steps == 0.0
    assert lists.times(3).steps == 30.0


def test_every_process_takes_an_accelerator_of_its_own(monkeypatch):
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert Processes(rank=7, size=8).device("cuda") == "cuda:3"
    assert chosen == [3]
    assert Processes(rank=7, size=8).device("cpu") == "cpu"
    assert Processes().device("cuda:1") == "cuda:1", "alone it takes what it is told"
