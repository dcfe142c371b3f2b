"""The ``paper`` profile as far as it goes without a GPU: a random tiny model with Qwen2's modules.

Backbone, rows and batch are small; everything else is what the profile says.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from bench.evaluation import metric_per_user
from bench.llm.adapters import AdapterStore
from bench.llm.backbones import load_tokenizer, resolve_backbone
from bench.llm.engines import make_engine
from bench.llm.methods.branches import AdapterMethod
from bench.llm.mixtures import writer_for
from bench.merging import read_adapter
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol.task import Task, build_task
from bench.testing import evaluate, make_context
from bench.testing.planted import planted_domain

pytestmark = pytest.mark.filterwarnings(
    # PEFT 0.21 asks transformers 5 for a property that has a new name.
    "ignore:.*is_gradient_checkpointing.*:FutureWarning"
)

LINEARS = {
    *(f"self_attn.{name}_proj" for name in "qkvo"),
    *(f"mlp.{name}_proj" for name in ("gate", "up", "down")),
}
# What is smaller than in the study; the rank too, so that ranks do not reach the model's width.
SMALL = {
    "train_examples": 8,
    "training.batch_sequences": 4,
    "training.learning_rate": 0.02,
    "lora.r": 4,
    "lora.alpha": 8.0,
}


@pytest.fixture(scope="module")
def task() -> Task:
    domains = [planted_domain(name, n_users=40, n_items=45, seed=i) for i, name in enumerate("abc")]
    return build_task(domains[0], sources=domains[1:])


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> AdapterStore:
    return AdapterStore(tmp_path_factory.mktemp("paper") / "adapters")


def weave(backbone: Path, profile: str = "paper", **changes: Any) -> AdapterMethod:
    method_cls = resolve("weaverec")
    overrides = {**SMALL, "backbone": str(backbone), **changes}
    method = method_cls(resolve_config(method_cls, profile=profile, overrides=overrides))
    assert isinstance(method, AdapterMethod)
    return method


def fit(method: AdapterMethod, task: Task, folder: Path, store: AdapterStore) -> Any:
    context = make_context(
        folder, task, capabilities=type(method).capabilities(method.config), adapters=store
    )
    method.fit(task.train_view(with_sources=True), context)
    return context


def log_probs(model: Any, prompt: np.ndarray, branches: list[np.ndarray]) -> list[float]:
    """Sum of the log-probabilities of every branch after the prompt, one forward pass each."""
    found = []
    for branch in branches:
        ids = torch.from_numpy(np.concatenate([prompt, branch])[None].astype(np.int64))
        with torch.no_grad():
            logits = model(ids).logits[0, len(prompt) - 1 : -1].double().log_softmax(-1)
        found.append(float(logits[torch.arange(len(branch)), ids[0, len(prompt) :]].sum()))
    return found


def test_a_long_history_is_cut_at_its_old_end_and_candidates_stay(tiny_qwen2):
    method_cls = resolve("target-only")
    config = resolve_config(
        method_cls, profile="paper", overrides={"backbone": str(tiny_qwen2), "max_history": 300}
    )
    tokenizer = load_tokenizer(resolve_backbone(str(tiny_qwen2)))
    titles = [f"Film number {i} (19{i % 90 + 10})" for i in range(400)]
    free = writer_for(titles, config.model_copy(update={"max_prompt_tokens": None}), tokenizer)
    writer = writer_for(titles, config, tokenizer)
    history, shown = np.arange(330), np.arange(330, 360)
    whole, cut = free.prompt(history, shown), writer.prompt(history, shown)
    limit = 2048 - writer.answer_room(shown)
    assert len(whole) > 2 * limit
    assert limit - 40 < len(cut) <= limit
    past, _, listed = tokenizer.decode(cut).partition("Which of the following")
    assert all(titles[i] in listed for i in shown)
    kept = [i for i in history.tolist() if titles[i] in past]
    assert kept == list(range(kept[0], 330))
    assert 20 < len(kept) < 300


def test_the_profiles_say_how_long_a_prompt_may_be():
    for name in ("llm-zero-shot", "target-only", "weaverec", "adamerging", "tallrec"):
        config = resolve_config(resolve(name), profile="paper")
        assert (config.max_prompt_tokens, config.max_history) == (
            2048,
            10 if name == "tallrec" else 50,
        )
        as_run = resolve_config(resolve(name), profile="paper-as-run")
        # Llama-2 reads 4,096 tokens, the reference study's model 32,768.
        assert as_run.max_prompt_tokens == (3072 if name == "tallrec" else None)
        assert as_run.max_history == 100_000


def test_tallrec_is_one_thing_in_each_profile():
    """As published: yes/no questions. As the reference study ran it: its own lists."""
    published = resolve_config(resolve("tallrec"), profile="paper")
    assert (published.variant, published.prompt, published.scorer) == (
        "pointwise",
        "pointwise",
        "likelihood",
    )
    assert (published.lora.r, published.lora.targets) == (8, ("q_proj", "v_proj"))
    assert published.training.learning_rate == 1e-4
    lists = resolve_config(resolve("tallrec"), profile="paper", overrides={"variant": "listwise"})
    assert (lists.prompt, lists.label, lists.scorer) == ("listwise", "title", "likelihood")
    as_run = resolve_config(resolve("tallrec"), profile="paper-as-run")
    other = resolve_config(resolve("all-data"), profile="paper-as-run")
    own = {"backbone", "variant", "title_chars", "max_prompt_tokens"}
    differing = {
        key
        for key, value in as_run.model_dump().items()
        if other.model_dump().get(key, "missing") != value
    }
    assert differing == own
    assert (as_run.label, as_run.scorer, as_run.match) == ("top5", "generate", "strict")


@pytest.mark.parametrize(("space", "rank"), [("factor", 4), ("product", 12)])
def test_qwen2_is_trained_merged_and_served_as_the_paper_profile_says(
    space, rank, task, store, tiny_qwen2, tmp_path
):
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    method = weave(tiny_qwen2, space=space)
    assert method.config.prompt == "listwise"
    context = fit(method, task, tmp_path / "c", store)
    trained = [one for one in store.list() if one.kind == "trained"]
    assert len(trained) == 3
    for one in trained:
        recipe, report = one.metadata["recipe"], one.metadata["report"]
        assert recipe["training"]["epochs"] == 2 and recipe["training"]["warmup"] == 0.05
        assert recipe["lora"]["dropout"] == 0.05 and recipe["label"] == "title"
        assert report["steps"] == 2 * 2 * len(one.domains)
        assert report["losses"][-1] < report["losses"][0]
    assert method.adapter is not None
    merged = read_adapter(method.adapter)
    assert set(merged.modules) == {
        f"model.layers.{layer}.{name}" for layer in range(2) for name in LINEARS
    }
    assert (merged.config.r, merged.config.scaling) == (rank, 2.0)

    # Served: the engine, PEFT's own forward and a model with the update folded in are one function.
    tokenizer = load_tokenizer(resolve_backbone(str(tiny_qwen2)))
    encoded = [
        tokenizer(text)["input_ids"] for text in ("The user bought: Heat", "Heat", "Toy Story")
    ]
    prompt, *branches = (np.array(ids, np.int32) for ids in encoded)
    engine = make_engine("transformers", resolve_backbone(str(tiny_qwen2)))
    (found,) = engine.branch_log_probs([prompt], [branches], adapter=method.adapter)
    (bare,) = engine.branch_log_probs([prompt], [branches], adapter=None)
    engine.close()
    base = AutoModelForCausalLM.from_pretrained(tiny_qwen2, dtype=torch.float32).eval()
    served = PeftModel.from_pretrained(base, method.adapter).eval()
    expected = log_probs(served, prompt, branches)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    folded = served.merge_and_unload()
    np.testing.assert_allclose(found, log_probs(folded, prompt, branches), atol=1e-4)
    assert np.abs(found - bare).min() > 1e-3

    outcomes = evaluate(method, task.test(task.subset(8)), context)
    assert np.isfinite(metric_per_user(outcomes, "ndcg@5")).all()


def test_the_spaces_serve_different_averages_of_the_same_adapters(
    task, store, tiny_qwen2, tmp_path
):
    updates = []
    for space in ("factor", "product"):
        method = weave(tiny_qwen2, space=space)
        fit(method, task, tmp_path / space, store)
        assert method.adapter is not None
        updates.append(read_adapter(method.adapter))
    one, two = ({m: a.delta(m) for m in a.modules} for a in updates)
    gaps = [float((one[m] - two[m]).norm() / two[m].norm()) for m in one]
    # One initialisation: the factors drift apart, but not to unrelated draws.
    assert 1e-4 < max(gaps) < 0.7
