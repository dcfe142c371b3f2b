"""VQ-Rec: codes of titles, the code table, semi-synthetic negatives, and the alignment of codes."""

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
from bench.baselines.vq_rec.method import VQRec, VQRecConfig
from bench.baselines.vq_rec.model import (
    Alignment,
    VQRecModel,
    apply_alignment,
    fake_codes,
    flat_ids,
    released_alignment,
)
from bench.baselines.vq_rec.quantiser import Quantiser, fit_quantiser, k_means
from bench.errors import ConfigError
from bench.evaluation import metric_per_user, random_row
from bench.methods import Progress
from bench.testing import check_method, evaluate, make_context, planted_task

BLOCKS, CODES, SIZE, N_ITEMS = 4, 8, 16, 30
CPU = torch.device("cpu")


def small(**more: Any) -> VQRecConfig:
    base = {
        "hidden_size": SIZE,
        "inner_size": 24,
        "max_history": 12,
        "n_blocks": BLOCKS,
        "n_codes": CODES,
        "rotations": 2,
        "validation_users": 100,
    }
    return VQRecConfig(**(base | more))


def clustered(n: int, size: int = 24, seed: int = 0) -> np.ndarray:
    """Vectors with directions of unequal variance that no block of coordinates holds alone."""
    rng = np.random.default_rng(seed)
    turn = np.linalg.qr(np.random.default_rng(5).standard_normal((size, size)))[0]
    spread = np.geomspace(4, 0.1, size)
    return ((rng.standard_normal((n, size)) * spread) @ turn + 3).astype(np.float32)


def quantiser(vectors: np.ndarray, **more: Any) -> Quantiser:
    settings: dict[str, Any] = {"n_blocks": BLOCKS, "n_codes": CODES, "rotations": 5}
    settings |= {"points": 10_000, "rng": np.random.default_rng(0)}
    return fit_quantiser(vectors, **(settings | more))


def error(index: Quantiser, vectors: np.ndarray) -> float:
    return float(np.square(index.decode(index.encode(vectors)) - vectors).sum())


def codes_of_items(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, CODES, size=(N_ITEMS, BLOCKS))


def built(codes: np.ndarray, **more: Any) -> VQRec:
    method = VQRec(small(**more))
    with isolated_randomness(0):
        method.model = method.build(1, len(codes)).eval()
    method.set_content(method.encoder, flat_ids(codes, CODES))
    return method


# Quantisation


def test_codes_are_in_range_and_the_same_for_one_seed() -> None:
    vectors = clustered(200)
    codes = quantiser(vectors).encode(vectors)
    assert codes.shape == (200, BLOCKS)
    assert codes.min() >= 0
    assert codes.max() < CODES
    assert np.array_equal(codes, quantiser(vectors).encode(vectors))
    other = quantiser(vectors, rng=np.random.default_rng(1)).encode(vectors)
    assert not np.array_equal(codes, other)


def test_a_code_is_the_nearest_centroid_of_its_block() -> None:
    vectors = clustered(50)
    index = quantiser(vectors)
    rotated = ((vectors - index.mean) @ index.rotation).reshape(50, BLOCKS, 1, -1)
    distances = np.square(rotated - index.centroids).sum(axis=-1)
    assert np.array_equal(index.encode(vectors), distances.argmin(axis=-1))


def test_the_rotation_is_orthogonal_and_learning_it_pays() -> None:
    vectors, unseen = clustered(600), clustered(300, seed=1)
    learnt, random = quantiser(vectors, rotations=10), quantiser(vectors, rotations=0)
    np.testing.assert_allclose(learnt.rotation @ learnt.rotation.T, np.eye(24), atol=1e-4)
    assert error(learnt, vectors) < 0.95 * error(random, vectors)
    assert error(learnt, unseen) < 0.95 * error(random, unseen)


def test_decoding_beats_a_random_codebook() -> None:
    vectors = clustered(600)
    index = quantiser(vectors)
    rng = np.random.default_rng(3)
    made_up = Quantiser(
        index.mean,
        index.rotation,
        (rng.standard_normal(index.centroids.shape) * index.centroids.std()).astype(np.float32),
    )
    assert error(index, vectors) < 0.7 * error(made_up, vectors)
    variance = float(np.square(vectors - vectors.mean(axis=0)).sum())
    assert error(index, vectors) < 0.7 * variance


