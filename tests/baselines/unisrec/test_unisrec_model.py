"""UniSRec's adaptor, item vectors and scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional
from unisrec_parts import N_ITEMS, SIZE, TEXT, built, texts

from bench.baselines.training import isolated_randomness
from bench.baselines.unisrec.method import UniSRec
from bench.baselines.unisrec.model import Adaptor


def adaptor(**more: Any) -> Adaptor:
    with isolated_randomness(0):
        return Adaptor(TEXT, SIZE, **({"n_experts": 4, "dropout": 0.2} | more))


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
