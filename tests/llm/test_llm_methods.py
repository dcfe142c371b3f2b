"""The LLM methods as users run them: on planted domains, with a random tiny backbone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bench.data.domain import Sequences
from bench.errors import ConfigError, MethodError
from bench.evaluation import metric_per_user
from bench.llm.adapters import AdapterStore
from bench.llm.config import PRIOR_SHARES, LLMConfig
from bench.llm.engines.transformers import TransformersEngine
from bench.llm.mixtures import AdapterRecipe
from bench.llm.scoring import request_prompts
from bench.methods import Method, PlanSpec
from bench.methods.config import resolve_config
from bench.methods.registry import resolve
from bench.protocol.task import Task
from bench.protocol.types import Requests
from bench.testing import evaluate, make_context, planted_task

# A model of 30,000 random weights needs more steps than a pretrained one.
BUDGET = {
    "train_examples": 120,
    "max_history": 6,
    "validation_users": 40,
    "batch_tokens": 2048,
    "lora.r": 8,
    "training.learning_rate": 0.02,
    "training.epochs": 6,
}


def make(name: str, backbone: Path, **changes: Any) -> Method:
    method_cls = resolve(name)
    values = {**BUDGET, "backbone": str(backbone), **changes}
    if name == "llm-zero-shot":
        trained = ("train_", "lora", "training")
        values = {k: v for k, v in values.items() if not k.startswith(trained)}
    return method_cls(resolve_config(method_cls, overrides=values))


@pytest.fixture(scope="module")
def task() -> Task:
    return planted_task(n_users=160, n_items=50, noise=0.05, n_sources=2)


def fitted(method: Method, task: Task, folder: Path, store: AdapterStore, **changes: Any):
    capabilities = type(method).capabilities(method.config)
    context = make_context(
        folder, task, capabilities=capabilities, validation_users=40, adapters=store, **changes
    )
    view = task.train_view(with_sources=capabilities.needs_sources)
    method.fit(view, context)
    return context


def figures(method: Method, task: Task, context: Any, n: int = 120) -> dict[str, float]:
    outcomes = evaluate(method, task.test(task.subset(n)), context)
    return {m: float(metric_per_user(outcomes, m).mean()) for m in ("ndcg@1", "ndcg@5")}


def test_an_untrained_random_model_is_near_chance(task, tiny_llama, tmp_path, store):
    method = make("llm-zero-shot", tiny_llama)
    context = fitted(method, task, tmp_path / "c", store)
    found = figures(method, task, context)
    # Chance is .033 and .098; the planted titles share words, so that a model may favour some.
    assert found["ndcg@1"] < 0.15
    assert found["ndcg@5"] < 0.25
    assert not store.used


@pytest.mark.parametrize(
    ("name", "changes"),
    [("llm-zero-shot", {}), ("tallrec", {"train_examples": 4, "training.epochs": 1})],
)
def test_a_model_that_knows_nothing_is_at_chance(name, changes, task, tiny_qwen2, tmp_path, store):
    """Every token equally likely: titles differ by their lengths alone, answers not at all."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(tiny_qwen2)
    torch.nn.init.zeros_(model.get_output_embeddings().weight)
    model.save_pretrained(tmp_path / "uniform")
    AutoTokenizer.from_pretrained(tiny_qwen2).save_pretrained(tmp_path / "uniform")
    method = make(name, tmp_path / "uniform", **changes)
    context = fitted(method, task, tmp_path / "c", store)
    outcomes = evaluate(method, task.test(task.subset(60)), context)
    assert (outcomes.n_tied == 29).all()
    assert metric_per_user(outcomes, "ndcg@1").mean() == pytest.approx(1 / 30)


