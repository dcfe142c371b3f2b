"""LLM-Rec as users run it: one model for a group, LoRA, resume, and a planted domain."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from killed_epoch import assert_resumes
from llm_rec_parts import QUICK, Parts, fitted
from product_dtypes import product_dtypes
from tiny_catalogue import sequences
from tiny_encoder import tiny_encoder
from tiny_group import swapped, unlike_task

from bench.baselines.llm_rec.config import LLMRecConfig
from bench.baselines.llm_rec.method import LLMRec
from bench.baselines.llm_rec.rows import BatchStream
from bench.baselines.llm_rec.training import add_lora, merge_lora
from bench.baselines.schedules import adamw
from bench.baselines.text import load_encoder_model, resolve_encoder
from bench.errors import ConfigError
from bench.evaluation import metric_per_user, random_row
from bench.methods import Progress, resolve_config
from bench.testing import CHECKS, check_method, evaluate, make_context, planted_task


def test_one_model_serves_all_targets_of_a_group(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = planted_task(n_users=60, n_sources=2)
    view = task.train_view(with_sources=True)
    first, _, context = fitted(folder, tmp_path / "a", task=task)
    from bench.baselines.llm_rec import method as module

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("trained a second time")

    monkeypatch.setattr(module, "train_shared", refuse)
    uses: list[Any] = []
    second = LLMRec(first.config)
    store = LLMRec.adapter_store(tmp_path / "store")
    store.watch(lambda used, *_: uses.extend(used))
    context = make_context(tmp_path / "b", task, adapters=store)
    monkeypatch.setattr(type(context), "validate", lambda *_: None)
    second.fit(swapped(view), context)
    assert first.model is not None
    assert second.model is not None
    for name, value in first.model.state_dict().items():
        torch.testing.assert_close(second.model.state_dict()[name], value, rtol=0, atol=0)
    (use,) = uses
    assert not use.trained_now
    assert use.cpu_seconds > 0
    with pytest.raises(AssertionError, match="a second time"):
        fitted(folder, tmp_path / "c", task=task, learning_rate=1e-3)


def test_training_does_not_depend_on_which_domain_is_the_target(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With two empty stores, so that either target has to train."""
    task = unlike_task()
    view = task.train_view(with_sources=True)
    one, _, context = fitted(folder, tmp_path / "one" / "run", task=task, view=view)
    monkeypatch.setattr(type(context), "validate", lambda *_: None)
    two, _, _ = fitted(folder, tmp_path / "two" / "run", task=task, view=swapped(view))
    assert one.model is not None
    assert two.model is not None
    first, second = one.model.state_dict(), two.model.state_dict()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


def test_full_fine_tuning_changes_every_weight(folder: Path, tmp_path: Path) -> None:
    method, _, _ = fitted(folder, tmp_path / "run", learning_rate=1e-2)
    start = load_encoder_model(resolve_encoder(str(folder)))[0].state_dict()
    assert method.model is not None
    same = [
        name
        for name, value in method.model.backbone.state_dict().items()
        if torch.equal(value, start[name]) and "position_ids" not in name
    ]
    assert same == []


def test_lora_trains_the_factors_alone(parts: Parts) -> None:
    start = {k: v.clone() for k, v in parts.model.backbone.state_dict().items()}
    add_lora(parts.model, LLMRecConfig(lora_rank=4), seed=0)
    trained = [n for n, p in parts.model.named_parameters() if p.requires_grad]
    assert trained
    assert all("lora_" in name for name in trained)
    optimiser = adamw(parts.model, learning_rate=0.05)
    items, label = np.array([[0, 1, 3]]), np.array([2])
    for _ in range(2):
        parts.model.loss(
            parts.writer, parts.table, np.arange(6), sequences([1, 2]), items, label
        ).backward()
        optimiser.step()
    for name, value in parts.model.backbone.state_dict().items():
        plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
        if "lora_" not in name:
            assert torch.equal(value, start[plain]), name
    parts.model.eval()
    history = sequences([1, 2])
    with torch.inference_mode():
        adapted = parts.model.encode(parts.writer, parts.table, history)
        merge_lora(parts.model)
        merged = parts.model.encode(parts.writer, parts.table, history)
    torch.testing.assert_close(merged, adapted, rtol=0, atol=1e-4)
    changed = [
        name
        for name, value in parts.model.backbone.state_dict().items()
        if not torch.equal(value, start[name])
    ]
    assert changed
    assert all("attention.self" in name for name in changed)


def test_lora_is_an_option(folder: Path, tmp_path: Path) -> None:
    method, task, context = fitted(folder, tmp_path / "run", lora_rank=2)
    requests, _ = task.validation(task.subset(None))
    assert np.isfinite(method.score(requests, context).values).all()


