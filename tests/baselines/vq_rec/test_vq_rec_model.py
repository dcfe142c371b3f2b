"""VQ-Rec's code table, semi-synthetic negatives, and the alignment of codes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from vq_rec_parts import BLOCKS, CODES, N_ITEMS, SIZE, built, codes_of_items

from bench.baselines.training import isolated_randomness
from bench.baselines.vq_rec.model import (
    Alignment,
    apply_alignment,
    fake_codes,
    flat_ids,
    released_alignment,
)

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


# Negatives


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
