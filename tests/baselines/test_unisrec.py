"""UniSRec: the adaptor, the two views, the losses, and what pre-training hands over."""

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

from bench.baselines.sequence_encoder import ENCODER_PARTS
from bench.baselines.training import TrainingReport, isolated_randomness
from bench.baselines.unisrec.augment import drop_items, drop_words, pick_dropped_texts
from bench.baselines.unisrec.method import UniSRec, UniSRecConfig
from bench.baselines.unisrec.model import Adaptor, UniSRecModel
from bench.errors import ConfigError, MethodError
from bench.evaluation import metric_per_user, random_row
from bench.methods import Progress
from bench.testing import check_method, evaluate, make_context, planted_task

N_ITEMS, TEXT, SIZE = 30, 12, 16
CPU = torch.device("cpu")


def small(**more: Any) -> UniSRecConfig:
    base = {"hidden_size": SIZE, "inner_size": 24, "max_history": 12, "validation_users": 100}
    return UniSRecConfig(**(base | more))


def adaptor(**more: Any) -> Adaptor:
    with isolated_randomness(0):
        return Adaptor(TEXT, SIZE, **({"n_experts": 4, "dropout": 0.2} | more))


def texts(n: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, TEXT, generator=torch.Generator().manual_seed(seed))


def built(content: torch.Tensor, **more: Any) -> UniSRec:
    method = UniSRec(small(**more))
    with isolated_randomness(0):
        method.model = method.build(1, len(content), text_size=TEXT).eval()
    method.set_content(method.encoder, functional.pad(content, (0, 0, 1, 0)).numpy())
    return method


def scores(method: UniSRec, *rows: list[int]) -> torch.Tensor:
    width = max(map(len, rows))
    items = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    with torch.inference_mode():
        return method.score_all(items, lengths, torch.ones(len(rows), dtype=torch.int64))


# The adaptor


def test_the_adaptor_is_the_papers_mixture_of_whitening_experts() -> None:
    one, x = adaptor().eval(), texts(7)
    with torch.no_grad():
        for p in one.parameters():
            p.add_(0.1 * torch.randn(p.shape, generator=torch.Generator().manual_seed(p.numel())))
        expected = torch.zeros(7, SIZE)
        gates = (x @ one.w_gate).softmax(dim=1)
        for k, expert in enumerate(one.experts):
            expected += gates[:, k, None] * ((x - expert.bias) @ expert.lin.weight.T)
        torch.testing.assert_close(one(x), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(5,), (2, 3)])
def test_the_adaptor_keeps_leading_dimensions(shape: tuple[int, ...]) -> None:
    x = texts(int(np.prod(shape))).view(*shape, TEXT)
    assert adaptor()(x).shape == (*shape, SIZE)


def test_gates_sum_to_one_and_begin_uniform_without_noise() -> None:
    one, x = adaptor(), texts(6)
    torch.testing.assert_close(one.eval().gates(x), torch.full((6, 4), 0.25))
    noisy = one.train().gates(x)
    torch.testing.assert_close(noisy.sum(dim=1), torch.ones(6))
    assert noisy.std() > 0.01


def test_the_noise_of_the_gates_has_the_published_size() -> None:
    """At the start its standard deviation is softplus(0) + 0.01 for every logit."""
    one = adaptor(n_experts=2).train()
    with isolated_randomness(1):
        gates = one.gates(torch.zeros(20_000, TEXT))
    spread = (gates[:, 0] / gates[:, 1]).log().std().item() / 2**0.5
    assert spread == pytest.approx(np.log(2) + 0.01, rel=0.03)


def test_one_expert_is_an_affine_map() -> None:
    one = adaptor(n_experts=1).eval()
    with torch.no_grad():
        one.experts[0].bias.fill_(0.3)
        a, b = texts(5, 1), texts(5, 2)
        torch.testing.assert_close(one(0.25 * a + 0.75 * b), 0.25 * one(a) + 0.75 * one(b))


# Items and scores


def test_equal_texts_tie_without_ids_and_part_with_them() -> None:
    content = texts(N_ITEMS)
    content[4] = content[9]
    inductive = scores(built(content, mode="inductive"), [3, 7])
    assert inductive[0, 5] == inductive[0, 10]
    transductive = scores(built(content), [3, 7])
    assert (transductive[0, 5] - transductive[0, 10]).abs() > 1e-4


