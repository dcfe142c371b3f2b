"""UniSRec as users run it: pre-training, checkpoints, resume, and a planted domain."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fitted_method import fitted
from killed_epoch import assert_resumes
from tiny_batch import three_groups
from tiny_group import made_up_vectors, titles_read, unlike_task
from torch.nn import functional
from unisrec_parts import N_ITEMS, built, small, texts

from bench.baselines.sequence_encoder import ENCODER_PARTS
from bench.baselines.training import TrainingReport, isolated_randomness
from bench.baselines.unisrec.augment import drop_items
from bench.baselines.unisrec.method import UniSRec, UniSRecConfig
from bench.baselines.unisrec.model import UniSRecModel
from bench.errors import ConfigError, MethodError
from bench.evaluation import metric_per_user, random_row
from bench.methods import Progress
from bench.testing import check_method, evaluate, make_context, planted_task

CPU = torch.device("cpu")

QUICK = {
    "epochs": 20,
    "batch_size": 128,
    "learning_rate": 3e-3,
    "pretrain_epochs": 8,
    "pretrain_batch_size": 128,
    "pretrain_learning_rate": 3e-3,
    "hidden_dropout_prob": 0.1,
    "attn_dropout_prob": 0.1,
    "n_experts": 2,
}


# Pre-training


class SameDraws:
    """A generator whose arrays are the same in every call; batches leave items out."""

    def random(self, shape: Any = None) -> Any:
        return 0.5 if shape is None else np.random.default_rng(7).random(shape)


def test_the_pretraining_loss_is_the_sum_of_the_two_contrasts() -> None:
    """On rows that are encoded in three groups, in another order, some with the same next item."""
    method = built(texts(N_ITEMS), mode="inductive", sequence_loss_weight=0.5)
    one, same = three_groups(N_ITEMS)
    draws: Any = SameDraws()
    other, left = drop_items(one.items, one.lengths, probability=0.2, rng=draws)
    assert (left < one.lengths).any()

    model: Any = method.encoder

    def vectors(items: np.ndarray, lengths: np.ndarray) -> torch.Tensor:
        read = model.input_vectors(torch.from_numpy(items))
        return functional.normalize(model.encode(read, torch.from_numpy(lengths)), dim=1)

    def contrast(keys: torch.Tensor) -> torch.Tensor:
        logits = (hidden @ keys.T / 0.07).masked_fill(same, -torch.inf)
        return functional.cross_entropy(logits, torch.arange(len(same)))

    with torch.inference_mode():
        found = method._contrast(model, one, N_ITEMS + 1, draws, CPU)
        hidden = vectors(one.items, one.lengths)
        goals = functional.normalize(model.item_vectors()[one.targets - 1], dim=1)
        expected = contrast(goals) + 0.5 * contrast(vectors(other, left))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_pretraining_reads_every_item_by_its_own_title(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sources of unlike sizes and titles; shortened titles are stood in for by capitals."""
    from bench.baselines import transferable
    from bench.baselines.unisrec import method as module

    caught: list[Any] = []

    def watched(self: UniSRec, model: Any, sequences: Any, loss: Any, *_: Any) -> TrainingReport:
        caught.extend((model.content.numpy(), 1 + sequences.items, loss(None, None)))
        return TrainingReport([], 0, "epochs")

    monkeypatch.setattr(transferable, "encode_texts", made_up_vectors)
    monkeypatch.setattr(module, "drop_words", lambda texts, **_: [text.upper() for text in texts])
    monkeypatch.setattr(UniSRec, "_contrast", lambda self, model, batch, n_ids, *_: n_ids)
    monkeypatch.setattr(UniSRec, "train_first_stage", watched)
    view = unlike_task().train_view(with_sources=True)
    adapters = UniSRec.adapter_store(tmp_path / "store")
    method = UniSRec(small(text_encoder=encoder))
    method.first_weights(view, make_context(tmp_path / "run", adapters=adapters))
    content, ids, n_ids = caught
    titles = titles_read(view.sources)
    np.testing.assert_array_equal(content[ids], made_up_vectors(titles))
    shortened = [title.upper() for title in titles]
    np.testing.assert_array_equal(content[ids + n_ids], made_up_vectors(shortened))
    assert not content[[0, n_ids]].any()


# Checkpoints and configuration


