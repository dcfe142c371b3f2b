"""vLLM against the reference engine, on tiny random models, in fp32 on the CPU."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from engine_pair import HAS_VLLM, Pair, lora_folder, make_backbone, make_reference

from bench.errors import ConfigError, MethodError, ResultError
from bench.llm.engines import Choice

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not HAS_VLLM, reason="vLLM is not installed; run: make test-vllm"),
    # vLLM looks deprecated names of torch up while it is imported.
    pytest.mark.filterwarnings("ignore:.*torch.distributed.reduce_op.*:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*torch.jit.* is deprecated:DeprecationWarning"),
    # vLLM leaves closing its sockets' context to the garbage collector.
    pytest.mark.filterwarnings("ignore:Unclosed context <zmq:ResourceWarning"),
]

ADAPTERS = ("base", "all-linear", "attention")
TOLERANCE = 1e-3  # nats, for sums of up to 32 log-probabilities


@pytest.fixture(params=ADAPTERS)
def adapter_name(request: pytest.FixtureRequest) -> str:
    return request.param


def texts(seed: int, lengths: list[int]) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(3, 380, length).astype(np.int32) for length in lengths]


def user_branches(seed: int, n_users: int, n_branches: int = 30) -> list[list[np.ndarray]]:
    """Branches of 1 to 32 tokens; some begin another one, some are equal, one is empty."""
    rng = np.random.default_rng(seed)
    users = []
    for user in range(n_users):
        own = texts(seed + 100 + user, rng.integers(1, 17, n_branches).tolist())
        own[1] = own[0].copy()
        own[2] = np.concatenate([own[0], own[2]])
        own[3] = np.empty(0, dtype=np.int32)
        users.append(own)
    return users


def test_log_probs_and_ranks_equal_the_reference(pair: Pair, adapter_name: str) -> None:
    prompts = texts(1, [1, 5, 33, 64, 150, 400])
    branches = user_branches(2, len(prompts))
    adapter = pair.adapters[adapter_name]
    expected = pair.reference.branch_log_probs(prompts, branches, adapter=adapter)
    found = pair.vllm.branch_log_probs(prompts, branches, adapter=adapter)
    for one, other in zip(found, expected, strict=True):
        assert one.dtype == np.float64
        np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=0)
        assert one[3] == 0.0
        # Equal branches tie exactly; all others are further apart than rounding.
        distinct = np.delete(np.arange(len(one)), 1)
        assert np.diff(np.sort(other[distinct])).min() > 1e-4
        np.testing.assert_array_equal(np.argsort(one[distinct]), np.argsort(other[distinct]))


def test_choices_equal_the_reference(pair: Pair, adapter_name: str) -> None:
    prompts = texts(3, [2, 90])
    branches = user_branches(4, 2, n_branches=8)
    adapter = pair.adapters[adapter_name]
    for choices in ([7], [40, 3, 40], list(range(0, 384, 2))):
        expected = pair.reference.branch_choice(prompts, branches, choices, adapter=adapter)
        found = pair.vllm.branch_choice(prompts, branches, choices, adapter=adapter)
        for one, other in zip(found, expected, strict=True):
            assert one.dtype == np.float32
            assert one.shape == (8, len(choices))
            np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=0)


def test_generated_tokens_equal_the_reference(pair: Pair, adapter_name: str) -> None:
    prompts = texts(5, [1, 17, 64, 130])
    budgets = [1, 40, 25, 60]
    adapter = pair.adapters[adapter_name]
    free = pair.reference.generate(prompts, max_new_tokens=budgets, stop=[], adapter=adapter)
    stop = [int(free[1].tokens[5]), int(free[3].tokens[20])]
    for ends in ([], stop):
        expected = pair.reference.generate(
            prompts, max_new_tokens=budgets, stop=ends, adapter=adapter
        )
        found = pair.vllm.generate(prompts, max_new_tokens=budgets, stop=ends, adapter=adapter)
        assert [one.finished for one in found] == [other.finished for other in expected]
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
    assert [answer.finished for answer in expected].count("stop") >= 2


def test_adapters_alternate_without_a_trace(pair: Pair) -> None:
    prompts, branches = texts(6, [70, 70]), user_branches(7, 2)
    expected = {
        name: pair.reference.branch_log_probs(prompts, branches, adapter=adapter)
        for name, adapter in pair.adapters.items()
    }
    assert np.abs(expected["base"][0] - expected["all-linear"][0]).max() > 0.1
    # The second time round every prompt is read from the prefix cache.
    for name in ("base", "all-linear", "base", "attention", "all-linear", "base"):
        found = pair.vllm.branch_log_probs(prompts, branches, adapter=pair.adapters[name])
        np.testing.assert_allclose(found, expected[name], atol=TOLERANCE, rtol=0)


def test_a_shared_prompt_is_read_once(pair: Pair) -> None:
    prompts, branches = texts(8, [640]), user_branches(9, 1)
    n_branch_tokens = sum(map(len, branches[0]))
    before = pair.vllm.tokens_processed
    pair.vllm.branch_log_probs(prompts, branches, adapter=None)
    first = pair.vllm.tokens_processed - before
    pair.vllm.branch_log_probs(prompts, branches, adapter=None)
    second = pair.vllm.tokens_processed - before - first
    # Blocks of 32 tokens: each of 28 requests reads at most one block of the prompt itself.
    assert 640 <= first <= 640 + 28 * 32 + n_branch_tokens
    assert second <= 28 * 32 + n_branch_tokens


def test_no_request_is_mixed_with_one_left_behind(pair: Pair) -> None:
    from vllm import SamplingParams

    prompts, branches = texts(10, [20]), user_branches(11, 1)
    pair.vllm.branch_log_probs(prompts, branches, adapter=None)
    core = pair.vllm._llm.llm_engine
    name = core.add_request("left", {"prompt_token_ids": [5, 6]}, SamplingParams(max_tokens=4))
    with pytest.raises(MethodError, match="interrupted"):
        pair.vllm.branch_log_probs(prompts, branches, adapter=pair.adapters["attention"])
    while core.has_unfinished_requests():
        core.step()
    assert name
    expected = pair.reference.branch_log_probs(prompts, branches, adapter=None)
    found = pair.vllm.branch_log_probs(prompts, branches, adapter=None)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_a_changed_adapter_is_read_again(pair: Pair, tmp_path: Path) -> None:
    prompts, branches = texts(12, [50]), user_branches(13, 1)
    folder = tmp_path / "adapter"
    shutil.copytree(pair.adapters["attention"], folder)
    pair.vllm.branch_log_probs(prompts, branches, adapter=folder)
    shutil.rmtree(folder)
    shutil.copytree(pair.adapters["all-linear"], folder)
    os.utime(folder / "adapter_model.safetensors")
    expected = pair.reference.branch_log_probs(
        prompts, branches, adapter=pair.adapters["all-linear"]
    )
    found = pair.vllm.branch_log_probs(prompts, branches, adapter=folder)
    np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)


def test_what_the_model_cannot_read_is_refused(pair: Pair, tmp_path: Path) -> None:
    few = [[np.array([4], dtype=np.int32)]]
    with pytest.raises(MethodError, match="1023 tokens and up to 2 follow"):
        pair.vllm.generate(texts(14, [1023]), max_new_tokens=[2], stop=[], adapter=None)
    with pytest.raises(ConfigError, match="token ids from 4 to 4000"):
        pair.vllm.branch_log_probs([np.array([4, 4000])], few, adapter=None)
    with pytest.raises(ConfigError, match="at least one token"):
        pair.vllm.branch_log_probs([np.empty(0, dtype=np.int32)], few, adapter=None)
    with pytest.raises(ConfigError, match="max_new_tokens of prompt 0 is 0"):
        pair.vllm.generate(texts(15, [3]), max_new_tokens=[0], stop=[], adapter=None)
    with pytest.raises(ResultError, match="no LoRA adapter"):
        pair.vllm.branch_log_probs(texts(16, [3]), few, adapter=tmp_path)
    assert pair.vllm.branch_log_probs([], [], adapter=None) == []


def constrained(
    pair: Pair, prompt: np.ndarray, titles: list[str], adapter: Path | None
) -> list[int]:
    """Greedy decoding in which every token must go on within a title: by brute force."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(pair.folder)
    pieces = [tokenizer.decode([i]) for i in range(len(tokenizer))]
    special = set(tokenizer.all_special_ids)
    emitted: list[int] = []
    while True:
        text = tokenizer.decode(emitted)
        allowed = [
            token
            for token, piece in enumerate(pieces)
            if token not in special and piece and any(t.startswith(text + piece) for t in titles)
        ]
        if text in titles:
            allowed.append(tokenizer.eos_token_id)
        ids = np.concatenate([prompt, emitted]).astype(np.int32)
        branch = [[np.empty(0, dtype=np.int32)]]
        values = pair.reference.branch_choice([ids], branch, allowed, adapter=adapter)[0][0]
        best = allowed[int(values.argmax())]
        if best == tokenizer.eos_token_id:
            return emitted
        emitted.append(best)