@pytest.mark.slow
def test_a_trained_model_writes_the_title_that_is_likeliest(tiny_llama, tmp_path, store):
    """Greedy decoding may miss the likeliest title; of a model that has learnt its answers it seldom does."""
    few = planted_task(n_users=8)
    learnt = {"train_examples": 8, "max_history": 15, "lora.r": 16}
    learnt |= {"training.learning_rate": 0.003, "training.epochs": 300}
    method = make("target-only", tiny_llama, **learnt)
    context = fitted(method, few, tmp_path / "c", store)
    # What was trained on: every user's sequence up to its last item.
    sequences = few.train_view(with_sources=False).target.sequences
    rows = [sequences[user] for user in range(8)]
    offsets = np.concatenate([[0], np.cumsum([len(row) - 1 for row in rows])]).astype(np.int64)
    history = Sequences(offsets, np.concatenate([row[:-1] for row in rows]))
    every = np.broadcast_to(np.arange(few.n_items, dtype=np.int32), (8, few.n_items))
    requests = Requests(few.target, np.arange(8, dtype=np.int32), history, every)
    likeliest = method.score(requests, context).values.argmax(axis=1)
    learned = [row[-1] for row in rows]
    assert likeliest.tolist() == learned, "agreement in ignorance would say nothing"
    scorer = method._scorer
    assert scorer is not None
    writer = scorer._writer
    written = scorer._engine.generate(
        request_prompts(writer, requests),
        max_new_tokens=[writer.max_new_tokens()] * 8,
        stop=writer.stop_ids,
        adapter=method.adapter,
    )
    texts = [writer.text(answer.tokens).strip() for answer in written]
    agree = [text == writer.titles[item] for text, item in zip(texts, likeliest, strict=True)]
    assert np.mean(agree) > 0.8


@pytest.mark.parametrize("architecture", ["tiny_llama", "tiny_qwen2"])
def test_target_only_learns_the_planted_pattern(architecture, task, request, tmp_path, store):
    method = make("target-only", request.getfixturevalue(architecture))
    context = fitted(method, task, tmp_path / "c", store)
    found = figures(method, task, context)
    assert found["ndcg@5"] > 0.098 + 0.15


def test_one_adapter_serves_every_method_that_asks_for_it(task, tiny_llama, tmp_path, store):
    budget = {"train_examples": 20, "training.epochs": 1}
    fitted(make("target-only", tiny_llama, **budget), task, tmp_path / "a", store)
    assert [use.trained_now for use in store.used] == [True]
    again = AdapterStore(store.root)
    fitted(make("target-only", tiny_llama, **budget), task, tmp_path / "b", again)
    assert [use.trained_now for use in again.used] == [False]
    # The domains of all-data are the same whoever is the target, and so is its adapter.
    whole = AdapterStore(store.root)
    fitted(make("all-data", tiny_llama, **budget), task, tmp_path / "c", whole)
    domains = {
        tuple(a.metadata["recipe"]["mixture"][i]["domain"] for i in range(3))
        for a in whole.list()
        if a.kind == "trained" and len(a.metadata["recipe"]["mixture"]) == 3
    }
    assert domains == {("planted", "planted-source-0", "planted-source-1")}


def test_all_data_on_one_domain_is_target_only(tiny_llama, tmp_path, store):
    alone = planted_task(n_users=60, n_items=50)
    view = alone.train_view(with_sources=True)
    assert view.sources == ()
    budget = {"train_examples": 20, "training.epochs": 1}
    for name in ("target-only", "all-data"):
        method = make(name, tiny_llama, **budget)
        method.fit(view, make_context(tmp_path / name, alone, adapters=store))
    assert len({use.adapter_id for use in store.used}) == 1


def test_source_only_takes_one_source(task, tiny_llama, tmp_path, store):
    method = make("source-only", tiny_llama, train_examples=20)
    with pytest.raises(ConfigError, match="one run per source"):
        fitted(method, task, tmp_path / "c", store)


@pytest.mark.parametrize("name", ["target-only", "all-data", "tallrec"])
def test_a_plan_names_the_adapter_that_is_then_made(name, task, tiny_llama, tmp_path, store):
    method = make(name, tiny_llama, train_examples=8, **{"training.epochs": 1})
    view = task.train_view(with_sources=True)
    hashes = {part.name: part.training_hash for part in (view.target, *view.sources)}
    spec = PlanSpec(
        target=view.target.name,
        sources=tuple(part.name for part in view.sources),
        profile="cpu",
        seed=0,
        training_hashes=hashes,
    )
    planned = {job.key for job in method.plan(spec) if job.kind == "adapter"}
    fitted(method, task, tmp_path / "c", store)
    assert planned == {use.adapter_id for use in store.used if use.kind == "trained"}


