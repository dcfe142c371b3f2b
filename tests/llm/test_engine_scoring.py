"""The engine's scores against 30 separate forward passes, by transformers and PEFT alone."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from bench.errors import ConfigError, MethodError
from bench.llm.engines.transformers import TransformersEngine

# PEFT asks the model for a property under a name that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing.:FutureWarning")

VOCAB = 384
CHOICES = (7, 300, 12)


def load(folder: Path, dtype: torch.dtype = torch.float32):
    return AutoModelForCausalLM.from_pretrained(folder, dtype=dtype).requires_grad_(False).eval()


def write_adapter(folder: Path, model_folder: Path, seed: int, **options: object) -> Path:
    """A random adapter (both factors) as PEFT writes it."""
    model = get_peft_model(
        load(model_folder),
        LoraConfig(
            **{"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **options},
            task_type="CAUSAL_LM",
        ),
    )
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            if "lora_" in name:
                parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folders(tiny_llama: Path, tiny_mistral: Path, tiny_qwen2: Path) -> dict[str, Path]:
    return {"llama": tiny_llama, "mistral": tiny_mistral, "qwen2": tiny_qwen2}


@pytest.fixture(scope="module")
def adapters(folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict:
    root = tmp_path_factory.mktemp("adapters")
    return {
        name: [write_adapter(root / f"{name}-{seed}", folder, seed) for seed in range(2)]
        for name, folder in folders.items()
    }


def sample(seed: int = 0, n: int = 5, n_branches: int = 30) -> tuple[list, list]:
    """Prompts of different length; branches with shared beginnings, equal, empty, of one token."""
    rng = np.random.default_rng(seed)

    def ids(length: int) -> np.ndarray:
        return rng.integers(3, VOCAB, length).astype(np.int32)

    prompts = [ids(int(rng.integers(1, 60))) for _ in range(n)]
    branches = []
    for _ in prompts:
        own = [ids(int(rng.integers(1, 14))) for _ in range(n_branches)]
        own[1] = np.concatenate([own[0], ids(3)])
        own[2] = np.concatenate([own[0][:1], ids(4)])
        own[3] = own[2].copy()
        own[4] = ids(0)
        own[5] = ids(1)
        branches.append(own)
    branches.append([])
    prompts.append(ids(9))
    return prompts, branches


def table(model, prompt: np.ndarray, branch: np.ndarray) -> torch.Tensor:
    """Log-probabilities after every token of prompt + branch, by one plain forward pass."""
    ids = torch.from_numpy(np.concatenate([prompt, branch]).astype(np.int64))[None]
    with torch.inference_mode():
        # In float64: torch's float32 log_softmax alone is off by 1e-5 per token on 49,152 tokens.
        return model(input_ids=ids, use_cache=False).logits[0].double().log_softmax(-1)


def separate(model, prompts: list, branches: list) -> list[np.ndarray]:
    return [
        np.array(
            [
                sum(
                    float(row[len(p) - 1 + i, token])
                    for row in [table(model, p, b)]
                    for i, token in enumerate(b)
                )
                for b in own
            ],
            dtype=np.float64,
        )
        for p, own in zip(prompts, branches, strict=True)
    ]


def separate_choice(model, prompts: list, branches: list) -> list[np.ndarray]:
    return [
        np.array([table(model, p, b)[-1, list(CHOICES)].tolist() for b in own]).reshape(-1, 3)
        for p, own in zip(prompts, branches, strict=True)
    ]


def worst(found: list[np.ndarray], expected: list[np.ndarray]) -> float:
    assert [f.shape for f in found] == [e.shape for e in expected]
    return max(float(np.abs(f - e).max()) for f, e in zip(found, expected, strict=True) if f.size)


@pytest.fixture(scope="module", params=["llama", "mistral", "qwen2"])
def family(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
def test_branches_equal_separate_forwards(family: str, adapted: bool, folders, adapters) -> None:
    prompts, branches = sample()
    folder = adapters[family][0] if adapted else None
    reference = load(folders[family])
    if adapted:
        reference = PeftModel.from_pretrained(reference, folder)
    engine = TransformersEngine(load(folders[family]))
    assert engine._llama is not None
    sums = engine.branch_log_probs(prompts, branches, adapter=folder)
    assert all(row.dtype == np.float64 for row in sums)
    expected = separate(reference, prompts, branches)
    assert worst(sums, expected) < 1e-4
    assert min(float(row.std()) for row in expected[:-1]) > 1  # the branches do differ
    choice = engine.branch_choice(prompts, branches, CHOICES, adapter=folder)
    assert all(row.dtype == np.float32 for row in choice)
    assert worst(choice, separate_choice(reference, prompts, branches)) < 1e-4
    assert all(row[4] == 0.0 for row in sums[:-1])  # the empty branch
    assert sums[-1].shape == (0,)
    assert choice[-1].shape == (0, 3)


@pytest.mark.parametrize("adapted", [False, True], ids=["base", "adapter"])
def test_bfloat16_errs_no_more_than_separate_forwards(
    family: str, adapted: bool, folders, adapters
) -> None:
    # Branches of one prompt share its rounding, so that many prompts tell more than many branches.
    prompts, branches = sample(n=24, n_branches=6)
    folder = adapters[family][0] if adapted else None
    exact, rounded = load(folders[family]), load(folders[family], torch.bfloat16)
    if adapted:
        exact, rounded = (PeftModel.from_pretrained(m, folder) for m in (exact, rounded))
    engine = TransformersEngine(load(folders[family], torch.bfloat16))
    found = np.concatenate(engine.branch_log_probs(prompts, branches, adapter=folder))
    truth = np.concatenate(separate(exact, prompts, branches))
    plain = np.concatenate(separate(rounded, prompts, branches))
    error, usual = (np.sqrt(np.mean((x - truth) ** 2)) for x in (found, plain))
    assert error < 1.1 * usual
    assert np.abs(found - plain).max() < 6 * usual


@pytest.mark.parametrize("takes_mask", [True, False], ids=["tree", "rows"])
def test_a_models_own_forward_scores_alike(takes_mask: bool, folders, adapters) -> None:
    prompts, branches = sample(n=3, n_branches=12)
    known = TransformersEngine(load(folders["qwen2"]))
    unknown = TransformersEngine(load(folders["qwen2"]), batch_tokens=150)
    unknown._llama, unknown._takes_mask = None, takes_mask
    for folder in (None, adapters["qwen2"][0]):
        for ask in (
            lambda engine, f=folder: engine.branch_log_probs(prompts, branches, adapter=f),
            lambda engine, f=folder: engine.branch_choice(prompts, branches, CHOICES, adapter=f),
        ):
            assert worst(ask(unknown), ask(known)) < 1e-4


def test_batches_change_nothing_beyond_rounding_and_repeat_bit_for_bit(family, folders) -> None:
    prompts, branches = sample(n=7)
    model = load(folders[family])
    whole = TransformersEngine(model, batch_tokens=100_000)
    first = whole.branch_log_probs(prompts, branches, adapter=None)
    again = whole.branch_log_probs(prompts, branches, adapter=None)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    for batch_tokens in (1, 100, 700):
        engine = TransformersEngine(model, batch_tokens=batch_tokens)
        parts = engine.branch_log_probs(prompts, branches, adapter=None)
        assert worst(parts, first) < 1e-4
    backwards = whole.branch_log_probs(
        prompts[::-1], [own[::-1] for own in branches[::-1]], adapter=None
    )
    assert worst([row[::-1] for row in backwards[::-1]], first) < 1e-4


def test_base_after_an_adapter_is_the_pure_base(family: str, folders, adapters) -> None:
    prompts, branches = sample()
    engine = TransformersEngine(load(folders[family]))
    fresh = engine.branch_log_probs(prompts, branches, adapter=None)
    one, two = (
        engine.branch_log_probs(prompts, branches, adapter=folder) for folder in adapters[family]
    )
    engine.generate(
        prompts, max_new_tokens=[2] * len(prompts), stop=[], adapter=adapters[family][0]
    )
    base = engine.branch_log_probs(prompts, branches, adapter=None)
    back = engine.branch_log_probs(prompts, branches, adapter=adapters[family][0])
    assert all(np.array_equal(a, b) for a, b in zip(base, fresh, strict=True))
    assert all(np.array_equal(a, b) for a, b in zip(one, back, strict=True))
    assert worst(one, fresh) > 1
    assert worst(one, two) > 1


def test_the_models_own_outputs_survive_the_stacking_of_its_weights(family: str, folders) -> None:
    ids = torch.arange(3, 40)[None]
    model = load(folders[family])
    before = model(input_ids=ids).logits
    n_bytes = sum(p.untyped_storage().nbytes() for p in model.parameters())
    TransformersEngine(model)
    assert torch.equal(model(input_ids=ids).logits, before)
    storages = {p.untyped_storage().data_ptr(): p.untyped_storage() for p in model.parameters()}
    assert sum(s.nbytes() for s in storages.values()) <= n_bytes


def test_a_uniform_model_is_at_chance(folders) -> None:
    model = load(folders["llama"])
    model.get_output_embeddings().weight.zero_()
    prompts, branches = sample()
    engine = TransformersEngine(model)
    sums = engine.branch_log_probs(prompts, branches, adapter=None)
    for row, own in zip(sums, branches, strict=True):
        assert row == pytest.approx([-len(b) * np.log(VOCAB) for b in own], abs=1e-4)
    choice = engine.branch_choice(prompts, branches, CHOICES, adapter=None)
    assert all(np.allclose(row, -np.log(VOCAB), atol=1e-5) for row in choice)


def test_huge_logits_neither_overflow_nor_vanish(folders) -> None:
    """Logits of thousands: their exponentials are beyond float32 in both directions."""
    model = load(folders["qwen2"])
    model.get_output_embeddings().weight.mul_(300)
    prompts, branches = sample(n=2, n_branches=8)
    found = TransformersEngine(model).branch_log_probs(prompts, branches, adapter=None)
    expected = separate(model, prompts, branches)
    for f, e in zip(found, expected, strict=True):
        assert np.allclose(f, e, rtol=1e-4, atol=1e-3)


def test_tokens_are_counted_as_they_are_read(folders) -> None:
    engine = TransformersEngine(load(folders["llama"]))
    a, b, c = (np.array(ids, dtype=np.int32) for ids in ([9, 10, 11], [9, 10, 12], [8]))
    prompt = np.arange(3, 13, dtype=np.int32)
    engine.branch_log_probs([prompt], [[a, b, c]], adapter=None)
    # The shared beginning (9, 10) once; last tokens are only predicted.
    assert engine.tokens_processed == 10 + 2
    engine.branch_choice([prompt], [[a, b, c]], CHOICES, adapter=None)
    assert engine.tokens_processed == 12 + 10 + 5
    engine.generate([prompt], max_new_tokens=[4], stop=[], adapter=None)
    assert engine.tokens_processed == 27 + 10 + 3


def test_wrong_prompts_are_refused(folders) -> None:
    engine = TransformersEngine(load(folders["llama"]))
    ok, empty = np.array([5], dtype=np.int32), np.array([], dtype=np.int32)
    with pytest.raises(ConfigError, match="prompt 1 is empty"):
        engine.branch_log_probs([ok, empty], [[ok], [ok]], adapter=None)
    with pytest.raises(ConfigError, match="a branch of prompt 0 holds token ids from 384 to 384"):
        engine.branch_log_probs([ok], [[np.array([384], dtype=np.int32)]], adapter=None)
    with pytest.raises(ConfigError, match="choices holds token ids from -1"):
        engine.branch_choice([ok], [[ok]], [-1], adapter=None)
    with pytest.raises(MethodError, match=r"prompt 0 has 4096 tokens and up to 1 follow"):
        engine.branch_log_probs([np.full(4096, 5, np.int32)], [[ok]], adapter=None)
    with pytest.raises(ConfigError, match="max_new_tokens of prompt 0 is 0"):
        engine.generate([ok], max_new_tokens=[0], stop=[], adapter=None)
    with pytest.raises(ConfigError, match="batch_tokens is 0"):
        TransformersEngine(load(folders["llama"]), batch_tokens=0)
    assert engine.branch_log_probs([], [], adapter=None) == []
    assert engine.generate([], max_new_tokens=[], stop=[], adapter=None) == []
