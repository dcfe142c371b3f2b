"""VQ-Rec as users run it: pre-training, codes of the target, checkpoints, resume, a planted domain."""

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
from vq_rec_parts import BLOCKS, CODES, N_ITEMS, QUICK, SIZE, built, codes_of_items, small

from bench.baselines.sequence_encoder import ENCODER_PARTS
from bench.baselines.training import TrainingReport, isolated_randomness
from bench.baselines.vq_rec.method import VQRec, VQRecConfig
from bench.baselines.vq_rec.model import VQRecModel, flat_ids
from bench.baselines.vq_rec.quantiser import Quantiser, fit_quantiser
from bench.evaluation import metric_per_user, random_row
from bench.methods import Progress
from bench.testing import check_method, evaluate, make_context, planted_task

CPU = torch.device("cpu")


def test_scores_are_cosines_and_equal_codes_tie() -> None:
    codes = codes_of_items()
    codes[4] = codes[9]
    method = built(codes)
    with torch.inference_mode():
        found = method.score_all(
            torch.tensor([[3, 7, 0]]), torch.tensor([2]), torch.ones(1, dtype=torch.int64)
        )
    assert found.shape == (1, N_ITEMS + 1)
    assert found.abs().max() <= 1 + 1e-6
    assert found[0, 5] == found[0, 10]


# Pre-training