def test_what_decides_an_adapter_is_in_its_identity(tiny_llama):
    """A quantised base gives another adapter; memory settings and attention kernels do not."""

    def identity(**changes: Any) -> str:
        config = make("target-only", tiny_llama, **changes).config
        return AdapterRecipe(config, 0, 0, "bfloat16").spec([("a", "0" * 64)]).adapter_id

    memory = {"training.gradient_checkpointing": True, "training.micro_batch_tokens": 512}
    assert identity() == identity(attention="eager") == identity(**memory)
    assert len({identity(), identity(quantisation="4bit"), identity(quantisation="8bit")}) == 3
    dropped = {"lora.dropout": 0.1}
    assert identity(**dropped) != identity(**dropped, **memory)


def test_tallrec_scores_candidates_one_by_one(task, tiny_llama, tmp_path, store):
    method = make("tallrec", tiny_llama, train_examples=8, **{"training.epochs": 1})
    assert method.config.prompt == "pointwise"
    assert tuple(method.config.lora.targets) == ("q_proj", "v_proj")
    context = fitted(method, task, tmp_path / "c", store)
    requests, _ = task.validation(task.subset(3))
    whole = method.score(requests, context).values
    some = np.arange(0, 30, 3)
    fewer = type(requests)(
        requests.domain, requests.users, requests.history, requests.candidates[:, some]
    )
    np.testing.assert_allclose(method.score(fewer, context).values, whole[:, some], atol=1e-4)


def test_tallrec_variant_and_prompt_must_agree(tiny_llama):
    assert make("tallrec", tiny_llama, variant="listwise").config.prompt == "listwise"
    with pytest.raises(ConfigError, match="does not fit variant"):
        make("tallrec", tiny_llama, variant="listwise", prompt="pointwise")


def test_generate_needs_a_prompt_that_asks_for_a_list(tiny_llama):
    with pytest.raises(ConfigError, match="listwise"):
        make("target-only", tiny_llama, scorer="generate")


def test_choosing_needs_a_prompt_that_asks_for_a_list(tiny_llama):
    with pytest.raises(ConfigError, match="listwise"):
        make("llm-zero-shot", tiny_llama, scorer="choose")
    method = make("llm-zero-shot", tiny_llama, prompt="listwise", scorer="choose")
    assert method.config.n_answers == 5
    assert type(method).capabilities(method.config).may_leave_unranked


def test_generated_lists_become_slots(task, tiny_llama, tmp_path, store):
    method = make("llm-zero-shot", tiny_llama, prompt="listwise", scorer="generate")
    context = fitted(method, task, tmp_path / "c", store)
    requests, _ = task.validation(task.subset(4))
    scores = method.score(requests, context)
    assert scores.slots is not None
    assert scores.slots.shape == (4, 5)
    named = scores.slots[scores.slots >= 0]
    assert np.isfinite(scores.values).sum() == len(named)
    assert scores.diagnostics["n_prompts"] == 4


def test_candidate_mass_is_a_probability(task, tiny_llama, tmp_path, store):
    method = make("target-only", tiny_llama)
    context = fitted(method, task, tmp_path / "c", store)
    requests, _ = task.validation(task.subset(20))
    diagnostics = method.score(requests, context).diagnostics
    assert 0 < diagnostics["candidate_mass_sum"] <= diagnostics["n_prompts"]
    assert diagnostics["tokens"] > 0


def test_a_saved_method_scores_as_before(task, tiny_llama, tmp_path, store):
    method = make("target-only", tiny_llama, train_examples=20)
    context = fitted(method, task, tmp_path / "c", store)
    folder = tmp_path / "model"
    folder.mkdir()
    method.save(folder)
    other = make("target-only", tiny_llama, train_examples=20)
    with pytest.raises(MethodError, match="before it was fitted"):
        other.score(task.validation(task.subset(2))[0], context)
    other.load(folder)
    requests, _ = task.validation(task.subset(10))
    assert np.array_equal(
        other.score(requests, context).values, method.score(requests, context).values
    )