def test_held_out_loss_chooses_the_weights(folder: Path, tmp_path: Path) -> None:
    method, _, _ = fitted(folder, tmp_path / "run", holdout_share=0.5, steps=6)
    assert method.report is not None
    figures = [entry["minus held-out loss"] for entry in method.report.history]
    assert len(figures) == 3
    assert method.report.best_epoch == 1 + int(np.argmax(figures))
    plain, _, _ = fitted(folder, tmp_path / "other", steps=5)
    assert plain.report is not None
    assert plain.report.best_epoch == 3
    assert "minus held-out loss" not in plain.report.history[0]


def test_a_killed_training_resumes_with_the_same_weights(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = planted_task(n_users=60, n_sources=1)
    whole, _, _ = fitted(folder, tmp_path / "one" / "run", task=task)
    take, calls = BatchStream.take, []

    def killed(self: BatchStream, first: int, count: int) -> Any:
        calls.append(first)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return take(self, first, count)

    with monkeypatch.context() as patch:
        patch.setattr(BatchStream, "take", killed)
        with pytest.raises(KeyboardInterrupt):
            fitted(folder, tmp_path / "two" / "run", task=task)
    assert calls == [0, 2]
    again, _, _ = fitted(folder, tmp_path / "two" / "run", task=task)
    assert whole.model is not None
    assert again.model is not None
    for name, value in whole.model.state_dict().items():
        torch.testing.assert_close(again.model.state_dict()[name], value, rtol=0, atol=0)


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_a_killed_training_in_bfloat16_resumes_with_the_same_scores(
    folder: Path, tmp_path: Path, lora_rank: int
) -> None:
    """Runs are in bfloat16 unless users ask for another dtype."""
    assert LLMRec.run_defaults("cpu").dtype == "bfloat16"
    task = planted_task(n_users=30, n_sources=1)
    scores: list[np.ndarray] = []

    def fit(name: str, progress: Progress) -> torch.nn.Module:
        method, _, context = fitted(
            folder, tmp_path / name / "run", task=task, progress=progress, dtype="bfloat16",
            lora_rank=lora_rank,
        )  # fmt: skip
        requests, _ = task.validation(task.subset(None))
        scores.append(method.score(requests, context).values)
        assert method.model is not None
        return method.model

    with product_dtypes() as seen:
        assert_resumes(fit, killed_in=2)
    whole, resumed = scores
    assert seen == {torch.bfloat16}
    np.testing.assert_array_equal(resumed, whole)


def test_texts_longer_than_the_encoder_reads_are_refused(tmp_path: Path) -> None:
    folder = tiny_encoder(tmp_path / "short", positions=64)
    with pytest.raises(ConfigError, match="reads 63 behind its first"):
        fitted(folder, tmp_path / "run", title_tokens=40)


def test_profiles_and_notes() -> None:
    paper = resolve_config(LLMRec, profile="paper")
    assert (paper.title_tokens, paper.max_history, paper.negatives) == (40, 10, 10)
    assert (paper.pooling, paper.temperature) == ("cls", None)
    assert LLMRec.row_note(LLMRecConfig()) == "MiniLM"
    assert LLMRec.row_note(paper) == ""


LEARNS = {"steps": 150, "check_steps": 75, "learning_rate": 3e-3}


def test_learns_a_planted_pattern(folder: Path, tmp_path: Path) -> None:
    method, task, context = fitted(
        folder, tmp_path / "run", task=planted_task(n_sources=2), **LEARNS
    )
    outcomes = evaluate(method, task.test(task.subset(None)), context)
    figure = float(metric_per_user(outcomes, "ndcg@5").mean())
    assert figure > random_row(30)["ndcg@5"] + 0.25


def test_conforms(folder: Path) -> None:
    config = LLMRecConfig(**{**QUICK, "encoder": str(folder)})
    # The pattern takes a longer training, in the test above.
    checks = [check for check in CHECKS if check != "learns-planted-pattern"]
    failed = [r for r in check_method(LLMRec, config, checks=checks) if r.status == "fail"]
    assert not failed, failed


def test_other_candidates_of_the_same_users_need_no_encoding(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    method, task, context = fitted(folder, tmp_path / "run")
    requests, _ = task.validation(task.subset(None))
    first = method.score(requests, context).values
    monkeypatch.setattr(method.model, "forward", lambda ids, mask: 1 / 0)
    swapped = replace(requests, candidates=requests.candidates[:, ::-1].copy())
    np.testing.assert_array_equal(method.score(swapped, context).values, first[:, ::-1])
