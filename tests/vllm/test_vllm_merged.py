"""Merged adapters in vLLM: averages in both spaces rank as in the reference engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from engine_pair import HAS_VLLM, Pair, lora_folder

from bench.merging import merge, read_adapter, write_adapter

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed; run: make test-vllm"),
    # vLLM looks deprecated names of torch up while it is imported.
    pytest.mark.filterwarnings("ignore:.*torch.distributed.reduce_op.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
    # vLLM leaves closing its sockets' context to the garbage collector.
    pytest.mark.filterwarnings("ignore:Unclosed context <zmq:ResourceWarning"),
]


@pytest.mark.parametrize(("space", "rank"), [("factor", 16), ("product", 32)])
def test_an_average_of_adapters_is_served_alike(
    pair: Pair, space: str, rank: int, tmp_path: Path
) -> None:
    first = pair.adapters["all-linear"]
    assert first is not None
    second = lora_folder(
        pair.folder, tmp_path / "b", seed=9, r=16, lora_alpha=32, target_modules="all-linear"
    )
    merged = merge(
        [read_adapter(first), read_adapter(second)],
        "weight-average",
        {"space": space},
        assume_shared_init=True,
    )
    assert merged.config.r == rank
    folder = tmp_path / "merged"
    write_adapter(merged, folder)
    rng = np.random.default_rng(3)
    prompts = [rng.integers(3, 380, length).astype(np.int32) for length in (5, 90)]
    branches = [
        [rng.integers(3, 380, int(rng.integers(1, 16))).astype(np.int32) for _ in range(20)]
        for _ in prompts
    ]
    expected = pair.reference.branch_log_probs(prompts, branches, adapter=folder)
    found = pair.vllm.branch_log_probs(prompts, branches, adapter=folder)
    alone = pair.vllm.branch_log_probs(prompts, branches, adapter=first)
    for one, other, unmerged in zip(found, expected, alone, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3, rtol=0)
        assert np.abs(one - unmerged).max() > 0.05