def test_constrained_lists_are_greedy_and_distinct(pair: Pair, adapter_name: str) -> None:
    from transformers import AutoTokenizer

    titles = ["Heat (1995)", "Heat", 'A "quoted" \\ title', "Toy Story (1995)", "Hand Cream, 18 oz"]
    prompts = texts(17, [12, 40])
    adapter = pair.adapters[adapter_name]
    tokenizer = AutoTokenizer.from_pretrained(pair.folder)
    none = np.empty(0, dtype=np.int32)  # vLLM's grammars read the text
    choices = [Choice(title, none, none) for title in titles]
    answers = pair.vllm.generate_list(
        prompts,
        [choices, [*choices[:2], choices[0]]],
        n_titles=4,
        separator=" || ",
        adapter=adapter,
    )
    for prompt, answer, own, n_named in zip(
        prompts, answers, (titles, titles[:2]), (4, 2), strict=True
    ):
        named = tokenizer.decode(answer.tokens.tolist()).split(" || ")
        assert len(named) == len(set(named)) == n_named
        assert set(named) <= set(own)
        expected: list[int] = []
        left = list(own)
        for turn in range(n_named):
            choices = [t + " || " * (turn + 1 < n_named) for t in left]
            before = np.concatenate([prompt, expected]).astype(np.int32)
            new = constrained(pair, before, choices, adapter)
            left.pop(choices.index(tokenizer.decode(new)))
            expected += new
        assert answer.tokens.tolist() == expected


