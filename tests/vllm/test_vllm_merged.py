"""Merged adapters in vLLM: they rank as in the reference engine, trained ones from end to end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from engine_pair import HAS_VLLM, Pair, lora_folder

from bench.llm.adapters import AdapterStore
from bench.merging import merge, read_adapter, write_adapter
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol.task import build_task
from bench.testing import make_context
from bench.testing.planted import planted_domain

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed; run: make test-vllm"),
    # vLLM looks deprecated names of torch up while it is imported.
    pytest.mark.filterwarnings("ignore:.*torch.distributed.reduce_op.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
    # vLLM leaves closing its sockets' context to the garbage collector.
    pytest.mark.filterwarnings("ignore:Unclosed context <zmq:ResourceWarning"),
]


@pytest.mark.parametrize(
    ("method", "config", "rank"),
    [
        ("weight-average", {"space": "factor"}, 16),
        ("weight-average", {"space": "product"}, 32),
        ("ext-sub", {}, 32),
        ("lora-lego", {}, 16),
    ],
)
def test_merged_adapters_are_served_alike(
    pair: Pair, method: str, config: dict[str, Any], rank: int, tmp_path: Path
) -> None:
    first = pair.adapters["all-linear"]
    assert first is not None
    second = lora_folder(
        pair.folder, tmp_path / "b", seed=9, r=16, lora_alpha=32, target_modules="all-linear"
    )
    adapters = [read_adapter(first), read_adapter(second)]
    merged = merge(adapters, method, config, assume_shared_init=True)
    assert merged.config.r == rank
    write_adapter(merged, tmp_path / "merged")
    assert_served_alike(pair, tmp_path / "merged", unlike=first, by=0.05)


@pytest.mark.parametrize("profile", ["paper", "paper-as-run"])
def test_a_weave_that_was_trained_and_merged_here_is_served_alike(
    pair: Pair, profile: str, tmp_path: Path
) -> None:
    domains = [planted_domain(name, n_users=20, n_items=45, seed=i) for i, name in enumerate("ab")]
    task = build_task(domains[0], sources=domains[1:])
    weave = resolve("weaverec")
    small = {
        "backbone": str(pair.folder),
        "train_examples": 8,
        "training.batch_sequences": 4,
        "training.learning_rate": 0.02,
        "lora.r": 4,
        "lora.alpha": 8.0,
    }
    method = weave(resolve_config(weave, profile=profile, overrides=small))
    capabilities = weave.capabilities(method.config)
    store = AdapterStore(tmp_path / "adapters")
    context = make_context(tmp_path, task, capabilities=capabilities, adapters=store)
    method.fit(task.train_view(with_sources=True), context)
    assert method.adapter is not None
    assert read_adapter(method.adapter).config.r == (4 if profile == "paper" else 8)
    assert_served_alike(pair, method.adapter, unlike=None, by=0.01)


def assert_served_alike(pair: Pair, adapter: Path, *, unlike: Path | None, by: float) -> None:
    """Both engines give the same log-probabilities, and others than with another adapter."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 380, length).astype(np.int32) for length in (5, 90)]
    branches = [
        [rng.integers(3, 380, int(rng.integers(1, 16))).astype(np.int32) for _ in range(20)]
        for _ in prompts
    ]
    expected = pair.reference.branch_log_probs(prompts, branches, adapter=adapter)
    found = pair.vllm.branch_log_probs(prompts, branches, adapter=adapter)
    other = pair.vllm.branch_log_probs(prompts, branches, adapter=unlike)
    for one, reference, unmerged in zip(found, expected, other, strict=True):
        np.testing.assert_allclose(one, reference, atol=1e-3, rtol=0)
        assert np.abs(one - unmerged).max() > by