def test_k_means_goes_the_way_of_lloyds_algorithm() -> None:
    """Against scipy, from the same starting centroids, before rounding can part them."""
    from scipy.cluster.vq import kmeans2

    points = clustered(300, size=3)
    begin = points[:5].copy()
    for rounds in (1, 2, 5):
        ours = k_means(points, begin, iterations=rounds)
        theirs, _ = kmeans2(
            points.astype(np.float64), begin.astype(np.float64), iter=rounds, minit="matrix"
        )
        np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_fewer_vectors_than_centroids_still_have_codes() -> None:
    vectors = clustered(3)
    index = quantiser(vectors)
    assert len(np.unique(index.encode(vectors), axis=0)) == 3
    assert error(index, vectors) == pytest.approx(0, abs=1e-3)


def test_an_empty_cluster_moves_to_the_worst_served_point() -> None:
    points = np.array([[0.0], [0.1], [10.0], [20.0]], dtype=np.float32)
    begin = np.array([[0.0], [0.0], [0.0]], dtype=np.float32)
    found = np.sort(k_means(points, begin, iterations=20).ravel())
    np.testing.assert_allclose(found, [0.05, 10, 20], atol=1e-6)


def test_blocks_must_divide_the_vectors() -> None:
    with pytest.raises(ConfigError, match="24 numbers cannot be cut into 5 blocks"):
        quantiser(clustered(20), n_blocks=5)


# The code table


def test_flat_ids_stay_in_their_block_and_padding_is_zero() -> None:
    ids = flat_ids(codes_of_items(), CODES)
    assert ids.shape == (N_ITEMS + 1, BLOCKS)
    assert (ids[0] == 0).all()
    for block in range(BLOCKS):
        column = ids[1:, block]
        first = (CODES + 1) * block
        assert (column >= first + 1).all()
        assert (column <= first + CODES).all()


def test_an_item_is_the_mean_of_its_codes_vectors() -> None:
    codes = codes_of_items()
    codes[4] = codes[9]
    codes[5] = codes[9]
    codes[5, 2] = (codes[9, 2] + 1) % CODES
    method = built(codes)
    with torch.inference_mode():
        vectors = method.encoder.item_vectors()
        table = method.encoder.pq_code_embedding.weight  # type: ignore[union-attr]
        ids = flat_ids(codes, CODES)
        torch.testing.assert_close(vectors[7], table[torch.from_numpy(ids[8])].mean(dim=0))
        assert torch.equal(vectors[4], vectors[9])
        step = (table[ids[6, 2]] - table[ids[10, 2]]) / BLOCKS
        torch.testing.assert_close(vectors[5] - vectors[9], step, rtol=1e-4, atol=1e-6)
        read = method.encoder.input_vectors(torch.tensor([[5, 10], [6, 8]]))
    torch.testing.assert_close(read[0, 0], read[0, 1])
    torch.testing.assert_close(read[1, 1], vectors[7])


def test_a_step_on_one_item_moves_those_that_share_its_codes() -> None:
    codes = np.zeros((3, BLOCKS), dtype=np.int64)
    codes[1, :2] = 1  # shares two codes with item 0
    codes[2] = 2  # shares none
    model: Any = built(codes).encoder
    before = model.item_vectors().detach().clone()
    optimiser = torch.optim.SGD(model.parameters(), lr=1.0)
    model.item_vectors()[0].sum().backward()
    optimiser.step()
    moved = (model.item_vectors().detach() - before).abs().sum(dim=1)
    assert moved[2] == 0
    assert moved[1].item() == pytest.approx(moved[0].item() / 2, rel=1e-3)


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