@pytest.mark.parametrize("freeze", [True, False])
def test_an_authors_checkpoint_is_taken_over_but_for_ids_and_frozen_if_wished(
    tmp_path: Path, encoder: str, freeze: bool
) -> None:
    task = planted_task(n_users=60)
    config = small(text_encoder=encoder, epochs=1, n_experts=3)
    with isolated_randomness(9):
        theirs = UniSRecModel(config, 7, 32, n_experts=3, adaptor_dropout=0.2, ids=True)
    file = tmp_path / "UniSRec.pth"
    torch.save({"config": config, "state_dict": theirs.state_dict()}, file)
    start = {"checkpoint": str(file), "freeze": freeze}
    method = UniSRec(small(text_encoder=encoder, epochs=1, n_experts=3, **start))
    assert not UniSRec.capabilities(method.config).needs_sources
    assert UniSRec.row_note(method.config) == "tiny"
    fitted(method, task, tmp_path)
    for name, value in method.encoder.state_dict().items():
        if freeze and name.startswith(ENCODER_PARTS):
            assert torch.equal(value, theirs.state_dict()[name]), name
        elif name.startswith(("moe_adaptor.experts", *ENCODER_PARTS)):
            other = theirs.state_dict()[name]
            assert value.shape == other.shape
            # One epoch moves it a little.
            assert 0 < (value - other).abs().max() < 0.05, name


def test_a_checkpoint_of_other_sizes_is_refused(tmp_path: Path, encoder: str) -> None:
    task = planted_task(n_users=60)
    with isolated_randomness(9):
        theirs = UniSRecModel(small(), 7, 768, n_experts=8, adaptor_dropout=0.2, ids=False)
    file = tmp_path / "UniSRec.pth"
    torch.save(theirs.state_dict(), file)
    method = UniSRec(small(text_encoder=encoder, checkpoint=str(file)))
    with pytest.raises(ConfigError, match=r"w_gate has shape \(768, 8\), expected \(32, 8\)"):
        fitted(method, task, tmp_path)


def test_a_missing_checkpoint_is_named_before_anything_is_read(encoder: str) -> None:
    with pytest.raises(ConfigError, match=r"checkpoint nowhere\.pth: no such file"):
        UniSRec.require(small(text_encoder=encoder, checkpoint="nowhere.pth"))


def test_a_checkpoint_and_pretraining_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="are two starts"):
        small(checkpoint="x.pth", pretrain="sources")


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({}, "source pre-trained, MiniLM"),
        ({"pretrain": "none"}, "no pre-training, MiniLM"),
        ({"checkpoint": "x", "text_encoder": "google-bert/bert-base-uncased"}, ""),
        ({"text_encoder": "/models/my-bert"}, "source pre-trained, my-bert"),
    ],
)
def test_the_row_says_what_stands_in_for_the_authors_start(
    settings: dict[str, Any], note: str
) -> None:
    assert UniSRec.row_note(UniSRecConfig(**settings)) == note


def test_saving_before_fitting_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(MethodError, match="nothing to save"):
        UniSRec(small()).save(tmp_path)


# The whole method


def test_pretraining_is_shared_by_targets_seeds_and_modes_and_learns(
    tmp_path: Path, encoder: str
) -> None:
    task = planted_task(n_sources=2)
    store = UniSRec.adapter_store(tmp_path / "store")
    trained: list[bool] = []
    store.watch(lambda used, _s, _c: trained.append(used[0].trained_now))
    # Frozen parts show whose first stage a run started from.
    quick = QUICK | {"freeze": True}
    config = small(text_encoder=encoder, **quick)

    first = fitted(UniSRec(config), task, tmp_path / "first", store=store)
    outcomes = evaluate(first, task.test(task.subset(None)), make_context(tmp_path / "e", task))
    assert metric_per_user(outcomes, "ndcg@5").mean() > random_row(30)["ndcg@5"] + 0.5
    curve = first.report.stages["pre-training"]["history"]
    assert curve[-1]["loss"] < curve[0]["loss"] - 0.5
    changed = small(text_encoder=encoder, **(quick | {"epochs": 1}), mode="inductive")
    other = fitted(UniSRec(changed), task, tmp_path / "other", store=store, seed=1)
    assert trained == [True, False]
    shared, again = first.encoder.state_dict(), other.encoder.state_dict()
    for name in shared:
        if name.startswith(ENCODER_PARTS):
            assert torch.equal(shared[name], again[name]), name


def test_a_killed_run_resumes_with_the_same_weights(tmp_path: Path, encoder: str) -> None:
    task = planted_task(n_users=40, n_sources=1)
    config = small(text_encoder=encoder, **(QUICK | {"epochs": 2, "pretrain_epochs": 2}))

    def fit(name: str, progress: Progress) -> torch.nn.Module:
        return fitted(UniSRec(config), task, tmp_path / name, progress=progress).encoder

    assert_resumes(fit, killed_in=4)


@pytest.mark.slow
@pytest.mark.parametrize("pretrain", ["sources", "none"])
def test_conformance(encoder: str, pretrain: str) -> None:
    config = small(text_encoder=encoder, pretrain=pretrain, **QUICK)
    failed = [r for r in check_method(UniSRec, config) if r.status == "fail"]
    assert not failed, "\n".join(f"{r.id}: {r.reason}" for r in failed)