def test_a_larger_adapter_restarts_vllm(pair: Pair, tmp_path: Path) -> None:
    prompts, branches = texts(18, [30]), user_branches(19, 1)
    large = lora_folder(
        pair.folder,
        tmp_path / "large",
        seed=3,
        r=24,
        lora_alpha=8,
        use_rslora=True,
        target_modules=["o_proj", "down_proj"],
    )
    for adapter in (large, None, pair.adapters["all-linear"]):
        expected = pair.reference.branch_log_probs(prompts, branches, adapter=adapter)
        found = pair.vllm.branch_log_probs(prompts, branches, adapter=adapter)
        np.testing.assert_allclose(found, expected, atol=TOLERANCE, rtol=0)
    assert pair.vllm._rank == 32


def test_prompt_route_and_a_base_without_room_for_adapters(tmp_path: Path) -> None:
    from tiny import tiny_backbone

    from bench.llm.engines.vllm import VllmEngine, VllmOptions

    folder = tiny_backbone(tmp_path / "model", "qwen2", seed=5, hidden=128)
    options = VllmOptions(route="prompt", kv_cache_gib=0.25, max_model_len=512)
    engine = VllmEngine(make_backbone(folder), options=options)
    prompts, branches = texts(20, [1, 40, 100]), user_branches(21, 3)
    try:
        with pytest.raises(ConfigError, match="route=prompt"):
            engine.branch_log_probs(prompts, branches, adapter=tmp_path)
        found = engine.branch_log_probs(prompts, branches, adapter=None)
    finally:
        engine.close()
    expected = make_reference(folder).branch_log_probs(prompts, branches, adapter=None)
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=TOLERANCE, rtol=0)