def test_fake_negatives_keep_their_blocks_and_replace_three_quarters() -> None:
    ids = torch.from_numpy(flat_ids(np.zeros((4000, BLOCKS), dtype=np.int64), CODES)[1:])
    with isolated_randomness(0):
        fakes = fake_codes(ids, CODES, probability=0.75)
    first = torch.arange(BLOCKS) * (CODES + 1)
    assert (fakes > first).all()
    assert (fakes <= first + CODES).all()
    # A replacement may draw the code that was there.
    changed = (fakes != ids).float().mean().item()
    assert changed == pytest.approx(0.75 * (1 - 1 / CODES), abs=0.02)
    assert torch.equal(fake_codes(ids, CODES, probability=0.0), ids)


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
    method._pretrained(view, make_context(tmp_path / "run", adapters=adapters))
    index, content, ids = caught
    codes = index.encode(made_up_vectors(titles_read(view.sources)))
    assert len(np.unique(codes, axis=0)) > 60
    np.testing.assert_array_equal(content[ids], flat_ids(codes, CODES)[1:])


# Alignment


def aligned(seed: int = 0) -> Alignment:
    with isolated_randomness(seed):
        return Alignment(BLOCKS, CODES)


def test_the_matrices_have_one_choice_per_row_and_a_gradient() -> None:
    one = aligned()
    matrices = one.train()()
    torch.testing.assert_close(matrices.sum(dim=2), torch.ones(BLOCKS, CODES), rtol=0, atol=1e-4)
    assert set(matrices.detach().round(decimals=4).unique().abs().tolist()) == {0.0, 1.0}
    weights = torch.randn(matrices.shape, generator=torch.Generator().manual_seed(0))
    (matrices * weights).sum().backward()
    assert one.trans_matrix.grad.norm() > 1e-3  # type: ignore[union-attr]


def test_the_released_mapping_has_no_gradient_and_is_no_permutation() -> None:
    with isolated_randomness(0):
        matrices = released_alignment(BLOCKS, CODES)
    assert not matrices.requires_grad
    assert matrices.shape == (BLOCKS, CODES + 1, CODES + 1)
    assert set(matrices.unique().tolist()) == {0.0, 1.0}
    assert (matrices.sum(dim=2) == 1).all()
    assert (matrices.sum(dim=1) > 1).any()


def test_the_learnt_mapping_is_a_bijection_and_leaves_the_unused_rows() -> None:
    matrices = aligned().permutation()
    assert (matrices.sum(dim=1) == 1).all()
    assert (matrices.sum(dim=2) == 1).all()
    table = torch.arange(BLOCKS * (CODES + 1) * 2.0).view(-1, 2)
    moved = apply_alignment(matrices, table).view(BLOCKS, CODES + 1, 2)
    blocks = table.view(BLOCKS, CODES + 1, 2)
    assert torch.equal(moved[:, 0], blocks[:, 0])
    for block in range(BLOCKS):
        assert sorted(moved[block, 1:, 0].tolist()) == blocks[block, 1:, 0].tolist()
        target = matrices[block].argmax(dim=1)
        assert torch.equal(moved[block, 1:], blocks[block, 1:][target])


def test_a_permutation_that_pays_is_learnt() -> None:
    """Codes were shuffled within their blocks; the loss asks for the old vectors."""
    rng = np.random.default_rng(0)
    shuffles = torch.from_numpy(np.stack([rng.permutation(CODES) for _ in range(BLOCKS)]))
    table = torch.randn(BLOCKS * (CODES + 1), SIZE, generator=torch.Generator().manual_seed(0))
    wanted = table.view(BLOCKS, CODES + 1, SIZE)[:, 1:].gather(
        1, shuffles[:, :, None].expand(-1, -1, SIZE)
    )
    one = aligned().train()
    optimiser = torch.optim.Adam(one.parameters(), lr=0.1)
    with isolated_randomness(1):
        for _ in range(300):
            optimiser.zero_grad()
            moved = apply_alignment(one(), table).view(BLOCKS, CODES + 1, SIZE)[:, 1:]
            (moved - wanted).square().mean().backward()
            optimiser.step()
    right = (one.permutation().argmax(dim=2) == shuffles).float().mean().item()
    assert right > 0.9  # chance is 1/8


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
    "alignment_epochs": 2,
    "n_codes": 16,
}


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