def test_a_constrained_list_names_five_candidates(task, tiny_llama, tmp_path, store):
    """A random model, which writes no title by itself, must name five whatever it would like to say."""
    method = make("llm-zero-shot", tiny_llama, prompt="listwise", scorer="choose")
    context = fitted(method, task, tmp_path / "c", store)
    requests, _ = task.validation(task.subset(6))
    scores = method.score(requests, context)
    assert scores.slots.min() >= 0
    assert all(len(set(row)) == 5 for row in scores.slots.tolist())
    assert scores.diagnostics["answers_full"] == 6
    assert scores.diagnostics["stopped_by_length"] == 0
    free = make("llm-zero-shot", tiny_llama, prompt="listwise", scorer="generate")
    fitted(free, task, tmp_path / "f", store)
    assert free.score(requests, context).diagnostics["answers_full"] == 0


@pytest.mark.parametrize("prompt", ["sequence", "listwise"])
def test_the_prior_is_what_a_title_has_without_history(prompt, task, tiny_llama, tmp_path, store):
    changes = {"prompt": prompt, "train_examples": 8, "training.epochs": 1}
    plain = make("target-only", tiny_llama, prior_share=0.0, **changes)
    calibrated = make("target-only", tiny_llama, prior_share=1.0, **changes)
    context = fitted(plain, task, tmp_path / "a", store)
    fitted(calibrated, task, tmp_path / "b", store)
    requests, _ = task.validation(task.subset(4))
    nothing = Sequences(np.zeros(5, np.int64), np.empty(0, np.int32))
    without = replace(requests, history=nothing)
    expected = plain.score(requests, context).values - plain.score(without, context).values
    found = calibrated.score(requests, context).values
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.ptp(found - plain.score(requests, context).values, axis=1).min() > 0.01
    # Nothing is known of a user without history: all candidates tie.
    np.testing.assert_allclose(calibrated.score(without, context).values, 0.0, atol=2e-4)


def test_validation_chooses_the_share_of_the_prior(task, tiny_llama, tmp_path, store):
    changes = {"train_examples": 30, "training.epochs": 2}
    chosen = make("target-only", tiny_llama, **changes)
    context = fitted(chosen, task, tmp_path / "a", store)
    assert chosen.report is not None
    ndcg = {}
    for share in PRIOR_SHARES:
        fixed = make("target-only", tiny_llama, prior_share=share, **changes)
        fixed.fit(task.train_view(with_sources=False), context)
        assert fixed.report is None
        ndcg[share] = context.validate(fixed).ndcg[5]
    assert len(set(ndcg.values())) > 1, "the shares must rank differently to be chosen from"
    tried = chosen.report["validation_ndcg@5_by_prior_share"]
    assert {float(k): v for k, v in tried.items()} == pytest.approx(ndcg, abs=1e-6)
    assert ndcg[chosen.prior_share] == max(ndcg.values())
    assert len(store.used) == 1

    # What is served after a restart is what was chosen.
    chosen.prior_share = 0.25
    chosen.save(tmp_path)
    loaded = make("target-only", tiny_llama, **changes)
    loaded.load(tmp_path)
    requests, _ = task.validation(task.subset(6))
    np.testing.assert_array_equal(
        loaded.score(requests, context).values, chosen.score(requests, context).values
    )


def test_one_pass_over_the_validation_users_serves_all_shares(
    task, tiny_llama, tmp_path, store, monkeypatch
):
    asked = []
    read = TransformersEngine.branch_log_probs

    def counting(self, prompts, branches, *, adapter):
        asked.append(sum(len(own) for own in branches))
        return read(self, prompts, branches, adapter=adapter)

    monkeypatch.setattr(TransformersEngine, "branch_log_probs", counting)
    method = make("llm-zero-shot", tiny_llama)
    fitted(method, task, tmp_path / "c", store)
    assert sum(asked) == 40 * 30 + task.n_items


@pytest.mark.parametrize(
    "changes", [{"prompt": "listwise", "scorer": "generate"}, {"prompt": "pointwise"}]
)
def test_only_likelihoods_of_titles_have_a_prior(changes):
    assert LLMConfig(**changes).prior_shares == (0.0,)
    assert LLMConfig().prior_shares == PRIOR_SHARES
    assert LLMConfig(prior_share=0.5).prior_shares == (0.5,)
    with pytest.raises(ValueError, match=r"prior_share=0\.5 needs the likelihood"):
        LLMConfig(prior_share=0.5, **changes)