def test_an_item_that_came_later_is_scored_by_its_text() -> None:
    content = texts(N_ITEMS)
    method = built(content, mode="inductive")
    before = scores(method, [3, 7])
    wider = torch.cat((content, content[6:7]))
    method.set_content(method.encoder, functional.pad(wider, (0, 0, 1, 0)).numpy())
    after = scores(method, [3, 7])
    torch.testing.assert_close(after[:, :-1], before)
    torch.testing.assert_close(after[:, -1], before[:, 7])


@pytest.mark.parametrize("mode", ["transductive", "inductive"])
def test_scores_are_cosines(mode: str) -> None:
    method = built(texts(N_ITEMS), mode=mode)
    found = scores(method, [3, 7, 8], [2])
    model = method.encoder
    with torch.inference_mode():
        hidden = model.encode(model.input_vectors(torch.tensor([[3, 7, 8]])), torch.tensor([3]))
        expected = functional.cosine_similarity(hidden, model.item_vectors())
    torch.testing.assert_close(found[0, 1:], expected, rtol=0, atol=1e-5)
    assert found.abs().max() <= 1 + 1e-6


def test_texts_are_no_parameters_and_get_no_gradient() -> None:
    method = built(texts(N_ITEMS))
    model = method.encoder.train()
    (model.item_vectors().sum() + model.input_vectors(torch.tensor([[1, 2]])).sum()).backward()
    assert not model.content.requires_grad
    assert model.content.grad is None
    assert not any("content" in name for name in model.state_dict())


def test_parameters_have_the_released_names() -> None:
    names = set(built(texts(N_ITEMS)).encoder.state_dict())
    assert {
        "item_embedding.weight",
        "position_embedding.weight",
        "LayerNorm.weight",
        "moe_adaptor.w_gate",
        "moe_adaptor.w_noise",
        "moe_adaptor.experts.7.bias",
        "moe_adaptor.experts.7.lin.weight",
        "trm_encoder.layer.1.multi_head_attention.query.weight",
        "trm_encoder.layer.1.multi_head_attention.LayerNorm.bias",
        "trm_encoder.layer.1.feed_forward.dense_2.bias",
    } <= names


# The two views


def test_item_drop_keeps_order_the_first_item_and_the_padding_at_the_end() -> None:
    rng = np.random.default_rng(0)
    lengths = rng.integers(1, 12, size=400)
    items = np.where(np.arange(11) < lengths[:, None], np.arange(1, 12), 0)
    kept, left = drop_items(items, lengths, probability=0.2, rng=rng)
    assert kept.shape[1] == left.max()
    assert (left >= 1).all()
    assert (kept[:, 0] == 1).all()
    for row, n in zip(kept, left, strict=True):
        assert (np.diff(row[:n]) > 0).all()
        assert (row[n:] == 0).all()
    # All but the first of a row go with probability 0.2.
    assert (lengths - left).sum() / (lengths - 1).sum() == pytest.approx(0.2, abs=0.03)


def test_word_drop_points_a_fifth_of_the_items_to_their_shortened_titles() -> None:
    rng = np.random.default_rng(0)
    items = np.where(np.arange(20) < 15, rng.integers(1, N_ITEMS + 1, size=(300, 20)), 0)
    picked = pick_dropped_texts(items, N_ITEMS + 1, probability=0.2, rng=rng)
    assert (picked[:, 15:] == 0).all()
    assert ((picked == items) | (picked == items + N_ITEMS + 1)).all()
    assert (picked != items)[:, :15].mean() == pytest.approx(0.2, abs=0.02)


def test_shortened_titles_keep_their_order_and_at_least_a_word() -> None:
    rng = np.random.default_rng(0)
    long = " ".join(f"w{i}" for i in range(40))
    shortened = drop_words([long] * 200 + ["single", ""], probability=0.15, rng=rng)
    assert shortened[-2:] == ["single", ""]
    counts = []
    for text in shortened[:200]:
        numbers = [int(word[1:]) for word in text.split()]
        assert numbers == sorted(numbers)
        counts.append(len(numbers))
    assert np.mean(counts) / 40 == pytest.approx(0.85, abs=0.02)
    assert drop_words(["a b c"], probability=0.999, rng=rng) == ["a"]


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
    method._pretrained(view, make_context(tmp_path / "run", adapters=adapters))
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