def test_the_pretraining_loss_contrasts_with_the_batch_and_one_fake_per_row() -> None:
    """On rows that are encoded in three groups, in another order, some with the same next item."""
    method = built(codes_of_items(), fake_share=0.0)
    model: Any = method.encoder
    one, same = three_groups(N_ITEMS)
    with torch.inference_mode():
        found = method._contrast(model, one, CPU)
        vectors = model.input_vectors(torch.from_numpy(one.items))
        hidden = model.encode(vectors, torch.from_numpy(one.lengths))
        goals = functional.normalize(model.item_vectors()[one.targets - 1], dim=1)
        logits = functional.normalize(hidden, dim=1) @ goals.T / 0.07
        # A fake whose codes were all kept is the positive itself, once more.
        further = logits.diagonal()[:, None]
        logits = torch.cat((logits.masked_fill(same, -torch.inf), further), dim=1)
        expected = functional.cross_entropy(logits, torch.arange(len(same)))
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_pretraining_reads_every_item_by_the_codes_of_its_own_title(
    tmp_path: Path, encoder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With sources of unlike sizes and titles."""
    from bench.baselines import transferable
    from bench.baselines.vq_rec import method as module

    caught: list[Any] = []

    def kept(vectors: Any, **options: Any) -> Quantiser:
        caught.append(fit_quantiser(vectors, **options))
        return caught[0]

    def watched(self: VQRec, model: Any, sequences: Any, *_: Any) -> TrainingReport:
        caught.extend((model.content.numpy(), 1 + sequences.items))
        return TrainingReport([], 0, "epochs")

    monkeypatch.setattr(transferable, "encode_texts", made_up_vectors)
    monkeypatch.setattr(module, "fit_quantiser", kept)
    monkeypatch.setattr(VQRec, "train_first_stage", watched)
    view = unlike_task().train_view(with_sources=True)
    adapters = VQRec.adapter_store(tmp_path / "store")
    method = VQRec(small(text_encoder=encoder))
    method.first_weights(view, make_context(tmp_path / "run", adapters=adapters))
    index, content, ids = caught
    codes = index.encode(made_up_vectors(titles_read(view.sources)))
    assert len(np.unique(codes, axis=0)) > 60
    np.testing.assert_array_equal(content[ids], flat_ids(codes, CODES)[1:])


# The whole method


@pytest.mark.parametrize("alignment", ["learned", "shared", "released"])
def test_learns_a_planted_pattern_after_pretraining(
    tmp_path: Path, encoder: str, alignment: str
) -> None:
    task = planted_task(n_sources=1, n_users=200)
    config = small(text_encoder=encoder, alignment=alignment, freeze=True, **QUICK)
    method = fitted(VQRec(config), task, tmp_path)
    outcomes = evaluate(method, task.test(task.subset(None)), make_context(tmp_path / "e", task))
    assert metric_per_user(outcomes, "ndcg@5").mean() > random_row(30)["ndcg@5"] + 0.3
    stages = method.report.stages
    assert stages["codes"]["items"] == 60
    assert 20 < stages["codes"]["distinct"] <= 60
    assert ("alignment" in stages) == (alignment == "learned")
    # The encoder is the first stage's, untouched; the code table went on learning.
    (record,) = (tmp_path / "store").glob("vq-rec-*/model.safetensors")
    from safetensors.torch import load_file

    first = load_file(record)
    for name, value in method.encoder.state_dict().items():
        assert torch.equal(value, first[name]) == name.startswith(ENCODER_PARTS), name


@pytest.mark.parametrize("pretrain", ["none", "sources"])
def test_the_index_is_learnt_from_items_of_training_sequences_alone(
    tmp_path: Path, encoder: str, pretrain: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench.baselines import transferable
    from bench.baselines.vq_rec import method as module

    learnt_from: list[np.ndarray] = []

    def watched(vectors: Any, **options: Any) -> Quantiser:
        learnt_from.append(vectors)
        return fit_quantiser(vectors, **options)

    monkeypatch.setattr(transferable, "encode_texts", made_up_vectors)
    monkeypatch.setattr(module, "fit_quantiser", watched)
    task = unlike_task(n_users=6)
    view = task.train_view(with_sources=True)
    settings = {"pretrain": pretrain, "pretrain_epochs": 1, "epochs": 1, "alignment": "released"}
    method = fitted(VQRec(small(text_encoder=encoder, **settings)), task, tmp_path)
    groups = [[view.target]] if pretrain == "none" else [view.sources, [view.target]]
    assert len(learnt_from) == len(groups)
    for vectors, domains in zip(learnt_from, groups, strict=True):
        known = [
            domain.items.titles[item]
            for domain in domains
            for item in np.unique(domain.sequences.items)
        ]
        assert len(known) < sum(domain.n_items for domain in domains)
        np.testing.assert_array_equal(vectors, made_up_vectors(known))
    # The others are coded by the finished index.
    assert len(method.encoder.content) == 1 + view.target.n_items


def test_an_authors_checkpoint_is_loaded_and_aligned(tmp_path: Path, encoder: str) -> None:
    task = planted_task(n_users=60)
    with isolated_randomness(9):
        theirs = VQRecModel(small(), n_blocks=BLOCKS, n_codes=CODES)
    state = {**theirs.state_dict(), "trans_matrix": torch.randn(BLOCKS, CODES + 1, CODES + 1)}
    file = tmp_path / "VQRec.pth"
    torch.save({"state_dict": state}, file)
    changes = {"checkpoint": str(file), "epochs": 1, "learning_rate": 1e-6}
    method = VQRec(small(text_encoder=encoder, alignment_epochs=1, **changes))
    fitted(method, task, tmp_path)
    assert VQRec.row_note(method.config) == "tiny, corrected alignment"
    ours = method.encoder.state_dict()["pq_code_embedding.weight"].view(BLOCKS, CODES + 1, SIZE)
    their = state["pq_code_embedding.weight"].view(BLOCKS, CODES + 1, SIZE)
    for block in range(BLOCKS):
        # The same vectors in another order, but for one epoch of tiny steps.
        distances = torch.cdist(ours[block, 1:], their[block, 1:])
        assert sorted(distances.argmin(dim=1).tolist()) == list(range(CODES))
        assert distances.min(dim=1).values.max() < 1e-3


def test_a_checkpoint_cannot_share_a_codebook_that_it_does_not_hold() -> None:
    with pytest.raises(ValueError, match="alignment=shared needs the index"):
        small(checkpoint="x.pth", alignment="shared")


@pytest.mark.parametrize(
    ("settings", "note"),
    [
        ({}, "source pre-trained, MiniLM, corrected alignment"),
        ({"alignment": "released"}, "source pre-trained, MiniLM, released alignment"),
        ({"alignment": "shared"}, "source pre-trained, MiniLM, shared codebook"),
        ({"pretrain": "none"}, "no pre-training, MiniLM"),
    ],
)
def test_the_row_says_how_codes_were_aligned(settings: dict[str, Any], note: str) -> None:
    assert VQRec.row_note(VQRecConfig(**settings)) == note


@pytest.mark.parametrize(
    ("pretrain", "killed_in"),
    [("none", 2), ("sources", 4), ("sources", 6)],
    ids=["tuning", "alignment", "tuning-after-alignment"],
)
def test_a_killed_run_resumes_with_the_same_weights(
    tmp_path: Path, encoder: str, pretrain: str, killed_in: int
) -> None:
    """Two epochs each of pre-training, alignment and tuning; without the first, of tuning alone."""
    task = planted_task(n_users=40, n_sources=1)
    config = small(
        text_encoder=encoder, pretrain=pretrain, **(QUICK | {"epochs": 2, "pretrain_epochs": 2})
    )

    def fit(name: str, progress: Progress) -> torch.nn.Module:
        return fitted(VQRec(config), task, tmp_path / name, progress=progress).encoder

    assert_resumes(fit, killed_in=killed_in)


@pytest.mark.slow
@pytest.mark.parametrize("pretrain", ["sources", "none"])
def test_conformance(encoder: str, pretrain: str) -> None:
    config = small(text_encoder=encoder, pretrain=pretrain, **QUICK)
    failed = [r for r in check_method(VQRec, config) if r.status == "fail"]
    assert not failed, "\n".join(f"{r.id}: {r.reason}" for r in failed)
